"""The image loss of the CPU path, value and gradient, compiled by numba.

Rows are taken flat, 3 W values of interleaved colours, so that both passes of the window run along the vectoriser's
lanes. `part` of `parts` is a thread's share of the rows. Beyond the picture everything counts as 0, as in the original
3D Gaussian splatting.
"""

# Types are what numba infers.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from e2e3d_stages.splats.quality import SSIM_C1, SSIM_C2, SSIM_TAPS, ssim_window

_WINDOW = ssim_window()
_HALF = SSIM_TAPS // 2
_PAD = 3 * _HALF
_C1, _C2 = np.float32(SSIM_C1), np.float32(SSIM_C2)
_TWO = np.float32(2)

_compiled: Any = njit(cache=True, fastmath=True, error_model="numpy", nogil=True)


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


@_compiled
def moments(part, parts, image, photo, blurred):
    """Window over both pictures, their squares and their product: fills `blurred` (5, H, 3 W)."""
    height, width = image.shape
    line = np.zeros((5, width + 2 * _PAD), np.float32)
    for y in range(height * part // parts, height * (part + 1) // parts):
        for i in range(width):
            a, b = image[y, i], photo[y, i]
            line[0, _PAD + i], line[1, _PAD + i] = a, b
            line[2, _PAD + i], line[3, _PAD + i], line[4, _PAD + i] = a * a, b * b, a * b
        for k in range(5):
            _along(line[k], blurred[k, y])


@_compiled
def similarity(part, parts, blurred, slope):
    """Sum of the SSIM of this part's values; `slope` (3, H, 3 W) gets its derivatives by `blurred[0, 2, 4]`.

    The derivatives have the window's backward pass along the rows in them already.
    """
    _, height, width = blurred.shape
    at = np.empty((5, width), np.float32)
    line = np.zeros((3, width + 2 * _PAD), np.float32)
    total = 0.0
    for y in range(height * part // parts, height * (part + 1) // parts):
        for k in range(5):
            _across(blurred[k], y, at[k])
        row = np.float32(0)
        for i in range(width):
            a, b = at[0, i], at[1, i]
            a1, b1 = _TWO * a * b + _C1, a * a + b * b + _C1
            a2, b2 = _TWO * (at[4, i] - a * b) + _C2, at[2, i] + at[3, i] - a * a - b * b + _C2
            scale = np.float32(1) / (b1 * b2)
            ssim = a1 * a2 * scale
            row += ssim
            line[0, _PAD + i] = _TWO * scale * (b * (a2 - a1) + ssim * a * (b1 - b2))
            line[1, _PAD + i] = -ssim / b2
            line[2, _PAD + i] = _TWO * a1 * scale
        total += row
        for k in range(3):
            _along(line[k], slope[k, y])
    return total


@_compiled
def gradient(part, parts, image, photo, slope, l1_weight, ssim_weight, out):
    """Sum of this part's absolute differences; fills `out` with the gradient of the whole loss."""
    height, width = image.shape
    at = np.empty((3, width), np.float32)
    total = 0.0
    for y in range(height * part // parts, height * (part + 1) // parts):
        for k in range(3):
            _across(slope[k], y, at[k])
        row = np.float32(0)
        for i in range(width):
            a, b = image[y, i], photo[y, i]
            row += abs(a - b)
            sign = l1_weight if a > b else -l1_weight
            out[y, i] = sign - ssim_weight * (at[0, i] + _TWO * a * at[1, i] + b * at[2, i])
        total += row
    return total
