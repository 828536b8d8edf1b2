"""Which photos are compared with which."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int]

# Neighbours in time overlap even where GPS is off.
ORDER_NEIGHBORS = 2
GPS_SHARE = 0.8


def choose_pairs(
    mode: str, positions: Sequence[NDArray[np.float64] | None], *, exhaustive_limit: int, neighbors: int
) -> tuple[str, list[Pair]]:
    """Pairs (a < b) of photos by their places in the capture's order, and the way they were chosen.

    :param mode: `auto`, `exhaustive`, `spatial` or `sequential`.
    :param positions: for each photo its place in metres, or None where it has no GPS.
    """
    if mode == "auto":
        located = sum(position is not None for position in positions)
        if len(positions) <= exhaustive_limit:
            mode = "exhaustive"
        else:
            mode = "spatial" if located >= GPS_SHARE * len(positions) else "sequential"
    if mode == "exhaustive":
        return mode, list(combinations(range(len(positions)), 2))
    if mode == "spatial":
        return mode, spatial_pairs(positions, neighbors)
    return mode, sequential_pairs(len(positions), neighbors)


def sequential_pairs(count: int, neighbors: int) -> list[Pair]:
    """Each photo with the next ones, and with some further on at distances of powers of two, which closes loops."""
    steps = [*range(1, neighbors // 2 + 1), *(2**power for power in range(20) if 2**power > neighbors // 2)]
    return _sorted((place, place + step) for step in steps for place in range(count - step))


def spatial_pairs(positions: Sequence[NDArray[np.float64] | None], neighbors: int) -> list[Pair]:
    """Each photo with its nearest ones over ground, and with its neighbours in the capture's order.

    Height is left out: a GPS is at its worst there. Photos without GPS are compared by order only.
    """
    located = [place for place, position in enumerate(positions) if position is not None]
    ground = np.array([position[:2] for position in positions if position is not None]).reshape(-1, 2)
    pairs = []
    for row, place in enumerate(located):
        distance = np.linalg.norm(ground - ground[row], axis=1)
        nearest = np.argsort(distance, kind="stable")[: neighbors + 1]
        pairs += [(place, located[other]) for other in nearest if other != row]
    for place, position in enumerate(positions):
        reach = ORDER_NEIGHBORS if position is not None else neighbors // 2
        pairs += [(place, other) for other in range(place - reach, place + reach + 1) if 0 <= other < len(positions)]
    return _sorted(pairs)


def _sorted(pairs: Iterable[Pair]) -> list[Pair]:
    return sorted({(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]})
