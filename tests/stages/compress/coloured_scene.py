"""Synthetic Gaussians whose colours follow their place, as a trained scene's do; for the tests and the benchmark."""

from __future__ import annotations

import numpy as np

from e2e3d_stages.splats.gaussians import Gaussians


def coloured_scene(count: int, degree: int, seed: int = 0, *, noise: float = 0.01, opacity: float = 1.0) -> Gaussians:
    """Gaussians in a flat cloud.

    :param noise: standard deviation of what in a colour does not follow the place.
    :param opacity: mean logit of the opacity.
    """
    random = np.random.default_rng(seed)
    means = random.normal(size=(count, 3)) * [4, 1, 4]
    quats = random.normal(size=(count, 4))
    bands = (degree + 1) ** 2
    waves = means @ (random.normal(size=(3, bands * 3)) * 0.15)
    sh = (np.sin(waves) * 0.3 + random.normal(size=waves.shape) * noise).reshape(count, bands, 3)
    sh[:, 0] *= 4
    return Gaussians(
        means=means.astype(np.float32),
        scales=random.normal(-3, 1, (count, 3)).astype(np.float32),
        quats=(quats / np.linalg.norm(quats, axis=1, keepdims=True)).astype(np.float32),
        opacities=random.normal(opacity, 2, count).astype(np.float32),
        sh=sh.astype(np.float32),
    )
