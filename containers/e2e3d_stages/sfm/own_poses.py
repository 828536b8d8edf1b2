"""Poses that came with the capture, for the photos as ingest prepared them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from e2e3d_stages.contract.messages import UnreadableCapture
from e2e3d_stages.sfm.naming import photo_called


def read_model(folder: Path) -> pycolmap.Reconstruction:
    """The model as it was uploaded.

    :raises UnreadableCapture: when COLMAP cannot read it.
    """
    try:
        model = pycolmap.Reconstruction(folder)
    except (ValueError, RuntimeError, IndexError, MemoryError) as error:
        raise UnreadableCapture(
            f"The capture's own poses are no COLMAP model that can be read: {error}",
            hint="Upload the model anew, as COLMAP writes it, or leave Own poses (ingest_poses) empty.",
        ) from error
    for image in list(model.images.values()):
        if image.has_pose and not np.isfinite(image.cam_from_world().matrix()).all():
            model.deregister_frame(image.frame_id)
    for number in [number for number, point in model.points3D.items() if not np.isfinite(point.xyz).all()]:
        model.delete_point3D(number)
    return model


def take_over(model: pycolmap.Reconstruction, photos: Sequence[dict[str, Any]]) -> None:
    """Give the model's images the names and sizes of the prepared photos; those that fit no photo lose their place.

    The model names a photo by its path in the capture, or by the end of it: `IMG_1.jpg` for `images/IMG_1.jpg`.

    :param photos: as ingest's `photos.json` has them.
    """
    scaled: dict[int, tuple[float, float]] = {}
    for image in list(model.images.values()):
        photo = photo_called(image.name, photos)
        camera = model.cameras[image.camera_id]
        if photo is None or not _fits(camera, photo, scaled=image.camera_id in scaled):
            if image.has_pose:
                model.deregister_frame(image.frame_id)
            continue
        if image.camera_id not in scaled:
            scaled[image.camera_id] = photo["width"] / camera.width, photo["height"] / camera.height
            camera.rescale(photo["width"], photo["height"])
        image.name = photo["name"]
        for point in image.points2D:
            point.xy = point.xy * scaled[image.camera_id]


def place_as_told(database: Path, photos: Sequence[dict[str, Any]]) -> pycolmap.Reconstruction:
    """A model without points of the photos that have a `pose`, their cameras as that says, in the database, too.

    :param database: with features of the photos.
    """
    poses = {photo["name"]: photo for photo in photos if "pose" in photo}
    model = pycolmap.Reconstruction()
    with closing(pycolmap.Database.open(database)) as found:
        for image in found.read_all_images():
            if image.name not in poses:
                continue
            photo, pose = poses[image.name], poses[image.name]["pose"]
            camera = found.read_camera(image.camera_id)
            camera.model, camera.params = pycolmap.CameraModelId.__members__[pose["model"]], pose["lens"]
            camera.width, camera.height, camera.has_prior_focal_length = photo["width"], photo["height"], True
            found.update_camera(camera)
            if image.camera_id not in model.cameras:
                model.add_camera_with_trivial_rig(camera)
            world_to_camera = np.linalg.inv(np.array(pose["camera_to_world"]))[:3]
            placed = pycolmap.Image(name=image.name, camera_id=image.camera_id, image_id=image.image_id)
            model.add_image_with_trivial_frame(placed, pycolmap.Rigid3d(world_to_camera))
    return model


def _fits(camera: pycolmap.Camera, photo: dict[str, Any], *, scaled: bool) -> bool:
    """Whether a photo, which ingest may have scaled down, has the camera's shape, to a pixel.

    :param scaled: whether the camera was scaled down to another of its photos.
    """
    if scaled:
        return bool(camera.width == photo["width"] and camera.height == photo["height"])
    return bool(abs(camera.height * photo["width"] / camera.width - photo["height"]) <= 1.5)
