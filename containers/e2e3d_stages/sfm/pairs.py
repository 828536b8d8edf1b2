"""Which photos are compared with which."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int]

# Neighbours in time overlap even where GPS is off.
ORDER_NEIGHBORS = 2
GPS_SHARE = 0.8
# Names count up when most are alike but for their numbers, and one number follows the other in such steps.
NUMBERED_SHARE = 0.8
NUMBER_STEP = 20
_NUMBER = re.compile(r"(?P<head>(?:.*\D)?)(?P<number>\d{1,18})\D*")
_OFFSET = re.compile(r"[+-]\d\d:\d\d$|Z$")
_DIGITS = re.compile(r"\d+")


def choose_pairs(
    mode: str,
    positions: Sequence[NDArray[np.float64] | None],
    order: Sequence[int] | None,
    alike: Callable[[], list[Pair]],
    *,
    exhaustive_limit: int,
    neighbors: int,
) -> tuple[str, list[Pair]]:
    """Pairs (a < b) of photos by their places in the capture's order, and the way they were chosen.

    :param mode: `auto`, `exhaustive`, `spatial`, `sequential` or `retrieval`.
    :param positions: for each photo its place, or None where it is not known.
    :param order: the photos' places in the order in which they were taken, None when that is not known.
    :param alike: finds the pairs of photos that look alike.
    """
    if mode == "auto":
        located = sum(position is not None for position in positions)
        if len(positions) <= exhaustive_limit:
            mode = "exhaustive"
        elif located >= GPS_SHARE * len(positions):
            mode = "spatial"
        else:
            mode = "retrieval" if order is None else "sequential"
    if mode == "exhaustive":
        return mode, list(combinations(range(len(positions)), 2))
    if mode == "spatial":
        return mode, spatial_pairs(positions, neighbors)
    if mode == "retrieval":
        return mode, alike()
    walk = range(len(positions)) if order is None else order
    return mode, _sorted((walk[a], walk[b]) for a, b in sequential_pairs(len(positions), neighbors))


def order_taken(photos: Sequence[Mapping[str, Any]]) -> list[int] | None:
    """The photos' places in the order in which they were taken; None when nothing tells.

    By the time in their EXIF, where all have one and most another; else by their names, where these count up.

    :param photos: as ingest's `photos.json` has them, in natural order of their names.
    """
    times = [photo["taken"] for photo in photos]
    # With and without an offset they cannot be compared.
    if all(times) and len(set(times)) > len(times) / 2 and len({bool(_OFFSET.search(time)) for time in times}) == 1:
        return sorted(range(len(photos)), key=lambda place: (dt.datetime.fromisoformat(times[place]), place))
    found = [_NUMBER.fullmatch(PurePosixPath(photo["source"]).stem) for photo in photos]
    heads = Counter(_DIGITS.sub("#", match["head"]) for match in found if match)
    if not heads or heads.most_common(1)[0][1] < NUMBERED_SHARE * len(photos):
        return None
    numbers = [int(match["number"]) for match in found if match]
    steps = np.abs(np.diff(np.array(numbers, float)))
    return list(range(len(photos))) if len(steps) and np.median(steps) <= NUMBER_STEP else None


def sequential_pairs(count: int, neighbors: int) -> list[Pair]:
    """Each photo with the next ones, and with some further on at distances of powers of two, which closes loops."""
    steps = [*range(1, neighbors // 2 + 1), *(2**power for power in range(20) if 2**power > neighbors // 2)]
    return _sorted((place, place + step) for step in steps for place in range(count - step))


def spatial_pairs(positions: Sequence[NDArray[np.float64] | None], neighbors: int) -> list[Pair]:
    """Each photo with its nearest ones, and with its neighbours in the capture's order.

    Photos without a position are compared by order only.
    """
    located = [place for place, position in enumerate(positions) if position is not None]
    places = np.array([position for position in positions if position is not None])
    pairs = []
    for row, place in enumerate(located):
        distance = np.linalg.norm(places - places[row], axis=1)
        nearest = np.argsort(distance, kind="stable")[: neighbors + 1]
        pairs += [(place, located[other]) for other in nearest if other != row]
    for place, position in enumerate(positions):
        reach = ORDER_NEIGHBORS if position is not None else neighbors // 2
        pairs += [(place, other) for other in range(place - reach, place + reach + 1) if 0 <= other < len(positions)]
    return _sorted(pairs)


def _sorted(pairs: Iterable[Pair]) -> list[Pair]:
    return sorted({(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]})
