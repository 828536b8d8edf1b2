"""Poses that came with the photos: a COLMAP model, https://colmap.github.io/format.html, or a transforms.json."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from e2e3d_stages.contract.messages import UnreadableCapture
from e2e3d_stages.contract.paths import LONGEST_STEP
from e2e3d_stages.ingest.exif import Exif
from e2e3d_stages.ingest.positions import Camera, Positions
from e2e3d_stages.store.captures import LocalCapture

NEEDED = ("cameras", "images", "points3D")
# COLMAP writes them since 3.12 and reads models without them.
OTHERS = ("rigs", "frames")
# What one of each takes in a binary file without what it is followed by, with the number of that; names at their
# shortest: https://colmap.github.io/format.html#binary-file-format.
_LEAST_BYTES = {
    "cameras": 24,
    "images": 4 + 7 * 8 + 4 + 1 + 8,
    "points3D": 8 + 3 * 8 + 3 + 8 + 8,
    "rigs": 8,
    "frames": 8,
}
# Of an image's points: two coordinates and an id; of a point's views: two ids.
_BYTES_INSIDE = {"images": 24, "points3D": 8}
# By how much the shape of a photo may differ from that of its camera.
SHAPE_PX = 1.5


class Photo(Protocol):
    """A photo that was prepared."""

    @property
    def source(self) -> str:
        """Its path in the capture."""

    @property
    def width(self) -> int:
        """In px, prepared."""

    @property
    def height(self) -> int:
        """In px, prepared."""

    @property
    def exif(self) -> Exif:
        """What it said of itself."""


# As `photos.json` has it: `camera_to_world`, 4 x 4, COLMAP's `model` and its `lens` in pixels of the prepared photo.
Pose = dict[str, Any]


def poses_of(positions: Positions, photos: Sequence[Photo]) -> dict[str, Pose]:
    """The poses of a transforms.json, by photo, of those that have the shape that it says."""
    poses = {}
    for photo in photos:
        row = positions.rows.get(photo.source)
        lens = _scaled(row.camera, photo) if row and row.camera else None
        if row and row.camera and row.pose is not None and lens:
            poses[photo.source] = {"camera_to_world": row.pose.tolist(), "model": row.camera.model, "lens": lens}
    return poses


def _scaled(camera: Camera, photo: Photo) -> list[float] | None:
    """The lens in pixels of a photo that ingest may have scaled down; None for a photo of another shape."""
    scale = photo.width / camera.width
    if abs(camera.height * scale - photo.height) > SHAPE_PX:
        return None
    return [*(each * scale for each in camera.lens[:4]), *camera.lens[4:]]


def no_poses(name: str) -> UnreadableCapture:
    """What is said of a file that was to give poses and gives none."""
    return UnreadableCapture(
        f"{name} has no pose that fits a photo of the capture.",
        hint="It must be a transforms.json with file_path and transform_matrix for each photo, and w, h and fl_x of "
        "the photos as they were uploaded. Leave Own poses (ingest_poses) empty to have poses found.",
    )


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
                if suffix == ".bin":
                    _refuse_impossible(name, path)
                shutil.copyfile(path, output / f"{name}{suffix}")
            return
    raise UnreadableCapture(
        f"There is no COLMAP model in the capture's {folder}.",
        hint=f"Upload a folder, not a zip, with {', '.join(NEEDED)} as .bin or .txt files in it, "
        "or leave Own poses (ingest_poses) empty.",
    )


def _refuse_impossible(name: str, path: Path) -> None:
    """Whoever reads a binary model makes room for as many things as it announces: so many must fit into the file.

    :raises UnreadableCapture: when they do not.
    """
    data = memoryview(path.read_bytes())
    try:
        (count,) = struct.unpack_from("<Q", data)
        place = 8
        if count * _LEAST_BYTES[name] > len(data):
            raise ValueError(f"it announces {count} {name}")
        for _ in range(count if name in ("images", "points3D") else 0):
            place += _LEAST_BYTES[name] - 8
            if name == "images":
                place = _end_of_name(data, place - 1)
            (inside,) = struct.unpack_from("<Q", data, place)
            place += 8 + inside * _BYTES_INSIDE[name]
            if place > len(data):
                raise ValueError(f"one of its {name} announces {inside} points or views")
    except (ValueError, struct.error) as error:
        raise UnreadableCapture(
            f"The capture's own poses are no COLMAP model that can be read: {name}.bin is {len(data)} bytes long, and "
            f"{'ends too soon' if isinstance(error, struct.error) else error}.",
            hint="Upload the model anew, as COLMAP writes it, or leave Own poses (ingest_poses) empty.",
        ) from None


def _end_of_name(data: memoryview, start: int) -> int:
    """Where an image's name, which ends with a zero byte, is over."""
    for end in range(start, min(start + LONGEST_STEP * 16, len(data))):
        if not data[end]:
            return end + 1
    raise ValueError("one of its images' names has no end")


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
