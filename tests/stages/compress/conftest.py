"""Synthetic Gaussians whose colours follow their place, as a trained scene's do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from coloured_scene import coloured_scene

from e2e3d_stages.splats.gaussians import Gaussians

MakeGaussians = Callable[..., Gaussians]


@pytest.fixture(scope="session")
def make_gaussians() -> MakeGaussians:
    return coloured_scene
