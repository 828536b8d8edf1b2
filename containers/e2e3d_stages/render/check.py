"""Whether films and maps can be rendered here."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from e2e3d_stages.render.flight import HEIGHT, WIDTH, write_film
from e2e3d_stages.render.orthophoto import map_of, write_orthophoto
from e2e3d_stages.runtime.checks import versions
from e2e3d_stages.splats.georeference import Georeference
from e2e3d_stages.splats.rasterizer import Renderer
from e2e3d_stages.splats.sample import cloud


def check() -> str:
    """A frame, and a map of few pixels."""
    scene = cloud()
    view = {"fx": 50.0, "world_to_camera": np.eye(4).tolist()}
    down = [[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]]
    place = Georeference({"scene_to_enu": down, "origin": {"lat": 48.0, "lon": 11.0, "alt": 500.0}})
    grid = map_of([view], scene.means, place)
    with tempfile.TemporaryDirectory() as name:
        write_film(Path(name) / "flight.mp4", [np.zeros((HEIGHT, WIDTH, 3), np.uint8)])
        pictures = ((window, *Renderer(scene).picture(grid.tile(window))) for window in grid.windows())
        write_orthophoto(Path(name) / "orthophoto.tif", grid, place, pictures)
    return versions("av", "rasterio", "pyproj") + f", a map of {grid.width} x {grid.height} px"
