"""The rasteriser on an NVIDIA GPU: gsplat's kernels, called one by one.

`gsplat.rasterization` would invert the pose on the GPU and wait for it. What is left to wait for is the number of pairs
of a tile and a Gaussian, which gsplat allocates memory by.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import gsplat
import torch
from torch import Tensor

from e2e3d_stages.splats.camera import DILATION, NEAR
from e2e3d_stages.splats.rendering import Render, Splats

if TYPE_CHECKING:
    from e2e3d_stages.splats.camera import Camera
    from e2e3d_stages.splats.params import RenderParams

TILE = 16


def render(splats: Splats, camera: Camera, params: RenderParams, background: Tensor) -> Render:
    """See `rasterizer.render`."""
    means, quats, scales, opacities, sh = splats
    pose, intrinsics, eye = _lens(camera, means.device)
    width, height = camera.width, camera.height
    radii, centres, depths, conics, _ = gsplat.fully_fused_projection(
        means, None, quats, scales, pose, intrinsics, width, height,
        eps2d=DILATION, near_plane=NEAR, opacities=opacities,
    )  # fmt: skip
    visible = (radii > 0).all(-1)
    colours = gsplat.spherical_harmonics(params.sh_degree, (means - eye)[None], sh[None], masks=visible)
    columns, rows = -(-width // TILE), -(-height // TILE)
    _, pairs, order = gsplat.isect_tiles(centres, radii, depths, TILE, columns, rows)
    image, alpha = gsplat.rasterize_to_pixels(
        centres, conics, (colours + 0.5).clamp_min(0), opacities[None], width, height, TILE,
        gsplat.isect_offset_encode(pairs, 1, columns, rows), order, backgrounds=background[None], absgrad=True,
    )  # fmt: skip
    return Render(
        image=image[0],
        alpha=alpha[0, ..., 0].detach(),
        visible=visible[0],
        screen_gradient=lambda: centres.absgrad[0].sum(-1),
    )


@lru_cache(maxsize=1_024)
def _lens(camera: Camera, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Pose (1, 4, 4), intrinsics (1, 3, 3) and eye (3,) on the GPU: a copy each step would wait for it."""
    (fx, fy), (cx, cy) = camera.focal, camera.centre
    intrinsics = torch.tensor([[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]], dtype=torch.float32)
    eye = -camera.pose[:3, :3].T @ camera.pose[:3, 3]
    return camera.pose[None].to(device), intrinsics.to(device), eye.to(device)
