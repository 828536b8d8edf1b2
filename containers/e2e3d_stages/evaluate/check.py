"""Whether a scene can be measured here."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from e2e3d_stages.evaluate.pictures import save
from e2e3d_stages.runtime.checks import versions
from e2e3d_stages.splats import sog
from e2e3d_stages.splats.quality import psnr, ssim
from e2e3d_stages.splats.rasterizer import Renderer
from e2e3d_stages.splats.sample import cloud


def check() -> str:
    """A scene's picture, its figures, and the file that comes from the compress stage."""
    with tempfile.TemporaryDirectory() as name:
        # Without view-dependent colour, whose clustering is the compress stage's alone.
        scene = cloud()
        sog.encode(replace(scene, sh=scene.sh[:, :1]), Path(name) / "scene.sog")
        scene = sog.decode(Path(name) / "scene.sog")
        view = {"width": 64, "height": 64, "fx": 60, "fy": 60, "cx": 32, "cy": 32, "world_to_camera": np.eye(4)}
        picture = Renderer(scene).image(view, 64, 64)
        save(picture, Path(name) / "picture.jpg", 64)
    if psnr(picture, picture) < 100 or ssim(picture, picture) < 0.999:
        raise RuntimeError("a picture does not equal itself")
    return versions("torch", "pillow") + f", {len(scene)} Gaussians drawn"
