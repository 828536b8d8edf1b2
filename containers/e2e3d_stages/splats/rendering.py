"""What every rasteriser takes and gives, beside a camera and `params.RenderParams`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Splats(NamedTuple):
    """Gaussians as they are drawn, on one device.

    :param means: (N, 3) centres.
    :param quats: (N, 4) rotations, w first, any length.
    :param scales: (N, 3) standard deviations.
    :param opacities: (N,) in 0 to 1.
    :param sh: (N, K, 3) spherical harmonics.
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    sh: Tensor


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
