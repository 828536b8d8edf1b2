"""A smooth path of a camera through the places that photos were taken from, and its film."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d

from e2e3d_stages.splats.camera import Camera
from e2e3d_stages.splats.views import View, viewing_distance

Array = NDArray[np.float64]

SECONDS, FRAMES_PER_SECOND = 10, 24
WIDTH, HEIGHT = 1280, 720
# Of all photos the path keeps so many places; between them it is smooth.
MOST_PLACES = 12
# A person takes photos from here and from there: each place is drawn towards its neighbours by so many.
SMOOTHED_PLACES = 0.7


def path_through(views: list[View], points: NDArray[np.floating[Any]]) -> list[Camera]:
    """The cameras of the film, one a frame.

    It goes from each place to the nearest that it has not been at, looks at what the photos there look at, and starts
    and ends slowly.

    :param views: entries of `views.json`, at least one.
    :param points: (N, 3) the scene's points, at least one.
    """
    poses = np.array([view["world_to_camera"] for view in views])
    rotations = poses[:, :3, :3]
    eyes = -np.einsum("nji,nj->ni", rotations, poses[:, :3, 3])
    distance = np.array([viewing_distance(view, points) for view in views])
    targets = eyes + rotations[:, 2] * distance[:, None]
    way = _spread(eyes[order := _order(eyes)])
    table = np.concatenate([eyes[order][way], targets[order][way], rotations[order][way, 1]], axis=1)
    table = gaussian_filter1d(table, SMOOTHED_PLACES, axis=0, mode="nearest") if len(table) > 2 else table
    count = SECONDS * FRAMES_PER_SECOND
    moments = np.linspace(0, 1, count)
    rows = _between(table, moments**2 * (3 - 2 * moments))
    view = views[order[way[len(way) // 2]]]
    focal = float(view["fy"] / view["height"] * HEIGHT)
    return [_camera(row[:3], row[3:6], row[6:], focal) for row in rows]


def _order(eyes: Array) -> list[int]:
    """From the first on, always to the nearest that is left."""
    left, order = set(range(1, len(eyes))), [0]
    while left:
        last = eyes[order[-1]]
        nearest = min(left, key=lambda i: float(np.linalg.norm(eyes[i] - last)))
        left.remove(nearest)
        order.append(nearest)
    return order


def _spread(eyes: Array) -> list[int]:
    """Some of the places in their order, as evenly along the way as they are."""
    walked = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(eyes, axis=0), axis=1))])
    wanted = np.linspace(0, walked[-1], min(MOST_PLACES, len(eyes)))
    return sorted({int(np.abs(walked - each).argmin()) for each in wanted})


def _between(table: Array, moments: Array) -> Array:
    """Rows at each moment, 0 to 1, at a speed that is even along the first three columns."""
    steps = np.linalg.norm(np.diff(table[:, :3], axis=0), axis=1)
    at = np.concatenate([[0.0], np.cumsum(np.maximum(steps, 1e-6))])
    if len(table) < 2:
        return np.repeat(table, len(moments), axis=0)
    return np.asarray(CubicSpline(at, table)(moments * at[-1]))


def _camera(eye: Array, target: Array, down: Array, focal: float) -> Camera:
    forward = (target - eye) / max(float(np.linalg.norm(target - eye)), 1e-9)
    right = np.cross(down, forward)
    right /= max(float(np.linalg.norm(right)), 1e-9)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    pose[:3, 3] = -pose[:3, :3] @ eye
    return Camera(torch.tensor(pose, dtype=torch.float32), (focal, focal), (WIDTH / 2, HEIGHT / 2), WIDTH, HEIGHT)


def write_film(path: Path, pictures: Iterable[NDArray[np.uint8]]) -> None:
    """H.264 in MP4, as every browser plays it.

    :param pictures: (HEIGHT, WIDTH, 3) sRGB, one a frame.
    """
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as film:
        stream = film.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"crf": "20", "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = Fraction(1, FRAMES_PER_SECOND)
        for picture in pictures:
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                film.mux(packet)
        for packet in stream.encode(None):
            film.mux(packet)


def write_poster(path: Path, picture: NDArray[np.uint8]) -> None:
    """A picture of the film as JPEG."""
    Image.fromarray(picture).save(path, quality=90)
