"""Renders the scene: a film of a flight, and a map."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from e2e3d_stages.render.flight import path_through, write_film, write_poster
from e2e3d_stages.render.orthophoto import Map, map_of, write_orthophoto
from e2e3d_stages.render.params import Params
from e2e3d_stages.render.spec import FILM, POSTER
from e2e3d_stages.runtime.context import StageContext
from e2e3d_stages.splats.camera import Camera
from e2e3d_stages.splats.cropping import published_box, published_scene
from e2e3d_stages.splats.gaussians import read_ply
from e2e3d_stages.splats.georeference import Georeference
from e2e3d_stages.splats.rasterizer import Renderer, use_threads
from e2e3d_stages.splats.views import views_and_points

# The film's frame that stands for it.
POSTER_AT = 0.4


def run(context: StageContext) -> dict[str, Any]:
    """Write what was asked for.

    :returns: the number of frames; the orthophoto's pixel in metres, and its coordinate system; None for what was not
        written.
    :raises StageError: when there is no photo with a known camera.
    """
    params: Params = context.params
    use_threads(context.threads)
    sfm = context.inputs["sfm"].folder
    views, points = views_and_points(sfm)
    points = points[published_box(context.inputs).holds(points)]
    renderer = Renderer(read_ply(published_scene(context.inputs)))
    found: dict[str, Any] = {"frames": None, "ground_pixel": None, "coordinate_system": None}
    if params.film:
        cameras = path_through(views, points)
        write_film(context.output / FILM, _filmed(context, renderer, cameras))
        poster = cameras[int(POSTER_AT * len(cameras))]
        write_poster(context.output / POSTER, _eight_bits(renderer.picture(poster)[0]))
        found["frames"] = len(cameras)
    if params.orthophoto:
        if place := Georeference.of(sfm):
            grid = map_of(views, points, place)
            write_orthophoto(context.output / "orthophoto.tif", grid, place, _mapped(context, renderer, grid))
            found |= {"ground_pixel": round(grid.step, 4), "coordinate_system": place.crs.name}
        else:
            context.warn(
                "no_orthophoto",
                "There is no orthophoto: the photos' GPS did not say where the scene lies.",
                "Give photos with GPS, or positions in metres beside them; a scene without them is on no map.",
            )
    return found


def _filmed(context: StageContext, renderer: Renderer, cameras: list[Camera]) -> Iterator[NDArray[np.uint8]]:
    for done, camera in enumerate(cameras):
        context.check_stop()
        context.progress(done, len(cameras), "frames", phase="filming")
        yield _eight_bits(renderer.picture(camera)[0])
    context.progress(len(cameras), len(cameras), "frames", phase="filming")


def _mapped(
    context: StageContext, renderer: Renderer, grid: Map
) -> Iterator[tuple[Window, NDArray[np.float32], NDArray[np.float32]]]:
    windows = grid.windows()
    for done, window in enumerate(windows):
        context.check_stop()
        context.progress(done, len(windows), "tiles", phase="drawing the map")
        yield (window, *renderer.picture(grid.tile(window)))
    context.progress(len(windows), len(windows), "tiles", phase="drawing the map")


def _eight_bits(picture: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.asarray((picture.clip(0, 1) * 255).round(), np.uint8)
