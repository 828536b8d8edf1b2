"""The scene from straight above, every pixel at its coordinates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.transform import from_origin
from rasterio.windows import Window

from e2e3d_stages.splats.camera import Camera
from e2e3d_stages.splats.georeference import Georeference
from e2e3d_stages.splats.views import View, viewing_distance

Points = NDArray[np.floating[Any]]

TILE = 1_024
# On a side; beyond it pixels become larger.
MOST_PIXELS = 16_384
# The map's edges: between these quantiles of the points, and a margin of its longer side.
QUANTILES, MARGIN = (0.01, 0.99), 0.03
# The camera is so many of the map's longer sides above it. What is as high as a tenth of one moves by its 20,000th.
HEIGHT = 1_000.0
# A step in the scene's unit over which the map is straight.
STRAIGHT = 10.0
# What less of a pixel is covered is empty.
LEAST_ALPHA = 0.05


@dataclass(frozen=True)
class Map:
    """A grid over the ground, and the camera that sees it from straight above.

    :param west: of its upper left corner, in metres.
    :param north: so.
    :param step: a pixel's side in metres.
    :param pose: (4, 4) of the camera, which looks down with north up.
    :param focal: of the camera in px.
    :param centre: where its axis meets the map, in px.
    """

    west: float
    north: float
    step: float
    width: int
    height: int
    pose: NDArray[np.float64]
    focal: float
    centre: tuple[float, float]

    def tile(self, window: Window) -> Camera:
        """The same camera for a part of the map."""
        centre = (self.centre[0] - window.col_off, self.centre[1] - window.row_off)
        pose = torch.tensor(self.pose, dtype=torch.float32)
        return Camera(pose, (self.focal, self.focal), centre, int(window.width), int(window.height))

    def windows(self) -> list[Window]:
        """The parts that are drawn one after another."""
        return [
            Window(x, y, min(TILE, self.width - x), min(TILE, self.height - y))  # type: ignore[call-arg]
            for y in range(0, self.height, TILE)
            for x in range(0, self.width, TILE)
        ]


def map_of(views: list[View], points: Points, place: Georeference) -> Map:
    """The map of what the points cover, with pixels as large on the ground as the photos' are.

    :param views: entries of `views.json`.
    :param points: (N, 3) in the scene's frame.
    """
    middle = np.median(points, axis=0).astype(np.float64)
    base = place.utm(middle[None])[0]
    # Over a scene the way to the map is a turn and one scale.
    straight = (place.utm(middle + STRAIGHT * np.eye(3)) - base).T / STRAIGHT
    u, scales, v = np.linalg.svd(straight)
    turn, scale = u @ v, float(scales.mean())
    ground = place.utm(points)
    (west, south, low), (east, north, high) = np.quantile(ground, QUANTILES, axis=0)
    margin = MARGIN * max(east - west, north - south)
    west, south, east, north = west - margin, south - margin, east + margin, north + margin
    longest = max(east - west, north - south)
    pixel = float(np.median([viewing_distance(view, points) / view["fx"] for view in views]))
    step = max(pixel * scale, longest / MOST_PIXELS)
    width, height = int(np.ceil((east - west) / step)), int(np.ceil((north - south) / step))
    above = HEIGHT * longest / scale
    axis = np.array([(west + east) / 2, (south + north) / 2, (low + high) / 2])
    pose = np.eye(4)
    pose[:3, :3] = np.diag([1, -1, -1]) @ turn
    pose[:3, 3] = -pose[:3, :3] @ (middle + turn.T @ (axis - base) / scale) + [0, 0, above]
    centre = ((axis[0] - west) / step, (north - axis[1]) / step)
    return Map(float(west), float(north), step, width, height, pose, above * scale / step, centre)


def write_orthophoto(
    path: Path, grid: Map, place: Georeference, drawn: Iterable[tuple[Window, NDArray[Any], NDArray[Any]]]
) -> None:
    """A tiled, compressed GeoTIFF with transparency and overviews.

    :param drawn: for each window its colours (H, W, 3), multiplied by what is covered (H, W), both 0 to 1.
    """
    profile = {
        "driver": "GTiff",
        "width": grid.width,
        "height": grid.height,
        "count": 4,
        "dtype": "uint8",
        "crs": place.crs,
        "transform": from_origin(grid.west, grid.north, grid.step, grid.step),
        "compress": "deflate",
        "predictor": 2,
        "tiled": True,
        "photometric": "RGB",
        "BIGTIFF": "IF_SAFER",
    }
    with rasterio.open(path, "w", **profile) as file:
        file.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
        for window, colours, covered in drawn:
            opaque = np.where(covered < LEAST_ALPHA, 0, covered)
            clear = np.where(opaque[..., None] > 0, colours / np.maximum(covered, LEAST_ALPHA)[..., None], 0)
            both = np.concatenate([clear, opaque[..., None]], axis=-1)
            file.write((both.clip(0, 1) * 255).round().astype(np.uint8).transpose(2, 0, 1), window=window)
        levels = [2**level for level in range(1, 6) if min(grid.width, grid.height) >> level >= 64]
        file.build_overviews(levels, Resampling.average)
