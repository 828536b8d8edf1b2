"""Levels of detail that a page loads as it needs them: the writer of streamed SOG (see `splats/streamed.py`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2e3d_stages.compress.merging import halved, rotations
from e2e3d_stages.splats.gaussians import Gaussians, joined
from e2e3d_stages.splats.streamed import META, chunk_name

# Most Gaussians of one file: what a browser fetches at once, and most that the page in one file has.
CHUNK = 2**18
# Most Gaussians of the coarsest level: a slow line brings them in a second.
COARSEST = 2**16

# Writes one file of Gaussians, of which those of one part stay together: (gaussians, path, parts).
Encode = Callable[[Gaussians, Path, NDArray[np.int64]], object]

Bound = dict[str, list[float]]


@dataclass
class Node:
    """A box in space: two smaller ones, or a leaf with its Gaussians.

    :param children: two, or none.
    :param levels: of a leaf: its Gaussians, the finest level first.
    :param lods: of a leaf, by level: where they lie, as `lod-meta.json` says it.
    """

    children: tuple[Node, ...] = ()
    levels: list[Gaussians] = field(default_factory=list)
    lods: dict[str, dict[str, int]] = field(default_factory=dict)

    def leaves(self) -> list[Node]:
        """Neighbours follow one another."""
        return [leaf for child in self.children for leaf in child.leaves()] if self.children else [self]

    def described(self) -> dict[str, Any]:
        """As `lod-meta.json` has it; the box holds the Gaussians of all levels."""
        if self.children:
            below = [child.described() for child in self.children]
            return {"bound": _around([each["bound"] for each in below]), "children": below}
        return {"bound": _around([_bound(level) for level in self.levels]), "lods": self.lods}


def write_levels(
    gaussians: Gaussians,
    folder: Path,
    encode: Encode,
    *,
    chunk: int = CHUNK,
    coarsest: int = COARSEST,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[int]:
    """Write a scene as streamed SOG into a new folder.

    Level 0 has every Gaussian in one of its files, each other level half as many as the one before. The coarsest is the
    first to be seen, and goes without the colours that depend on direction: two thirds of its bytes.

    :param gaussians: one or more, all values finite.
    :param chunk: most Gaussians of a file.
    :param coarsest: most Gaussians of the coarsest level, where its boxes have more than one each.
    :param progress: called with the number of files written and of all; may raise.
    :returns: how many Gaussians each level has, the finest first.
    """
    folder.mkdir()
    tree = split(gaussians, chunk)
    leaves = tree.leaves()
    while _count(leaves, -1) > max(coarsest, len(leaves)):
        for leaf in leaves:
            progress(0, 1)
            leaf.levels.append(halved(leaf.levels[-1]))
    for leaf in leaves if len(leaves[0].levels) > 1 else ():
        leaf.levels[-1] = replace(leaf.levels[-1], sh=leaf.levels[-1].sh[:, :1])
    counts = [_count(leaves, level) for level in range(len(leaves[0].levels))]
    files = [
        (level, chunk_name(level, number), together)
        for level in range(len(counts))
        for number, together in enumerate(_in_files(leaves, level, chunk))
    ]
    for place, (level, name, together) in enumerate(files):
        parts = [leaf.levels[level] for leaf in together]
        sizes = [len(part) for part in parts]
        for leaf, size, end in zip(together, sizes, np.cumsum(sizes).tolist(), strict=True):
            leaf.lods[str(level)] = {"file": place, "offset": end - size, "count": size}
        encode(joined(parts), folder / name, np.repeat(np.arange(len(sizes)), sizes))
        progress(place + 1, len(files))
    meta = {
        "version": 1,
        "asset": {"generator": "E2E3D"},
        "count": sum(counts),
        "counts": counts,
        "lodLevels": len(counts),
        "filenames": [name for _, name, _ in files],
        "tree": tree.described(),
    }
    (folder / META).write_text(json.dumps(meta, separators=(",", ":")), encoding="utf-8")
    return counts


def split(gaussians: Gaussians, most: int) -> Node:
    """A tree whose leaves have at most so many Gaussians each: halves along the longest side, again and again."""
    if len(gaussians) <= most:
        return Node(levels=[gaussians])
    # Without what lies farthest out, which would make the sides of all boxes long.
    low, high = np.percentile(gaussians.means, [2, 98], axis=0)
    order = np.argsort(gaussians.means[:, (high - low).argmax()], kind="stable")
    half = len(order) // 2
    return Node(children=tuple(split(gaussians.select(part), most) for part in (order[:half], order[half:])))


def _in_files(leaves: list[Node], level: int, most: int) -> list[list[Node]]:
    """Leaves that lie in one file each: as many neighbours as fit."""
    files: list[list[Node]] = []
    room = 0
    for leaf in leaves:
        size = len(leaf.levels[level])
        if size > room:
            files.append([])
            room = most
        files[-1].append(leaf)
        room -= size
    return files


def _count(leaves: list[Node], level: int) -> int:
    return sum(len(leaf.levels[level]) for leaf in leaves)


def _bound(gaussians: Gaussians) -> Bound:
    """The box around one standard deviation along the own axes, as splat-transform has it."""
    reach = np.einsum("nij,nj->ni", np.abs(rotations(gaussians)), np.exp(gaussians.scales))
    return {
        "min": (gaussians.means - reach).min(axis=0).tolist(),
        "max": (gaussians.means + reach).max(axis=0).tolist(),
    }


def _around(bounds: list[Bound]) -> Bound:
    return {
        "min": np.min([each["min"] for each in bounds], axis=0).tolist(),
        "max": np.max([each["max"] for each in bounds], axis=0).tolist(),
    }
