"""A tiny scene for smoke checks."""

from __future__ import annotations

import numpy as np

from e2e3d_stages.splats.gaussians import Gaussians


def cloud() -> Gaussians:
    """A cloud before a camera in the origin that looks along z."""
    random = np.random.default_rng(0)
    quats = random.normal(size=(256, 4))
    return Gaussians(
        means=(random.uniform(-1, 1, (256, 3)) + [0, 0, 4]).astype(np.float32),
        scales=np.full((256, 3), -2, np.float32),
        quats=(quats / np.linalg.norm(quats, axis=1, keepdims=True)).astype(np.float32),
        opacities=np.zeros(256, np.float32),
        sh=random.normal(size=(256, 4, 3), scale=0.3).astype(np.float32),
    )
