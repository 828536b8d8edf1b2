"""What training makes small: the difference between a render and its photo."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from e2e3d_stages.metrics import SSIM_C1, SSIM_C2, SSIM_TAPS, ssim_window


def photometric_loss(image: Tensor, photo: Tensor, ssim_weight: float) -> Tensor:
    """`(1 - w)` times the mean absolute difference plus `w` times (1 - SSIM) (Kerbl et al. 2023).

    :param image: (H, W, 3), differentiable; its device decides how the loss is computed.
    :param photo: (H, W, 3).
    """
    if image.is_cuda:
        l1 = (image - photo).abs().mean()
        return (1 - ssim_weight) * l1 + ssim_weight * (1 - structural_similarity(image, photo))
    from e2e3d_stages.train import cpu

    return cpu.photometric_loss(image, photo, ssim_weight)


def structural_similarity(image: Tensor, photo: Tensor) -> Tensor:
    """Mean SSIM of (H, W, 3) pictures in plain torch; beyond the picture everything counts as 0."""
    x, y = (t.permute(2, 0, 1)[:, None] for t in (image, photo))
    window = torch.as_tensor(ssim_window(), dtype=image.dtype, device=image.device)

    def blur(t: Tensor) -> Tensor:
        t = functional.conv2d(t, window.view(1, 1, 1, -1), padding=(0, SSIM_TAPS // 2))
        return functional.conv2d(t, window.view(1, 1, -1, 1), padding=(SSIM_TAPS // 2, 0))

    mean_x, mean_y = blur(x), blur(y)
    covariance = blur(x * y) - mean_x * mean_y
    variances = blur(x * x) + blur(y * y) - mean_x**2 - mean_y**2
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x**2 + mean_y**2 + SSIM_C1)
    return (luminance * (2 * covariance + SSIM_C2) / (variances + SSIM_C2)).mean()
