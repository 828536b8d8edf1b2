"""A camera, and sizes of pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DILATION = 0.3  # px², added to every 2D covariance, so that nothing is thinner than a pixel; web viewers do the same


NEAR = 0.2  # what is nearer to the camera is not drawn, in the scene's unit


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera; pixel (0, 0) has its centre at (0.5, 0.5), as in COLMAP.

    :param pose: (4, 4) float32, world to camera, OpenCV axes.
    :param focal: (fx, fy) in px.
    :param centre: (cx, cy) in px.
    """

    pose: Tensor
    focal: tuple[float, float]
    centre: tuple[float, float]
    width: int
    height: int

    @classmethod
    def from_view(cls, view: dict[str, Any], width: int, height: int) -> Camera:
        """The camera of an entry of `views.json`, for a picture of another size."""
        x, y = width / view["width"], height / view["height"]
        return cls(
            pose=torch.tensor(view["world_to_camera"], dtype=torch.float32),
            focal=(view["fx"] * x, view["fy"] * y),
            centre=(view["cx"] * x, view["cy"] * y),
            width=width,
            height=height,
        )

    @property
    def eye(self) -> NDArray[np.float32]:
        """Where it is in the world, (3,)."""
        pose = self.pose.numpy()
        eye: NDArray[np.float32] = -pose[:3, :3].T @ pose[:3, 3]
        return eye

    def resized(self, width: int, height: int) -> Camera:
        """The same camera for a picture of another size."""
        x, y = width / self.width, height / self.height
        focal, centre = (self.focal[0] * x, self.focal[1] * y), (self.centre[0] * x, self.centre[1] * y)
        return Camera(self.pose, focal, centre, width, height)

    def project(self, xyz: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """Pixels (n, 2) and depths (n,) of those points that lie in the picture, and which they are (n,)."""
        pose = self.pose.numpy()
        local = xyz @ pose[:3, :3].T + pose[:3, 3]
        ahead = np.nonzero(local[:, 2] > 1e-3)[0]
        local = local[ahead]
        pixels = (local[:, :2] / local[:, 2:] * self.focal + self.centre).astype(np.float32)
        inside = ((pixels >= 0) & (pixels < (self.width, self.height))).all(1)
        return pixels[inside], local[inside, 2], ahead[inside]


def fitted_size(width: int, height: int, long_side: int) -> tuple[int, int]:
    """Width and height in px after shrinking to a long side; never enlarged."""
    scale = min(1.0, long_side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))
