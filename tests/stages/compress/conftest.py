"""Synthetic Gaussians whose colours follow their place, as a trained scene's do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from e2e3d_stages.gaussians import Gaussians

MakeGaussians = Callable[..., Gaussians]


@pytest.fixture(scope="session")
def make_gaussians() -> MakeGaussians:
    def make(count: int, degree: int, seed: int = 0) -> Gaussians:
        random = np.random.default_rng(seed)
        means = random.normal(size=(count, 3)) * [4, 1, 4]
        quats = random.normal(size=(count, 4))
        bands = (degree + 1) ** 2
        waves = means @ (random.normal(size=(3, bands * 3)) * 0.15)
        sh = (np.sin(waves) * 0.3 + random.normal(size=waves.shape) * 0.01).reshape(count, bands, 3)
        sh[:, 0] *= 4
        return Gaussians(
            means=means.astype(np.float32),
            scales=random.normal(-3, 1, (count, 3)).astype(np.float32),
            quats=(quats / np.linalg.norm(quats, axis=1, keepdims=True)).astype(np.float32),
            opacities=random.normal(1, 2, count).astype(np.float32),
            sh=sh.astype(np.float32),
        )

    return make
