"""SSIM, and the image loss of the CPU path with its gradient, compiled by numba.

Rows are taken flat, 3 W values of interleaved colours, so that both passes of the window run along the vectoriser's
lanes. The loss and its gradient are made in one walk down the picture, in strips that are narrow enough for what the
window still needs of them to stay in the processor's cache: nothing of the picture's size is written but the gradient.
The loss looks at the windows around every second row, by turns: means over 11 rows hardly change from one to the next.
`part` of `parts` is a thread's share of the rows; each row has sums of its own, so that they don't depend on the number
of threads. Beyond the picture everything counts as 0 in the loss, as in the original 3D Gaussian splatting.
"""

# Types are what numba infers.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from e2e3d_stages.splats.lanes import LANES, load, spread, store
from e2e3d_stages.splats.ssim_window import SSIM_C1, SSIM_C2, SSIM_EVERY, SSIM_TAPS, ssim_window

_WINDOW = ssim_window()
_HALF = SSIM_TAPS // 2
_PAD = 3 * _HALF
_STRIP = 1_000  # values of a row, at most; a strip's buffers take 130 KB
_MOMENTS, _SLOPES = 4, 3
_C1, _C2 = np.float32(SSIM_C1), np.float32(SSIM_C2)
_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)

# What the last six rows with windows, SSIM_EVERY apart, weigh for the row 5 above the newest and for the one below
# that, when they stand in a ring: by the place of the newest, after which the oldest comes.
_ROWS = _HALF + 1
_WEIGHTS = np.stack([_WINDOW[::SSIM_EVERY], np.concatenate([[0], _WINDOW[1::SSIM_EVERY]]).astype(np.float32)])
_TURNED = np.stack([np.roll(_WEIGHTS, newest + 1, axis=1) for newest in range(_ROWS)])

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
def _across(ring, weights, out):
    """Weighted sum of rows, which stand in a ring (_ROWS, width)."""
    for i in range(len(out)):
        total = _ZERO
        for place in range(_ROWS):
            total += weights[place] * ring[place, i]
        out[i] = total


@_compiled
def _down(image, photo, row, begin, end, out, at):
    """Moments of the window down the columns from `begin` to `end`: fill `out` from `at` on.

    They are the means of both pictures, of their product, and of their difference squared, which, where the pictures
    are alike, says more in float32 than the means of their squares.
    """
    height, width = image.shape
    ours, theirs = image.reshape(height * width), photo.reshape(height * width)
    for column in range(begin, end, LANES):
        i = min(column, end - LANES)  # the last ones overlap those before
        mean, other_mean, product, error = spread(_ZERO), spread(_ZERO), spread(_ZERO), spread(_ZERO)
        for y in range(max(row - _HALF, 0), min(row + _HALF + 1, height)):
            weight = _WINDOW[y - row + _HALF]
            a, b = load(ours, y * width + i), load(theirs, y * width + i)
            mean, other_mean = mean + weight * a, other_mean + weight * b
            product, error = product + weight * (a * b), error + weight * ((a - b) * (a - b))
        place = at + i - begin
        store(out[0], place, mean)
        store(out[1], place, other_mean)
        store(out[2], place, product)
        store(out[3], place, error)


@_compiled
def _similarity(mean, other_mean, product, error, by_mean, by_squares, by_product):
    """SSIM, in the place of `mean`, and its derivatives by the render's mean, its square's, and the product's."""
    for i in range(len(mean)):
        a, b = mean[i], other_mean[i]
        both, apart = a * b, (a - b) * (a - b)
        a1, a2 = _TWO * both + _C1, _TWO * (product[i] - both) + _C2
        b1, b2 = a1 + apart, a2 + error[i] - apart
        scale = _ONE / (b1 * b2)
        ssim = a1 * a2 * scale
        mean[i] = ssim
        by_mean[i] = _TWO * scale * (b * (a2 - a1) + ssim * a * (b1 - b2))
        by_squares[i] = -ssim * b1 * scale
        by_product[i] = _TWO * a1 * scale


@_compiled
def _total(values):
    total = _ZERO
    for i in range(len(values)):  # over the values themselves it would not be vectorised
        total += values[i]
    return total


