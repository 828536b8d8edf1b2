"""sRGB's curve (IEC 61966-2-1), and the way to its primaries from those of Display P3 and Adobe RGB."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.floating[Any]]

# Of ITU-T H.273, table 2: what a HEIC or a film without a profile says.
DISPLAY_P3 = 12
# In linear light (SMPTE EG 432-1).
P3_TO_SRGB = np.array(
    [[1.2249401, -0.2249402, 0.0], [-0.0420569, 1.0420571, 0.0], [-0.0196376, -0.0786361, 1.0982735]], np.float32
)
# Adobe RGB (1998), 4.3.1: both have D65 as their white.
ADOBE_GAMMA = np.float32(563 / 256)
ADOBE_TO_SRGB = np.array([[1.3983557, -0.3983557, 0.0], [0.0, 1.0, 0.0], [0.0, -0.0429290, 1.0429290]], np.float32)


def decoded(values: Values) -> Values:
    """Linear light of sRGB's values, both from 0 to 1."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def encoded(light: Values) -> npt.NDArray[np.uint8]:
    """8-bit sRGB of linear light from 0 to 1."""
    curved = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.asarray(255 * curved + 0.5, np.uint8)
