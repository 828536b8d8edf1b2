"""Where a scene's levels of detail lie: streamed SOG, which a page loads part by part.

Source: "The Streamed SOG Format", version 1, in PlayCanvas's developer manual, and the reader in its engine
(`GSplatOctree`): `lod-meta.json` with a tree of boxes, and SOG files that hold a stretch of Gaussians for each box.
"""

from __future__ import annotations

from pathlib import Path

FOLDER, META = "streamed/", "lod-meta.json"


def chunk_name(level: int, number: int) -> str:
    """A file's name; level 0 is the finest."""
    return f"{level}_{number}.sog"


def level_in_one_file(folder: Path) -> Path:
    """The finest level that is a single file: a whole scene that phones bear."""
    level = 0
    while (folder / chunk_name(level, 1)).exists():
        level += 1
    return folder / chunk_name(level, 0)


def first_shown(folder: Path) -> Path:
    """The file of the coarsest level."""
    level = 0
    while (folder / chunk_name(level + 1, 0)).exists():
        level += 1
    return folder / chunk_name(level, 0)
