"""Whether a thing turned before a background that stood still, as on a turntable.

To matching the background says that the camera never moved, and there is more of it than of the thing: COLMAP then
places the photos by it, or none (colmap/colmap#2576). What stands at the same pixels in photos that lie far apart is of
no use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int]
Floats = NDArray[np.float64]

# Of a match, in pixels; what COLMAP's own filter takes for standing still (`stationary_matches_max_error`).
STILL_PX = 4.0
# A camera that is moved slowly leaves much where it was in the next photos.
ADJACENT = 2
# Of fewer matches or pairs nothing can be said.
FEWEST_MATCHES, FEWEST_PAIRS = 15, 3
# Share of the matches of the median pair. Photos that share nothing match at random, hardly ever at the same pixels.
STILL_SHARE = 0.25


def background_stood_still(
    pairs: Sequence[Pair], order: Sequence[int] | None, moves: Callable[[Pair], Floats | None]
) -> bool:
    """Whether so much stands still in photos that do not follow one another that it must be left out.

    :param pairs: of photos that were matched, by their places.
    :param order: the photos' places in the order in which they were taken; that of the places when it is not known.
    :param moves: of a pair by how many pixels each match moved, (n, 2); None for photos of different sizes.
    """
    ranks: Mapping[int, int] = {place: rank for rank, place in enumerate(order)} if order else {}
    count = 1 + max((place for pair in pairs for place in pair), default=0)
    shares = []
    for first, second in pairs:
        apart = abs(ranks.get(first, first) - ranks.get(second, second))
        if min(apart, count - apart) <= ADJACENT:
            continue
        moved = moves((first, second))
        if moved is not None and len(moved) >= FEWEST_MATCHES:
            shares.append(float(np.mean(np.linalg.norm(moved, axis=1) < STILL_PX)))
    return len(shares) >= FEWEST_PAIRS and float(np.median(shares)) > STILL_SHARE
