"""The faces of panoramas stand at one place and are turned as they were rendered: each panorama is a frame of a rig."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from e2e3d_stages.sfm.pairs import Pair

Photo = Mapping[str, Any]


def units_of(photos: Sequence[Photo]) -> list[list[int]]:
    """The photos' places, those of one panorama together."""
    units: dict[str, list[int]] = {}
    for place, photo in enumerate(photos):
        # A panorama may be called like any photo, but no photo like one of its faces.
        units.setdefault(_panorama(photo) or f"photo {place}", []).append(place)
    return list(units.values())


def between(units: Sequence[Sequence[int]], pairs: Iterable[Pair]) -> list[Pair]:
    """Of pairs of units each photo of one with each of the other."""
    found = {(min(pair), max(pair)) for a, b in pairs for pair in product(units[a], units[b])}
    return sorted(found)


def same_panorama(first: Photo, second: Photo) -> bool:
    """Whether two photos are faces of one panorama: they share nothing but their place."""
    return bool(_panorama(first)) and _panorama(first) == _panorama(second)


def _panorama(photo: Photo) -> str:
    return str(photo["panorama"]["source"]) if "panorama" in photo else ""


def join_rigs(database: Path, photos: Sequence[Photo]) -> set[int]:
    """Tell COLMAP which images are faces of one panorama, and how they are turned to one another.

    :return: the ids of the faces' cameras.
    """
    faces = {photo["name"]: photo for photo in photos if "panorama" in photo}
    if not faces:
        return set()
    with closing(pycolmap.Database.open(database)) as found:
        images = [image for image in found.read_all_images() if image.name in faces]
        names = {image.image_id: image.name for image in images}
        turns = {image.camera_id: np.array(faces[image.name]["panorama"]["turn"]) for image in images}
        panoramas: dict[str, set[int]] = {}
        for image in images:
            panoramas.setdefault(_panorama(faces[image.name]), set()).add(image.camera_id)
        numbers = {name: number for number, name in enumerate(panoramas)}
        # COLMAP groups images by their names: a camera's begin alike, and those of a frame end alike.
        for image in images:
            image.name = f"{image.camera_id}/{numbers[_panorama(faces[image.name])]}"
            found.update_image(image)
        pycolmap.apply_rig_config([_rig(sorted(rig), turns) for rig in _joined(panoramas.values())], found)
        for image in found.read_all_images():
            if image.image_id in names:
                image.name = names[image.image_id]
                found.update_image(image)
    return set(turns)


def _joined(panoramas: Iterable[set[int]]) -> list[set[int]]:
    """The cameras of each rig: a panorama may lack a side that was like another's."""
    rigs: list[set[int]] = []
    for cameras in panoramas:
        apart = [rig for rig in rigs if not rig & cameras]
        rigs = [*apart, cameras.union(*(rig for rig in rigs if rig & cameras))]
    return rigs


def _rig(cameras: Sequence[int], turns: Mapping[int, Any]) -> pycolmap.RigConfig:
    """Cameras at one place, the first of which the others are turned against."""
    first = turns[cameras[0]]
    return pycolmap.RigConfig(
        cameras=[
            pycolmap.RigConfigCamera(
                ref_sensor=camera == cameras[0],
                image_prefix=f"{camera}/",
                cam_from_rig=None
                if camera == cameras[0]
                else pycolmap.Rigid3d(pycolmap.Rotation3d(turns[camera] @ first.T), np.zeros(3)),
            )
            for camera in cameras
        ]
    )
