"""SSIM's window and constants (Wang et al. 2004)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SSIM_TAPS = 11
SSIM_SIGMA = 1.5
SSIM_EVERY = 2  # rows, from one row of windows to the next where SSIM is trained on
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2


def ssim_window() -> NDArray[np.float32]:
    """The standard one-dimensional window: 11 taps of a Gaussian with sigma 1.5, sum 1."""
    taps = np.exp(-0.5 * ((np.arange(SSIM_TAPS) - SSIM_TAPS // 2) / SSIM_SIGMA) ** 2)
    window: NDArray[np.float32] = (taps / taps.sum()).astype(np.float32)
    return window
