"""A picture in the light of its photo, and back, on the CPU, compiled by numba.

`part` of `parts` is a thread's share of the rows. Each row has sums of its own, so that they don't depend on the number
of threads. Channels are the outer loop, for the vectoriser.
"""

# Types are what numba infers.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_compiled: Any = njit(cache=True, fastmath=True, error_model="numpy", nogil=True)


@_compiled
def develop(part, parts, image, light, photo, white, developed):
    """Fills `developed` (H, W, 3) with colours through `light` (3, 4); what is brighter than white is white."""
    height, width, _ = image.shape
    for y in range(height * part // parts, height * (part + 1) // parts):
        for c in range(3):
            for x in range(width):
                red, green, blue = image[y, x, 0], image[y, x, 1], image[y, x, 2]
                value = light[c, 0] * red + light[c, 1] * green + light[c, 2] * blue + light[c, 3]
                there = photo[y, x, c]
                developed[y, x, c] = there if (there >= white) & (value > there) else value


@_compiled
def develop_backward(part, parts, image, light, photo, white, d_developed, d_image, d_light):
    """Fills `d_image` (H, W, 3), and `d_light` (H, 3, 4) with the sums of each row."""
    height, width, _ = image.shape
    for y in range(height * part // parts, height * (part + 1) // parts):
        for x in range(width):
            d_image[y, x, 0] = d_image[y, x, 1] = d_image[y, x, 2] = np.float32(0)
        for c in range(3):
            by_red, by_green, by_blue, added = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
            for x in range(width):
                red, green, blue = image[y, x, 0], image[y, x, 1], image[y, x, 2]
                value = light[c, 0] * red + light[c, 1] * green + light[c, 2] * blue + light[c, 3]
                there = photo[y, x, c]
                d = np.float32(0) if (there >= white) & (value > there) else d_developed[y, x, c]
                d_image[y, x, 0] += d * light[c, 0]
                d_image[y, x, 1] += d * light[c, 1]
                d_image[y, x, 2] += d * light[c, 2]
                by_red += d * red
                by_green += d * green
                by_blue += d * blue
                added += d
            d_light[y, c, 0], d_light[y, c, 1], d_light[y, c, 2], d_light[y, c, 3] = by_red, by_green, by_blue, added
