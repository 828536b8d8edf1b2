"""SSIM, and the image loss of the CPU path with its gradient, compiled by numba.

Rows are taken flat, 3 W values of interleaved colours, so that both passes of the window run along the vectoriser's
lanes. The loss and its gradient are made in one walk down the picture, in strips that are narrow enough for what the
window still needs of them to stay in the processor's cache: nothing of the picture's size is written but the gradient.
`part` of `parts` is a thread's share of the rows; each row has sums of its own, so that they don't depend on the number
of threads. Beyond the picture everything counts as 0 in the loss, as in the original 3D Gaussian splatting.
"""

# Types are what numba infers.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from e2e3d_stages.splats.ssim_window import SSIM_C1, SSIM_C2, SSIM_TAPS, ssim_window

_WINDOW = ssim_window()
_HALF = SSIM_TAPS // 2
_PAD = 3 * _HALF
_STRIP = 1_000  # values of a row, at most; a strip's buffers take 350 KB
_MOMENTS, _SLOPES = 4, 3
_C1, _C2 = np.float32(SSIM_C1), np.float32(SSIM_C2)
_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)

# The window for a ring of rows whose newest is at each place: what comes after it is the oldest.
_TURNED = np.stack([np.roll(_WINDOW, newest + 1) for newest in range(SSIM_TAPS)])

_compiled: Any = njit(cache=True, fastmath=True, error_model="numpy", nogil=True)


@_compiled
def _along(line, out):
    """Window along a row; `line` has 5 pixels on both sides that `out` has not."""
    for i in range(len(out)):
        total = _ZERO
        for tap in range(SSIM_TAPS):
            total += _WINDOW[tap] * line[i + 3 * tap]
        out[i] = total


@_compiled
def _across(ring, turned, out):
    """Window across the last rows, which stand in a ring (SSIM_TAPS, width)."""
    for i in range(len(out)):
        total = _ZERO
        for place in range(SSIM_TAPS):
            total += turned[place] * ring[place, i]
        out[i] = total


@_compiled
def _products(image, photo, line, at):
    """Fill `line` from `at` on with what moments are made of: both pictures, their squares' sum, their product."""
    first, second, squares, product = line[0, at:], line[1, at:], line[2, at:], line[3, at:]
    for i in range(len(image)):
        a, b = image[i], photo[i]
        first[i], second[i], squares[i], product[i] = a, b, a * a + b * b, a * b


@_compiled
def _moments_of(image, photo, y, left, right, line, moments, place):
    """The window along what the strip and its windows reach of a row; beyond the picture 0."""
    height, width = image.shape
    if 0 <= y < height:
        begin, end = max(left - 2 * _PAD, 0), min(right + 2 * _PAD, width)
        _products(image[y, begin:end], photo[y, begin:end], line, begin - left + 2 * _PAD)
        for k in range(_MOMENTS):
            _along(line[k], moments[k, place])
    else:
        moments[:, place] = 0


@_compiled
def _similarity(mean, other_mean, squares, product, by_mean, by_squares, by_product):
    """SSIM, in the place of `mean`, and its derivatives by the moments but `other_mean`, which is the photo's."""
    for i in range(len(mean)):
        a, b = mean[i], other_mean[i]
        both, each = a * b, a * a + b * b
        a1, b1 = _TWO * both + _C1, each + _C1
        a2, b2 = _TWO * (product[i] - both) + _C2, squares[i] - each + _C2
        scale = _ONE / (b1 * b2)
        ssim = a1 * a2 * scale
        mean[i] = ssim
        by_mean[i] = _TWO * scale * (b * (a2 - a1) + ssim * a * (b1 - b2))
        by_squares[i] = -ssim * b1 * scale
        by_product[i] = _TWO * a1 * scale


@_compiled
def _total(values):
    total = _ZERO
    for value in values:
        total += value
    return total


@_compiled
def _gradient(image, photo, by_mean, by_squares, by_product, l1_weight, ssim_weight, out):
    """Fill `out` with the loss's gradient; returns the sum of the absolute differences."""
    total = _ZERO
    for i in range(len(out)):
        a, b = image[i], photo[i]
        total += abs(a - b)
        sign = l1_weight if a > b else -l1_weight
        out[i] = sign - ssim_weight * (by_mean[i] + _TWO * a * by_squares[i] + b * by_product[i])
    return total


