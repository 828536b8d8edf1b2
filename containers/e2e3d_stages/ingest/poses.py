"""Poses that came with the photos: a COLMAP model, https://colmap.github.io/format.html."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from e2e3d_stages.contract.messages import UnreadableCapture
from e2e3d_stages.ingest.exif import Exif
from e2e3d_stages.store.captures import LocalCapture

NEEDED = ("cameras", "images", "points3D")
# COLMAP writes them since 3.12 and reads models without them.
OTHERS = ("rigs", "frames")


class Photo(Protocol):
    """A photo that was prepared."""

    @property
    def source(self) -> str:
        """Its path in the capture."""

    @property
    def exif(self) -> Exif:
        """What it said of itself."""


def take_poses(capture: LocalCapture, folder: str, output: Path) -> None:
    """Copy the model's files.

    :param folder: below the capture.
    :raises UnreadableCapture: when it is not all there.
    """
    files = {} if capture.single else {file.name: file.path for file in capture.files}
    for suffix in (".bin", ".txt"):
        there = {name: path for name in (*NEEDED, *OTHERS) if (path := files.get(f"{folder}/{name}{suffix}"))}
        if there.keys() >= set(NEEDED):
            output.mkdir()
            for name, path in there.items():
                shutil.copyfile(path, output / f"{name}{suffix}")
            return
    raise UnreadableCapture(
        f"There is no COLMAP model in the capture's {folder}.",
        hint=f"Upload a folder, not a zip, with {', '.join(NEEDED)} as .bin or .txt files in it, "
        "or leave Own poses (ingest_poses) empty.",
    )


def refuse_turned(photos: Sequence[Photo]) -> None:
    """Poses are of the pixels as they are stored; photos that their EXIF turns no longer fit them.

    :raises UnreadableCapture: when there are any.
    """
    turned = [photo.source for photo in photos if photo.exif.orientation != 1]
    if turned:
        raise UnreadableCapture(
            f"{len(turned)} photos are turned by their EXIF, so that own poses do not fit: {', '.join(turned[:5])}.",
            hint="Turn the pixels themselves (exiftran -a, jpegtran), find the poses of these photos, and upload both.",
        )
