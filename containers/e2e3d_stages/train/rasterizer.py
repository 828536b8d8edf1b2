"""The one rasteriser: Gaussians in, picture out, differentiable; gsplat on CUDA, our own kernel on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from e2e3d_stages.gaussians import Gaussians

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

    def resized(self, width: int, height: int) -> Camera:
        """The same camera for a picture of another size."""
        x, y = width / self.width, height / self.height
        focal, centre = (self.focal[0] * x, self.focal[1] * y), (self.centre[0] * x, self.centre[1] * y)
        return Camera(self.pose, focal, centre, width, height)


@dataclass(frozen=True)
class Render:
    """A picture and what densification wants to know about it.

    :param image: (H, W, 3), differentiable.
    :param alpha: (H, W), how much of each pixel is covered.
    :param visible: (N,) bool, the Gaussians on the screen.
    :param screen_gradient: after `backward()`: (N,), the summed absolute gradient of each Gaussian's centre in px
        (AbsGS, Ye et al. 2024); 0 where it was not visible.
    """

    image: Tensor
    alpha: Tensor
    visible: Tensor
    screen_gradient: Callable[[], Tensor]


def render(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    sh: Tensor,
    camera: Camera,
    *,
    sh_degree: int,
    background: Tensor,
) -> Render:
    """Draw Gaussians; the device of `means` decides how.

    :param means: (N, 3) centres.
    :param quats: (N, 4) rotations, w first, any length.
    :param scales: (N, 3) standard deviations.
    :param opacities: (N,) in 0 to 1.
    :param sh: (N, K, 3) spherical harmonics.
    :param sh_degree: how many bands to use, (sh_degree + 1)² <= K.
    :param background: (3,) colour behind everything.
    """
    if means.is_cuda:
        from e2e3d_stages.train import cuda as backend
    else:
        from e2e3d_stages.train import cpu as backend  # type: ignore[no-redef]
    return backend.render(means, quats, scales, opacities, sh, camera, sh_degree, background)


def best_device() -> torch.device:
    """CUDA where there is a GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Renderer:
    """Draws a trained scene from any view, on the best device."""

    def __init__(self, gaussians: Gaussians) -> None:
        device = best_device()
        self._means = torch.as_tensor(gaussians.means, device=device)
        self._quats = torch.as_tensor(gaussians.quats, device=device)
        self._scales = torch.as_tensor(gaussians.scales, device=device).exp()
        self._opacities = torch.as_tensor(gaussians.opacities, device=device).sigmoid()
        self._sh = torch.as_tensor(gaussians.sh, device=device)
        self._sh_degree = gaussians.sh_degree
        self._background = torch.zeros(3, device=device)

    @torch.no_grad()
    def image(self, view: dict[str, Any], width: int, height: int) -> np.ndarray:
        """What an entry of `views.json` sees: (height, width, 3) float32 in 0 to 1."""
        result = render(
            self._means, self._quats, self._scales, self._opacities, self._sh,
            Camera.from_view(view, width, height), sh_degree=self._sh_degree, background=self._background,
        )  # fmt: skip
        return result.image.clamp(0, 1).cpu().numpy()
