"""What training makes small: the difference between a render and its photo."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from e2e3d_stages.splats.ssim_window import SSIM_C1, SSIM_C2, SSIM_EVERY, SSIM_TAPS, ssim_window


def photometric_loss(
    image: Tensor, photo: Tensor, ssim_weight: float, counted: Tensor | None = None, phase: int = 0
) -> tuple[Tensor, Tensor]:
    """`(1 - w)` times the mean absolute difference plus `w` times (1 - SSIM) (Kerbl et al. 2023); and the mean square.

    SSIM is that of the windows around every second row, which is half the work.

    :param image: (H, W, 3), differentiable; its device decides how the loss is computed.
    :param photo: (H, W, 3).
    :param counted: (H, W) bool, the pixels that are compared; all when not given. Elsewhere both pictures count as the
        same, in the windows of SSIM too, and a pixel weighs as much as in a photo that counts as a whole.
    :param phase: whether those are the even rows or, with 1, the odd ones.
    :return: the loss, and the mean squared difference of the pixels that are compared, which has no gradient.
    """
    if counted is not None:
        image = torch.where(counted[..., None], image, photo)
    phase = min(phase, len(image) - 1)  # a picture of one row has no odd ones
    if image.is_cuda or image.shape[1] < 3:  # the kernels take eight values at once
        loss, square = torch_loss(image, photo, ssim_weight, phase)
    else:
        from e2e3d_stages.splats import cpu

        loss, square = cpu.photometric_loss(image, photo, ssim_weight, phase)
    return loss, square if counted is None else square / counted.float().mean()


def torch_loss(image: Tensor, photo: Tensor, ssim_weight: float, phase: int = 0) -> tuple[Tensor, Tensor]:
    """`photometric_loss` in torch, on any device."""
    found: tuple[Tensor, Tensor] = _PhotometricLoss.apply(  # type: ignore[no-untyped-call]
        image, photo, ssim_weight, phase
    )
    return found


class _PhotometricLoss(torch.autograd.Function):
    """Value and gradient at once, as in `ssim_kernels`: two blurs, where autograd would take four times the work."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, photo: Tensor, ssim_weight: float, phase: int) -> tuple[Tensor, Tensor]:
        x, y = image.permute(2, 0, 1).contiguous(), photo.permute(2, 0, 1).contiguous()
        ssim, (by_mean, by_square, by_product) = _similarity(*_blur(torch.stack([x, y, x * x, y * y, x * y])))
        difference = x - y
        slopes = torch.stack([by_mean, by_square, by_product])
        slopes.view(3, len(x), -1, x.shape[2])[:, :, 1 - phase :: SSIM_EVERY] = 0
        ssim = ssim[:, phase::SSIM_EVERY]
        slope = _blur(slopes)
        d_ssim = slope[0].addcmul_(x, slope[1], value=2).addcmul_(y, slope[2])
        gradient = difference.sign().mul_((1 - ssim_weight) / x.numel()).sub_(d_ssim, alpha=ssim_weight / ssim.numel())
        ctx.save_for_backward(gradient.permute(1, 2, 0))
        square = difference.square().mean()
        ctx.mark_non_differentiable(square)
        return (1 - ssim_weight) * difference.abs_().mean() + ssim_weight * (1 - ssim.mean()), square

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * d_loss, None, None, None


def _similarity(a: Tensor, b: Tensor, aa: Tensor, bb: Tensor, ab: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """SSIM of each value from the window's moments, and its derivatives by `a`, `aa` and `ab`."""
    product, squares = a * b, a * a + b * b
    a1, b1 = 2 * product + SSIM_C1, squares + SSIM_C1
    a2, b2 = 2 * (ab - product) + SSIM_C2, aa + bb - squares + SSIM_C2
    scale = 1 / (b1 * b2)
    ssim = a1 * a2 * scale
    by_mean = 2 * scale * (b * (a2 - a1) + ssim * a * (b1 - b2))
    return ssim, (by_mean, -ssim / b2, 2 * a1 * scale)


def _blur(planes: Tensor) -> Tensor:
    """The window over (P, C, H, W) planes, each by itself: its own transpose, so that it serves both ways.

    As one grouped convolution, which on CUDA runs in true float32; the variances would not survive less.
    """
    count, channels, height, width = planes.shape
    flat = planes.reshape(1, count * channels, height, width)
    across = _window(count * channels, planes.dtype, planes.device)
    flat = functional.conv2d(flat, across, padding=(0, SSIM_TAPS // 2), groups=len(across))
    flat = functional.conv2d(flat, across.transpose(2, 3), padding=(SSIM_TAPS // 2, 0), groups=len(across))
    return flat.view(planes.shape)


@lru_cache(maxsize=8)
def _window(planes: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.as_tensor(ssim_window(), dtype=dtype).to(device).expand(planes, 1, 1, SSIM_TAPS).contiguous()