@_compiled
def _gradient(image, photo, by_mean, by_squares, by_product, l1_weight, ssim_weight, out):
    """Fill `out` with the loss's gradient; returns the sums of the absolute and of the squared differences."""
    total, squares = _ZERO, _ZERO
    for i in range(len(out)):
        a, b = image[i], photo[i]
        total += abs(a - b)
        squares += (a - b) * (a - b)
        sign = l1_weight if a > b else -l1_weight
        out[i] = sign - ssim_weight * (by_mean[i] + _TWO * a * by_squares[i] + b * by_product[i])
    return total, squares


@_compiled
def loss(part, parts, image, photo, l1_weight, ssim_weight, phase, difference, square, similarity, gradient):
    """Fill `gradient` (H, 3 W): of `l1_weight` times the sum of absolute differences less `ssim_weight` times SSIM's.

    A row is 8 values at least.

    :param phase: the first row that has windows.
    :param difference: (H,) gets each row's sum of absolute differences.
    :param square: (H,) gets each row's sum of squared differences.
    :param similarity: (H,) gets each row's sum of SSIM, in the rows that have windows.
    """
    height, width = image.shape
    first, last = height * part // parts, height * (part + 1) // parts
    strip = -(-width // -(-width // _STRIP))
    wide = strip + 2 * _PAD  # what the windows of the strip reach
    line, moment = np.empty((_MOMENTS, wide + 2 * _PAD), np.float32), np.empty((_MOMENTS, wide), np.float32)
    slope = np.empty((_SLOPES, wide), np.float32)
    slopes, blurred = np.empty((_SLOPES, _ROWS, strip), np.float32), np.empty((_SLOPES, strip), np.float32)
    difference[first:last], square[first:last], similarity[first:last] = 0, 0, 0
    for left in range(0, width, strip):
        right = min(left + strip, width)
        begin, end = max(left - 2 * _PAD, 0), min(right + 2 * _PAD, width)
        line[:] = 0
        slopes[:] = 0
        reached = first - _HALF
        for row in range(reached + (phase - reached) % SSIM_EVERY, last + _HALF, SSIM_EVERY):
            newest = row // SSIM_EVERY % _ROWS
            if 0 <= row < height:
                _down(image, photo, row, begin, end, line, begin - left + 2 * _PAD)
                for k in range(_MOMENTS):
                    _along(line[k], moment[k])
                _similarity(moment[0], moment[1], moment[2], moment[3], slope[0], slope[1], slope[2])
                slope[:, : max(_PAD - left, 0)] = 0
                slope[:, width - left + _PAD :] = 0
                if first <= row < last:
                    similarity[row] += _total(moment[0, _PAD : _PAD + right - left])
                for k in range(_SLOPES):
                    _along(slope[k], slopes[k, newest])
            else:
                slopes[:, newest] = 0
            # With this row's slopes the windows around two rows are complete.
            for below in range(SSIM_EVERY):
                done = row - _HALF + below
                if first <= done < last:
                    for k in range(_SLOPES):
                        _across(slopes[k], _TURNED[newest, below], blurred[k])
                    ours, theirs, out = image[done, left:right], photo[done, left:right], gradient[done, left:right]
                    of_strip = _gradient(ours, theirs, blurred[0], blurred[1], blurred[2], l1_weight, ssim_weight, out)
                    difference[done] += of_strip[0]
                    square[done] += of_strip[1]


@_compiled
def _factors(mean, other_mean, product, error, luminance, contrast):
    for i in range(len(mean)):
        both, apart = mean[i] * other_mean[i], (mean[i] - other_mean[i]) * (mean[i] - other_mean[i])
        a1, a2 = _TWO * both + _C1, _TWO * (product[i] - both) + _C2
        luminance[i] = a1 / (a1 + apart)
        contrast[i] = a2 / (a2 + error[i] - apart)


@_compiled
def factors(part, parts, image, photo, luminance, contrast):
    """SSIM's two factors, luminance and contrast with structure, (H - 10, 3 W - 30): of the windows in the picture."""
    width = luminance.shape[1]
    first, last = len(luminance) * part // parts, len(luminance) * (part + 1) // parts
    line, moment = np.empty((_MOMENTS, image.shape[1]), np.float32), np.empty((_MOMENTS, width), np.float32)
    for row in range(first, last):
        _down(image, photo, row + _HALF, 0, image.shape[1], line, 0)
        for k in range(_MOMENTS):
            _along(line[k], moment[k])
        _factors(moment[0], moment[1], moment[2], moment[3], luminance[row], contrast[row])
