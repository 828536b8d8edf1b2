"""The rasteriser and the image loss on the CPU: torch's autograd around the compiled kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import torch
from torch import Tensor

from e2e3d_stages.train import kernels, ssim_kernels
from e2e3d_stages.train.rasterizer import Render

if TYPE_CHECKING:
    from e2e3d_stages.train.rasterizer import Camera

# OpenMP's waiting threads spin and take the cores from whoever works; this layer's sleep.
numba.config.THREADING_LAYER = "workqueue"  # type: ignore[attr-defined]


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
    screen_gradient = torch.zeros(len(means))
    image, alpha, depth = _Rasterize.apply(  # type: ignore[no-untyped-call]
        means, quats, scales, opacities, sh, camera, sh_degree, background, screen_gradient
    )
    return Render(image=image, alpha=alpha, visible=depth > 0, screen_gradient=lambda: screen_gradient)


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        sh: Tensor,
        camera: Camera,
        sh_degree: int,
        background: Tensor,
        screen_gradient: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        gaussians = tuple(t.detach().contiguous().numpy() for t in (means, quats, scales, opacities, sh))
        intrinsics = np.array([*camera.focal, *camera.centre], np.float32)
        pose = camera.pose.numpy()
        eye = -pose[:3, :3].T @ pose[:3, 3]
        lens = (sh_degree, pose, eye, intrinsics, camera.width, camera.height)
        screen = np.empty((len(means), kernels.SCREEN), np.float32)
        depth = np.empty(len(means), np.float32)
        kernels.project(*gaussians, *lens, screen, depth)
        start, index = kernels.bin_tiles(screen, depth, camera.width, camera.height)
        image = np.empty((camera.height, camera.width, 3), np.float32)
        transmittance = np.empty((camera.height, camera.width), np.float32)
        drawn = np.empty(len(start) - 1, np.int64)
        threads = numba.get_num_threads()
        kernels.draw(screen, start, index, background.numpy(), threads, image, transmittance, drawn)
        ctx.state = (gaussians, lens, screen, depth, start, index, drawn, image, threads, screen_gradient)
        alpha, depths = torch.from_numpy(1 - transmittance), torch.from_numpy(depth)
        ctx.mark_non_differentiable(alpha, depths)
        return torch.from_numpy(image), alpha, depths

    @staticmethod
    def backward(ctx: Any, d_image: Tensor, *_: Tensor) -> tuple[Any, ...]:
        gaussians, lens, screen, depth, start, index, drawn, image, threads, screen_gradient = ctx.state
        moments = np.empty((threads, len(depth), kernels.MOMENTS), np.float32)
        kernels.draw_backward(screen, start, index, drawn, image, d_image.contiguous().numpy(), moments)
        gradients = tuple(np.zeros_like(array) for array in gaussians)
        kernels.project_backward(*gaussians, *lens, screen, depth, moments, *gradients, screen_gradient.numpy())
        return (*(torch.from_numpy(gradient) for gradient in gradients), None, None, None, None)


def photometric_loss(image: Tensor, photo: Tensor, ssim_weight: float) -> Tensor:
    """See `loss.photometric_loss`."""
    loss: Tensor = _PhotometricLoss.apply(image, photo, ssim_weight)  # type: ignore[no-untyped-call]
    return loss


class _PhotometricLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, photo: Tensor, ssim_weight: float) -> Tensor:
        rows = (len(image), -1)
        gradient = torch.empty_like(image)
        loss = ssim_kernels.loss_and_gradient(
            image.detach().contiguous().numpy().reshape(rows),
            photo.contiguous().numpy().reshape(rows),
            ssim_weight,
            numba.get_num_threads(),
            gradient.numpy().reshape(rows),
        )
        ctx.save_for_backward(gradient)
        return torch.tensor(loss, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * d_loss, None, None
