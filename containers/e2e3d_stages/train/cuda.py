"""The rasteriser on an NVIDIA GPU: gsplat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gsplat
import torch
from torch import Tensor

from e2e3d_stages.train.rasterizer import DILATION, NEAR, Render

if TYPE_CHECKING:
    from e2e3d_stages.train.rasterizer import Camera


def render(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    sh: Tensor,
    camera: Camera,
    sh_degree: int,
    background: Tensor,
) -> Render:
    """See `rasterizer.render`."""
    (fx, fy), (cx, cy) = camera.focal, camera.centre
    intrinsics = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float32, device=means.device)
    image, alpha, info = gsplat.rasterization(
        means,
        quats,
        scales,
        opacities,
        sh,
        camera.pose.to(means.device)[None],
        intrinsics[None],
        camera.width,
        camera.height,
        near_plane=NEAR,
        eps2d=DILATION,
        sh_degree=sh_degree,
        packed=False,
        backgrounds=background[None],
        absgrad=True,
    )
    visible = (info["radii"][0] > 0).reshape(len(means), -1).all(-1)
    return Render(
        image=image[0],
        alpha=alpha[0, ..., 0].detach(),
        visible=visible,
        screen_gradient=lambda: info["means2d"].absgrad[0].sum(-1) * visible,
    )
