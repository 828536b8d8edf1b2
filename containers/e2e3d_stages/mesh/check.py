"""Whether a mesh can be made here."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from e2e3d_stages.mesh.fusion import Volume
from e2e3d_stages.mesh.surface import surface_of
from e2e3d_stages.runtime.checks import versions
from e2e3d_stages.splats.camera import Camera
from e2e3d_stages.splats.rasterizer import Renderer
from e2e3d_stages.splats.sample import cloud


def check() -> str:
    """A wall that two views see, and a depth of the sample's Gaussians."""
    camera = Camera(torch.eye(4), focal=(60.0, 60.0), centre=(32.0, 32.0), width=64, height=64)
    Renderer(cloud()).depth(camera)
    volume = Volume(np.array([-1, -1, 1], np.float32), np.array([1, 1, 3], np.float32), 16)
    with ThreadPoolExecutor(1) as cores:
        for _ in range(2):
            volume.fuse(np.full((64, 64), 2, np.float32), camera, cores, 1)
    surface = surface_of(volume, 100)
    if not np.allclose(surface.vertices[:, 2], 2, atol=0.1):
        raise RuntimeError("a wall's mesh is not where the wall is")
    return versions("scikit-image", "fast-simplification") + f", {len(surface.faces)} triangles"