@_compiled
def loss(part, parts, image, photo, l1_weight, ssim_weight, difference, similarity, gradient):
    """Fill `gradient` (H, 3 W): of `l1_weight` times the sum of absolute differences less `ssim_weight` times SSIM's.

    :param difference: (H,) gets each row's sum of absolute differences.
    :param similarity: (H,) gets each row's sum of SSIM.
    """
    height, width = image.shape
    first, last = height * part // parts, height * (part + 1) // parts
    strip = -(-width // -(-width // _STRIP))
    wide = strip + 2 * _PAD  # what the windows of the strip reach
    line = np.empty((_MOMENTS, wide + 2 * _PAD), np.float32)
    moments, moment = np.empty((_MOMENTS, SSIM_TAPS, wide), np.float32), np.empty((_MOMENTS, wide), np.float32)
    slope = np.empty((_SLOPES, wide), np.float32)
    slopes, blurred = np.empty((_SLOPES, SSIM_TAPS, strip), np.float32), np.empty((_SLOPES, strip), np.float32)
    difference[first:last], similarity[first:last] = 0, 0
    for left in range(0, width, strip):
        right = min(left + strip, width)
        line[:] = 0
        for newest in range(first - 2 * _HALF, last + 2 * _HALF):
            place = newest % SSIM_TAPS
            _moments_of(image, photo, newest, left, right, line, moments, place)
            # With this row the window around `row` is complete, and with the slopes of that the one around `done`.
            row, done = newest - _HALF, newest - 2 * _HALF
            around = row % SSIM_TAPS
            if 0 <= row < height and row >= first - _HALF:
                for k in range(_MOMENTS):
                    _across(moments[k], _TURNED[place], moment[k])
                _similarity(moment[0], moment[1], moment[2], moment[3], slope[0], slope[1], slope[2])
                slope[:, : max(_PAD - left, 0)] = 0
                slope[:, width - left + _PAD :] = 0
                if first <= row < last:
                    similarity[row] += _total(moment[0, _PAD : _PAD + right - left])
                for k in range(_SLOPES):
                    _along(slope[k], slopes[k, around])
            else:
                slopes[:, around] = 0
            if done >= first:
                for k in range(_SLOPES):
                    _across(slopes[k], _TURNED[around], blurred[k])
                ours, theirs, out = image[done, left:right], photo[done, left:right], gradient[done, left:right]
                difference[done] += _gradient(
                    ours, theirs, blurred[0], blurred[1], blurred[2], l1_weight, ssim_weight, out
                )


@_compiled
def _factors(mean, other_mean, squares, product, luminance, contrast):
    for i in range(len(mean)):
        both = mean[i] * other_mean[i]
        each = mean[i] * mean[i] + other_mean[i] * other_mean[i]
        luminance[i] = (_TWO * both + _C1) / (each + _C1)
        contrast[i] = (_TWO * (product[i] - both) + _C2) / (squares[i] - each + _C2)


@_compiled
def factors(part, parts, image, photo, luminance, contrast):
    """SSIM's two factors, luminance and contrast with structure, (H - 10, 3 W - 30): of the windows in the picture."""
    width = luminance.shape[1]
    first, last = len(luminance) * part // parts, len(luminance) * (part + 1) // parts
    line = np.empty((_MOMENTS, image.shape[1]), np.float32)
    moments, moment = np.empty((_MOMENTS, SSIM_TAPS, width), np.float32), np.empty((_MOMENTS, width), np.float32)
    for newest in range(first, last + 2 * _HALF):
        place, row = newest % SSIM_TAPS, newest - 2 * _HALF
        _products(image[newest], photo[newest], line, 0)
        for k in range(_MOMENTS):
            _along(line[k], moments[k, place])
        if row >= first:
            for k in range(_MOMENTS):
                _across(moments[k], _TURNED[place], moment[k])
            _factors(moment[0], moment[1], moment[2], moment[3], luminance[row], contrast[row])
