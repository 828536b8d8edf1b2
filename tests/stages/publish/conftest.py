"""A small made-up scene: a coloured ball over a grey floor, and cameras around it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2e3d_stages.gaussians import Gaussians


def look_at(position: list[float], target: list[float], name: str = "a.jpg", order: int = 0) -> dict[str, Any]:
    """An entry of `views.json`: a camera that looks at a point, its picture upright (up = -y)."""
    eye = np.array(position)
    z = np.array(target) - eye
    z /= np.linalg.norm(z)
    x = np.cross([0.0, 1.0, 0.0], z)
    x /= np.linalg.norm(x)
    rotation = np.stack([x, np.cross(z, x), z])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ eye
    size = {"width": 400, "height": 300, "fx": 350.0, "fy": 350.0, "cx": 200.0, "cy": 150.0}
    return {"name": name, "order": order, **size, "world_to_camera": pose.tolist()}


def ball_on_floor(count: int = 3000) -> Gaussians:
    """Opaque Gaussians: the ball's upper half red, its lower half blue; the floor grey; up = -y."""
    random = np.random.default_rng(0)
    ball = random.normal(size=(count, 3))
    ball /= np.linalg.norm(ball, axis=1, keepdims=True)
    floor = np.column_stack([random.uniform(-3, 3, count), np.full(count, 1.0), random.uniform(-3, 3, count)])
    shade = 0.6 + 0.4 * random.random((count, 1))
    red, blue = np.array([0.9, 0.2, 0.15]), np.array([0.15, 0.3, 0.9])
    colour = np.vstack([np.where(ball[:, 1:2] < 0, red, blue) * shade, np.array([0.5, 0.5, 0.45]) * shade])
    means = np.vstack([ball, floor]).astype(np.float32)
    return Gaussians(
        means=means,
        scales=np.full((2 * count, 3), np.log(0.05), np.float32),
        quats=np.tile(np.array([1, 0, 0, 0], np.float32), (2 * count, 1)),
        opacities=np.full(2 * count, 3.0, np.float32),
        sh=((colour - 0.5) / 0.28209479)[:, None].astype(np.float32),
    )


@pytest.fixture(scope="session")
def camera() -> Callable[..., dict[str, Any]]:
    """Makes entries of `views.json`: camera(position, target, name, order)."""
    return look_at


@pytest.fixture(scope="session")
def scene_sog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made-up scene as `compress` writes it."""
    from e2e3d_stages.compress import sog

    path = tmp_path_factory.mktemp("scene") / "scene.sog"
    sog.encode(ball_on_floor(), path)
    return path
