"""Which photos show the same as another: its copy, at another size or quality or turned, or from the very same place.

What is compared are differences between neighbouring cells of small grey pictures, which brightness and sharpness
change little and a step to the side a lot. By the correlation of 64 x 64 cells, on three data sets: copies of half the
size agree to 0.98 and more, copies of a quarter of it at the lowest quality to 0.9; what a camera sees that moved by
half a percent of its picture's width to 0.84 at most, and neighbouring photos to 0.34.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

CELLS = 64
# Of the whole picture.
SAME = 0.88
# Of its least alike part, of those that show anything: where one thing turned before a still background.
SAME_PART = 0.6
PARTS = 7
# At half as many cells, where everything is more alike: what is compared in full.
CANDIDATE = 0.93
# In levels of 255 from cell to cell. Of walls and fog nobody can tell whether they are the same.
LEAST_CONTRAST = 1.0
# By how much the shapes of copies may differ: rounding of their sizes.
SHAPE = 0.02

Cells = npt.NDArray[np.float16]
Floats = npt.NDArray[np.float32]


def cells_of(image: Image.Image) -> Cells:
    """What is compared of a photo: its grey picture in `CELLS` x `CELLS` cells."""
    return np.asarray(image.convert("L").resize((CELLS, CELLS), Image.Resampling.BOX), np.float16)


def copies(photos: Sequence[tuple[Cells, float]]) -> dict[int, int]:
    """Which photos are copies, and of which, by their places.

    :param photos: cells and width / height of each; the best of several copies first.
    """
    found: dict[int, int] = {}
    coarse = np.array([_directions(_halved(cells)) for cells, _ in photos], np.float32)
    for quarters in range(4):
        turned = [_turned(photo, quarters) for photo in photos]
        others = np.array([_directions(_halved(cells)) for cells, _ in turned], np.float32) if quarters else coarse
        for one, other in _pairs(coarse, others):
            if one not in found and other not in found and same(photos[one], turned[other]):
                found[other] = one
    return found


def _turned(photo: tuple[Cells, float], quarters: int) -> tuple[Cells, float]:
    cells, shape = photo
    return np.rot90(cells, quarters), 1 / shape if quarters % 2 else shape


def _pairs(directions: Floats, others: Floats) -> Iterator[tuple[int, int]]:
    """Candidates in the order of the first, with the first before the second; a bounded part of all at a time."""
    for start in range(0, len(directions), 256):
        alike = directions[start : start + 256] @ others[start:].T > CANDIDATE
        for row, column in np.argwhere(np.triu(alike, 1)):
            yield start + int(row), start + int(column)


def same(one: tuple[Cells, float], other: tuple[Cells, float]) -> bool:
    """Whether two photos show the same.

    :param one: cells and width / height, as the other's.
    """
    if abs(np.log(one[1] / other[1])) > SHAPE:
        return False
    a, b = _differences(one[0].astype(np.float32)), _differences(other[0].astype(np.float32))
    if min(_contrast(a), _contrast(b)) < LEAST_CONTRAST or _alike(a, b) < SAME:
        return False
    size = (CELLS - 1) // PARTS
    parts = [
        (slice(None), slice(y * size, (y + 1) * size), slice(x * size, (x + 1) * size))
        for y in range(PARTS)
        for x in range(PARTS)
    ]
    shown = 0.1 * _contrast(a) ** 2
    return all(_alike(a[part], b[part]) >= SAME_PART for part in parts if _contrast(a[part]) ** 2 > shown)


def _differences(cells: Floats) -> Floats:
    return np.stack([cells[:-1, 1:] - cells[:-1, :-1], cells[1:, :-1] - cells[:-1, :-1]])


def _contrast(differences: Floats) -> float:
    return float(np.sqrt(np.mean(differences**2)))


def _alike(one: Floats, other: Floats) -> float:
    norm = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    return float(np.vdot(one, other)) / norm if norm else 0.0


def _halved(cells: Cells) -> Floats:
    half = CELLS // 2
    return np.asarray(cells.astype(np.float32).reshape(half, 2, half, 2).mean(axis=(1, 3)))


def _directions(cells: Floats) -> Floats:
    flat = _differences(cells).ravel()
    norm = np.linalg.norm(flat)
    return flat / norm if norm else flat
