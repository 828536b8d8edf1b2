"""What structure from motion tells later stages: from where photos were taken, and what they show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from e2e3d_stages.contract.messages import StageError

if TYPE_CHECKING:
    from e2e3d_stages.runtime.context import InputArtifact

View = dict[str, Any]


def in_metres(sfm: InputArtifact) -> bool:
    """Whether the scene's unit is a metre: by GPS, by positions that came along, or by what somebody measured."""
    # Artifacts from before that was a metric have it from GPS alone.
    return bool(sfm.manifest.metrics.get("metres_from")) or (sfm.folder / "georef.json").is_file()


def camera_place(view: View) -> NDArray[np.float64]:
    """Where a photo was taken (3,), in the scene's frame."""
    pose = np.array(view["world_to_camera"])
    place: NDArray[np.float64] = -pose[:3, :3].T @ pose[:3, 3]
    return place


def viewing_distance(view: View, points: NDArray[np.floating[Any]]) -> float:
    """How far what a camera looks at is: the median depth of the points before it, and 1 where there is none."""
    pose = np.array(view["world_to_camera"])
    depth = points @ pose[2, :3] + pose[2, 3]
    return float(np.median(depth[depth > 0])) if (depth > 0).any() else 1.0


def views_and_points(sfm: Path) -> tuple[list[View], NDArray[np.float32]]:
    """The entries of `views.json`, and the points (N, 3) in the scene's frame; at least one of each.

    :param sfm: the artifact's folder.
    :raises StageError: when no photo has a known camera.
    """
    views: list[View] = json.loads((sfm / "views.json").read_text(encoding="utf-8"))
    with np.load(sfm / "points.npz") as stored:
        points: NDArray[np.float32] = stored["xyz"]
    if not views or not len(points):
        raise StageError(
            "There is no photo with a known camera, so there is no scene to show.",
            hint="Trigger again with sfm under Re-run stages (force).",
        )
    return views, points
