"""A picture of a surface: in its colours, and as its form alone."""

# The kernel's types are what numba infers.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from PIL import Image

from e2e3d_stages.mesh.surface import Surface
from e2e3d_stages.splats.camera import Camera

Floats = NDArray[np.float32]

WIDTH, HEIGHT = 960, 720
# From the middle, in radii; and how much of the picture it fills.
DISTANCE, FILLED = 3.0, 0.92
# Seen from above the horizon, as a person looks at a model on a table.
ELEVATION = math.radians(35)
# In the camera's frame, from over its left shoulder.
TO_LIGHT = np.array([-0.45, -0.65, -0.61], np.float32)


def draw(surface: Surface, colours: Floats, path: Path) -> None:
    """Write a JPEG of the whole surface, twice side by side.

    :param colours: (V, 3) sRGB in 0 to 1.
    """
    camera = _overview(surface.vertices)
    face = _faces_seen(surface, camera)
    pose = camera.pose.numpy()
    shade = 0.2 + 0.75 * np.abs(surface.normals() @ (pose[:3, :3].T @ TO_LIGHT))
    coloured, shaded = np.ones((2, HEIGHT, WIDTH, 3), np.float32)
    seen = face >= 0
    coloured[seen] = colours[surface.faces].mean(1)[face[seen]]
    shaded[seen] = shade[face[seen], None]
    both = np.concatenate([coloured, shaded], axis=1)
    Image.fromarray((both.clip(0, 1) * 255).round().astype(np.uint8)).save(path, quality=88)


def _overview(vertices: Floats) -> Camera:
    """A camera that has all of it in its picture, and little else."""
    low, high = np.quantile(vertices, (0.005, 0.995), axis=0)
    centre, radius = (low + high) / 2, float(np.linalg.norm(high - low)) / 2
    forward = np.array([0, math.sin(ELEVATION), math.cos(ELEVATION)])
    down = np.array([0, math.cos(ELEVATION), -math.sin(ELEVATION)])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([[1, 0, 0], down, forward])
    pose[:3, 3] = -pose[:3, :3] @ (centre - DISTANCE * radius * forward)
    local = vertices @ pose[:3, :3].T + pose[:3, 3]
    least, most = np.quantile(local[:, :2] / local[:, 2:], (0.005, 0.995), axis=0)
    size = np.array([WIDTH, HEIGHT])
    focal = float((FILLED * size / np.maximum(most - least, 1e-6)).min())
    x, y = size / 2 - focal * (least + most) / 2
    return Camera(torch.tensor(pose, dtype=torch.float32), (focal, focal), (float(x), float(y)), WIDTH, HEIGHT)


def _faces_seen(surface: Surface, camera: Camera) -> NDArray[np.int32]:
    """The nearest triangle in every pixel (H, W); -1 where there is none."""
    pose = camera.pose.numpy()
    local = surface.vertices @ pose[:3, :3].T + pose[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = (local[:, :2] / local[:, 2:] * camera.focal + camera.centre).astype(np.float32)
    nearness = np.zeros((camera.height, camera.width), np.float32)
    face = np.full((camera.height, camera.width), -1, np.int32)
    _draw(pixels, local[:, 2].astype(np.float32), surface.faces, nearness, face)
    return face


_compiled: Any = njit(cache=True, error_model="numpy")


@_compiled
def _draw(pixels, depth, faces, nearness, face):
    """Every triangle into the pixels whose centres it covers, by 1 / depth, which is linear on the screen."""
    height, width = face.shape
    for f in range(len(faces)):
        a, b, c = faces[f]
        if depth[a] <= 0 or depth[b] <= 0 or depth[c] <= 0:
            continue
        ax, ay, bx, by, cx, cy = pixels[a, 0], pixels[a, 1], pixels[b, 0], pixels[b, 1], pixels[c, 0], pixels[c, 1]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0:
            continue
        x0, x1 = max(math.ceil(min(ax, bx, cx) - 0.5), 0), min(math.floor(max(ax, bx, cx) - 0.5), width - 1)
        y0, y1 = max(math.ceil(min(ay, by, cy) - 0.5), 0), min(math.floor(max(ay, by, cy) - 0.5), height - 1)
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                u, v = x + 0.5, y + 0.5
                of_a = ((bx - u) * (cy - v) - (by - v) * (cx - u)) / area
                of_b = ((cx - u) * (ay - v) - (cy - v) * (ax - u)) / area
                of_c = 1 - of_a - of_b
                if of_a < 0 or of_b < 0 or of_c < 0:
                    continue
                near = of_a / depth[a] + of_b / depth[b] + of_c / depth[c]
                if near > nearness[y, x]:
                    nearness[y, x], face[y, x] = near, f
