"""What lies in a capture, by its name: the one answer that ingest, estimates, sensors and batches share."""

from __future__ import annotations

from pathlib import PurePosixPath

from e2e3d_stages.contract.paths import path_problem

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"})
OTHER_MEDIA = frozenset(
    {".heic", ".heif", ".avif", ".gif", ".bmp", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".mp4", ".mov", ".avi"}
)

# What a run takes of one capture, a prefix as well as an unpacked zip.
MAX_FILES = 20_000
MAX_BYTES = 64 * 2**30

# Why ingest leaves a file out that nobody took for a photo.
NOT_A_PHOTO = "not_a_photo"


def suffix_of(path: str) -> str:
    """A file's suffix in small letters, with its dot; empty where it has none."""
    return PurePosixPath(path).suffix.lower()


def is_hidden(path: str) -> bool:
    """Whether a file of a capture is one that cameras, file managers and zip programs leave behind."""
    steps = path.split("/")
    return "__MACOSX" in steps or any(step.startswith(".") and step not in (".", "..") for step in steps)


def is_photo(path: str) -> bool:
    """Whether a file of a capture is a photo by its name: none that is hidden, and none that no disk could hold."""
    return suffix_of(path) in PHOTO_SUFFIXES and not is_hidden(path) and not path_problem(path)
