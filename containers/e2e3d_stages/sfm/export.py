"""Write a model in the world frame as the files that later stages read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from PIL import Image

JPEG_QUALITY = 95
# Where in the scratch folder pycolmap puts the photos first.
UNDISTORTED = "undistorted"
_PINHOLE = pycolmap.UndistortCameraOptions(blank_pixels=0.0)


@dataclass(frozen=True)
class Masks:
    """What of the photos does not count.

    :param folder: with `PHOTO.png` for each photo that has a mask, black where it does not count.
    :param cut_out: whether there is nothing where it does not count, and not just something unknown.
    """

    folder: Path
    cut_out: bool


def write_scene(
    model: pycolmap.Reconstruction,
    images: Path,
    names: Sequence[str],
    output: Path,
    scratch: Path,
    threads: int,
    masks: Masks | None = None,
) -> dict[str, Any]:
    """Undistort the model's photos, and write `images/`, `sparse/0`, `views.json` and `points.npz`.

    A view's `masked` says what its mask in `masks/` hides: `empty` or `unknown`. An empty model gives empty, valid
    files.

    :param names: all given photos in the capture's order.
    :return: metrics of the model.
    """
    used = [image for image in model.images.values() if image.has_pose]
    error = model.compute_mean_reprojection_error() if used else None
    track = model.compute_mean_track_length() if used else None
    undistorted = _undistort(model, images, output, scratch, threads) if used else _empty(output)
    order = {name: place for place, name in enumerate(names)}
    views = sorted((image for image in undistorted.images.values() if image.has_pose), key=lambda i: order[i.name])
    records = [_view(image, undistorted.cameras[image.camera_id], order[image.name]) for image in views]
    if masks:
        cameras = {image.name: model.cameras[image.camera_id] for image in used}
        for record in records:
            if (masks.folder / f"{record['name']}.png").exists():
                _undistort_mask(masks.folder, cameras[record["name"]], record, output / "masks")
                record["masked"] = "empty" if masks.cut_out else "unknown"
    (output / "views.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    seen = _write_points(undistorted, views, output / "points.npz")
    focals = sorted({round(record["fx"], 1) for record in records})
    return {
        "points": undistorted.num_points3D(),
        "points_per_photo_median": float(np.median(seen)) if seen else 0.0,
        "reprojection_error_px": None if error is None else round(error, 4),
        "track_length_mean": None if track is None else round(track, 3),
        "cameras": len({image.camera_id for image in views}),
        "focal_px": focals[:10],
    }


def _undistort(
    model: pycolmap.Reconstruction, images: Path, output: Path, scratch: Path, threads: int
) -> pycolmap.Reconstruction:
    """Pinhole photos, cropped so that no pixel is blank."""
    distorted, folder = scratch / "distorted", scratch / UNDISTORTED
    distorted.mkdir()
    model.write(distorted)
    pycolmap.undistort_images(
        folder,
        distorted,
        images,
        undistort_options=_PINHOLE,
        jpeg_quality=JPEG_QUALITY,
        num_threads=threads,
    )
    shutil.move(folder / "images", output / "images")
    undistorted = pycolmap.Reconstruction(folder / "sparse")
    (output / "sparse" / "0").mkdir(parents=True)
    undistorted.write(output / "sparse" / "0")
    return undistorted


def _undistort_mask(folder: Path, camera: pycolmap.Camera, view: dict[str, Any], target: Path) -> None:
    """The mask of a view, as its photo was undistorted."""
    target.mkdir(exist_ok=True)
    name = f"{view['name']}.png"
    with Image.open(folder / name) as mask:
        grey = pycolmap.Bitmap.from_array(np.asarray(mask.convert("L")))
    straight, _ = pycolmap.undistort_image(_PINHOLE, grey, camera)
    kept = straight.to_array().reshape(view["height"], view["width"]) > 127
    Image.fromarray(kept).save(target / name)


def _empty(output: Path) -> pycolmap.Reconstruction:
    (output / "images").mkdir()
    (output / "sparse" / "0").mkdir(parents=True)
    nothing = pycolmap.Reconstruction()
    nothing.write(output / "sparse" / "0")
    return nothing


def _view(image: pycolmap.Image, camera: pycolmap.Camera, order: int) -> dict[str, Any]:
    pose = np.vstack([image.cam_from_world().matrix(), [0, 0, 0, 1]])
    return {
        "name": image.name,
        "order": order,
        "width": camera.width,
        "height": camera.height,
        "fx": camera.focal_length_x,
        "fy": camera.focal_length_y,
        "cx": camera.principal_point_x,
        "cy": camera.principal_point_y,
        "world_to_camera": pose.tolist(),
    }


def _write_points(model: pycolmap.Reconstruction, views: Sequence[pycolmap.Image], path: Path) -> list[int]:
    """Write points and who sees them; returns the number of points that each view sees."""
    rows = {point_id: row for row, point_id in enumerate(sorted(model.points3D))}
    points = [model.points3D[point_id] for point_id in rows]
    seen = [sorted({rows[p.point3D_id] for p in image.points2D if p.has_point3D()}) for image in views]
    np.savez_compressed(
        path,
        xyz=np.array([point.xyz for point in points], np.float32).reshape(-1, 3),
        rgb=np.array([point.color for point in points], np.uint8).reshape(-1, 3),
        error=np.array([point.error for point in points], np.float32),
        view=np.repeat(np.arange(len(views), dtype=np.int32), [len(row) for row in seen]),
        point=np.array([row for rows_of_view in seen for row in rows_of_view], np.int32),
    )
    return [len(row) for row in seen]
