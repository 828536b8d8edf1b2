"""Depths of many views become one distance to the surface in every voxel of a box.

A truncated signed distance function: Curless and Levoy 1996, A volumetric method for building complex models from
range images.
"""

# The kernel's types are what numba infers.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from e2e3d_stages.splats.camera import Camera

Floats = NDArray[np.float32]

# The distance is kept up to so many voxels from the surface.
TRUNCATION_VOXELS = 4
# More would not fit into a small machine: 8 bytes each, and as much again when the surface is taken out.
MOST_VOXELS = 120_000_000
# The scene's box holds the points between these quantiles along each axis, and a margin of its sides.
QUANTILES = (0.02, 0.98)
MARGIN = 0.15


class Volume:
    """Voxels over a box.

    :param low: (3,) the box's corner with the least coordinates.
    :param high: (3,) the opposite one.
    :param voxels: along the longest side; fewer where the box would hold more than `MOST_VOXELS`.
    """

    def __init__(self, low: Floats, high: Floats, voxels: int) -> None:
        sides = np.maximum(high - low, 1e-6).astype(np.float64)
        self.step: float = max(float(sides.max()) / voxels, float(np.prod(sides) / MOST_VOXELS) ** (1 / 3))
        self.origin = np.asarray(low, np.float32)
        shape = tuple(math.ceil(side / self.step) + 1 for side in sides)
        self.distance = np.zeros(shape, np.float32)
        self.seen = np.zeros(shape, np.float32)

    @property
    def truncation(self) -> float:
        """How far from the surface a distance is kept, in the scene's unit."""
        return float(TRUNCATION_VOXELS * self.step)

    def fuse(self, depth: Floats, camera: Camera, cores: ThreadPoolExecutor, threads: int) -> None:
        """Add what a view sees.

        :param depth: (H, W) in the scene's unit, 0 where the view sees nothing.
        :param camera: of a picture of that size.
        """
        intrinsics = np.array([*camera.focal, *camera.centre], np.float32)
        step, truncation = np.float32(self.step), np.float32(self.truncation)
        pose = camera.pose.numpy()

        def share(part: int) -> None:
            _fuse(part, threads, depth, pose, intrinsics, self.origin, step, truncation, self.distance, self.seen)

        list(cores.map(share, range(threads)))


def box_of(points: Floats) -> tuple[Floats, Floats]:
    """The corners of the box around a scene's points, but not around those that lie far off.

    :param points: (N, 3).
    """
    low, high = np.quantile(points, QUANTILES, axis=0).astype(np.float32)
    margin = MARGIN * (high - low).max()
    return low - margin, high + margin


_compiled: Any = njit(cache=True, fastmath=True, error_model="numpy", nogil=True)


@_compiled
def _fuse(part, parts, depth, pose, intrinsics, origin, step, truncation, distance, seen):
    """A thread's share of the voxels."""
    height, width = depth.shape
    fx, fy, cx, cy = intrinsics
    count_x, count_y, count_z = distance.shape
    for i in range(part, count_x, parts):
        for j in range(count_y):
            x, y, z = origin[0] + i * step, origin[1] + j * step, origin[2]
            u = pose[0, 0] * x + pose[0, 1] * y + pose[0, 2] * z + pose[0, 3]
            v = pose[1, 0] * x + pose[1, 1] * y + pose[1, 2] * z + pose[1, 3]
            w = pose[2, 0] * x + pose[2, 1] * y + pose[2, 2] * z + pose[2, 3]
            for k in range(count_z):
                ahead = w + pose[2, 2] * step * k
                if ahead <= 0:
                    continue
                column = math.floor(fx * (u + pose[0, 2] * step * k) / ahead + cx)
                row = math.floor(fy * (v + pose[1, 2] * step * k) / ahead + cy)
                if column < 0 or row < 0 or column >= width or row >= height:
                    continue
                there = depth[int(row), int(column)]
                if there == 0 or there - ahead < -truncation:
                    continue
                before = seen[i, j, k]
                value = min((there - ahead) / truncation, np.float32(1))
                distance[i, j, k] = (distance[i, j, k] * before + value) / (before + 1)
                seen[i, j, k] = before + 1
