"""Whether the camera moved: from one place nothing has a depth, however well photos match.

A mapper does not tell: it gives such photos places all the same, some units apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Of the photo's longest side. A tripod's pairs leave 0.0009, the median pair of a flight over flat ground 0.01.
SAME_PLACE = 0.002
# Wrong matches are among the worst of the verified ones.
TRUSTED_SHARE = 0.8
# Of fewer directions nothing can be said.
FEWEST = 10


def turn_explains(first: Floats, second: Floats, pixel: float, long_side: int) -> bool:
    """Whether a turn of the camera alone brings what two photos share from where the first has it to the second.

    :param first: directions (n x 3, not normalised) of n matches in the first photo's camera; NaN where it has none.
    :param second: the same in the second's.
    :param pixel: how large a pixel is, as a tangent: 1 / focal length in px.
    :param long_side: of the photos, in px.
    """
    # A camera with much distortion has no direction for what is at its edge.
    known = np.isfinite(first).all(axis=1) & np.isfinite(second).all(axis=1)
    if known.sum() < FEWEST:
        return False
    a, b = (each[known] / np.linalg.norm(each[known], axis=1, keepdims=True) for each in (first, second))
    trusted = np.ones(len(a), bool)
    for _ in range(3):
        angles = np.linalg.norm(a @ _turn(a[trusted], b[trusted]).T - b, axis=1)
        trusted = angles <= np.quantile(angles, TRUSTED_SHARE)
    return bool(np.median(angles) < SAME_PLACE * long_side * pixel)


def _turn(a: Floats, b: Floats) -> Floats:
    """The rotation that brings directions closest to others (Kabsch 1976)."""
    u, _, vt = np.linalg.svd(b.T @ a)
    return np.asarray(u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt)


def spread_out(pairs: Sequence[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """At most so many pairs, from the whole walk."""
    step = max(1, -(-len(pairs) // most))
    return sorted(pairs)[::step]
