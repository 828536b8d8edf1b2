"""Whether scenes can be exported here."""

from __future__ import annotations

import tempfile
from pathlib import Path

from e2e3d_stages.export.points import points_of, write_laz
from e2e3d_stages.export.usd import write_usd
from e2e3d_stages.runtime.checks import versions
from e2e3d_stages.splats import splat_transform
from e2e3d_stages.splats.gaussians import write_ply
from e2e3d_stages.splats.georeference import Georeference
from e2e3d_stages.splats.sample import cloud


def check() -> str:
    """Every format that needs a library."""
    with tempfile.TemporaryDirectory() as name:
        folder, scene = Path(name), cloud()
        write_ply(folder / "scene.ply", scene)
        splat_transform.convert(folder / "scene.ply", folder / "scene.glb")
        write_usd(folder / "scene.usdc", scene, metric=True)
        down = [[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]]
        place = Georeference({"scene_to_enu": down, "origin": {"lat": 48.0, "lon": 11.0, "alt": 500.0}})
        write_laz(folder / "points.laz", points_of(scene), place)
    return versions("laspy", "lazrs", "pyproj", "usd-core")
