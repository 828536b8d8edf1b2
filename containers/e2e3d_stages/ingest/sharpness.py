"""How sharp a picture is."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

# Blur hides at a smaller size, and noise looks sharp at a larger one.
LONG_SIDE = 500


def sharpness(grey: npt.NDArray[Any]) -> float:
    """Variance of the Laplacian of a grey picture whose longest side has about `LONG_SIDE` pixels; low is blurred."""
    values = np.asarray(grey, np.float32)
    neighbours = values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:]
    return round(float(np.var(neighbours - 4 * values[1:-1, 1:-1])), 2)
