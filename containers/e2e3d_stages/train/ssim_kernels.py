"""The image loss of the CPU path, value and gradient in one go, compiled by numba.

Rows are taken flat, 3 W values of interleaved colours, so that both passes of the window run along the vectoriser's
lanes. Beyond the picture everything counts as 0, as in the original 3D Gaussian splatting.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from e2e3d_stages.metrics import SSIM_C1, SSIM_C2, SSIM_TAPS, ssim_window

_WINDOW = ssim_window()
_HALF = SSIM_TAPS // 2
_C1, _C2 = np.float32(SSIM_C1), np.float32(SSIM_C2)
_TWO = np.float32(2)

_compiled = njit(cache=True, fastmath=True, error_model="numpy")
_parallel = njit(cache=True, fastmath=True, error_model="numpy", parallel=True)


@_compiled
def _along(line, out):
    """Window along a row; `line` has 5 pixels of zeros on both sides that `out` has not."""
    for i in range(len(out)):
        total = np.float32(0)
        for tap in range(SSIM_TAPS):
            total += _WINDOW[tap] * line[i + 3 * tap]
        out[i] = total


@_compiled
def _across(plane, y, out):
    """Window across the rows, at row y."""
    out[:] = 0
    for tap in range(SSIM_TAPS):
        row = y + tap - _HALF
        if 0 <= row < len(plane):
            weight, source = _WINDOW[tap], plane[row]
            for i in range(len(out)):
                out[i] += weight * source[i]


@_parallel
def loss_and_gradient(image, photo, ssim_weight, threads, gradient):
    """`(1 - w)` times the mean absolute difference plus `w` times (1 - SSIM); fills `gradient`.

    :param image, photo, gradient: (H, 3 W) float32.
    """
    height, width = image.shape
    pad = 3 * _HALF
    blurred = np.empty((5, height, width), np.float32)
    for thread in prange(threads):
        line = np.zeros((5, width + 2 * pad), np.float32)
        for y in range(height * thread // threads, height * (thread + 1) // threads):
            for i in range(width):
                a, b = image[y, i], photo[y, i]
                line[0, pad + i], line[1, pad + i] = a, b
                line[2, pad + i], line[3, pad + i], line[4, pad + i] = a * a, b * b, a * b
            for k in range(5):
                _along(line[k], blurred[k, y])
    slope = np.empty((3, height, width), np.float32)
    totals = np.zeros((threads, 2), np.float64)
    for thread in prange(threads):
        at = np.empty((5, width), np.float32)
        line = np.zeros((3, width + 2 * pad), np.float32)
        for y in range(height * thread // threads, height * (thread + 1) // threads):
            for k in range(5):
                _across(blurred[k], y, at[k])
            total = np.float32(0)
            for i in range(width):
                a, b = at[0, i], at[1, i]
                a1, b1 = _TWO * a * b + _C1, a * a + b * b + _C1
                a2, b2 = _TWO * (at[4, i] - a * b) + _C2, at[2, i] + at[3, i] - a * a - b * b + _C2
                scale = np.float32(1) / (b1 * b2)
                ssim = a1 * a2 * scale
                total += ssim
                line[0, pad + i] = _TWO * (b * (a2 - a1) * scale + ssim * a * (b1 - b2) * scale)
                line[1, pad + i] = -ssim / b2
                line[2, pad + i] = _TWO * a1 * scale
            totals[thread, 0] += total
            for k in range(3):
                _along(line[k], slope[k, y])
    count = np.float32(height * width)
    l1, dssim = np.float32(1 - ssim_weight) / count, np.float32(ssim_weight) / count
    for thread in prange(threads):
        at = np.empty((3, width), np.float32)
        for y in range(height * thread // threads, height * (thread + 1) // threads):
            for k in range(3):
                _across(slope[k], y, at[k])
            total = np.float32(0)
            for i in range(width):
                a, b = image[y, i], photo[y, i]
                total += abs(a - b)
                sign = l1 if a > b else -l1
                gradient[y, i] = sign - dssim * (at[0, i] + _TWO * a * at[1, i] + b * at[2, i])
            totals[thread, 1] += total
    return (1 - ssim_weight) * totals[:, 1].sum() / count + ssim_weight * (1 - totals[:, 0].sum() / count)
