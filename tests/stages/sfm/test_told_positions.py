"""Positions and poses that another program found: what becomes of them beside what the photos show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sfm_runs import LONG_SIDE, Run

from e2e3d_stages.sfm.geodesy import Similarity, fit_local
from e2e3d_stages.sfm.params import Params

Pictures = dict[str, Image.Image]
Sfm = Callable[..., Run]
# From the scene's frame, where y is down, to a phone's, where y is up, turned and in units of its own.
SCALE = 0.31
TURN = np.array([[0.6, 0, 0.8], [0, 1, 0], [-0.8, 0, 0.6]]) @ np.diag([1.0, -1, -1])
SHIFT = np.array([3.0, 1.5, -2.0])


def walk() -> tuple[np.ndarray, np.ndarray]:
    """Camera centres on a ring in a mapper's frame, and its up."""
    turns = np.linspace(0, 6, 12)
    level = np.stack([np.cos(turns), 0.2 * np.sin(3 * turns), np.sin(turns)], axis=1)
    rotation = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    return level @ rotation.T, rotation @ [0, 1.0, 0]


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_whichever_axis_is_up_becomes_up_and_lengths_are_those_of_the_positions(axis: int, sign: float) -> None:
    centers, up = walk()
    # Any rotation that brings up to that axis.
    target = np.eye(3)[axis] * sign
    basis = [
        np.linalg.qr(np.column_stack([one, np.random.default_rng(1).normal(size=(3, 2))]))[0] for one in (up, target)
    ]
    signs = [np.sign(q[:, 0] @ one) for q, one in zip(basis, (up, target), strict=True)]
    turn = basis[1] @ np.diag([signs[0] * signs[1], 1, 1]) @ basis[0].T
    turn = turn if np.linalg.det(turn) > 0 else basis[1] @ np.diag([signs[0] * signs[1], -1, 1]) @ basis[0].T
    places = Similarity(2.5, turn, SHIFT)(centers)
    fit = fit_local(centers, places + np.random.default_rng(2).normal(0, 0.01, places.shape), up)
    assert fit.problem == ""
    assert fit.similarity is not None
    assert fit.similarity.rotation @ up == pytest.approx([0, 0, 1], abs=0.02)
    assert np.linalg.det(fit.similarity.rotation) == pytest.approx(1)
    assert fit.similarity.scale == pytest.approx(2.5, rel=0.01)


def test_positions_that_do_not_fit_say_why() -> None:
    centers, up = walk()
    assert fit_local(centers[:4], centers[:4], up).problem == "they tell the place of only 4 placed photos"
    noise = np.random.default_rng(2).normal(0, 0.3, centers.shape)
    assert "they are 0." in fit_local(centers, centers + noise, up).problem
    aslant = np.array([1.0, 1, 1]) / np.sqrt(3)
    assert "none of their axes is up: the nearest is 55 degrees off" in fit_local(centers, centers, aslant).problem


def told(scene: Run, **positions: Any) -> Callable[[dict[str, Any]], None]:
    """Puts the scene's own camera centres, as a phone would tell them, into ingest's record."""
    centers = dict(zip((view["name"] for view in scene.views), scene.centers, strict=True))

    def edit(record: dict[str, Any]) -> None:
        record["positions"] = {"source": "transforms.json", "meters": True, **positions}
        for photo in record["photos"]:
            photo["xyz"] = (SCALE * TURN @ centers[photo["name"]] + SHIFT).tolist()

    return edit


def lengths(centers: np.ndarray) -> np.ndarray:
    """Distances between every two."""
    first, second = np.triu_indices(len(centers), 1)
    return np.asarray(np.linalg.norm(centers[first] - centers[second], axis=1))


@pytest.mark.slow
def test_positions_in_metres_give_the_scene_its_scale_and_say_what_is_up(
    sfm: Sfm, pictures: Pictures, scene: Run
) -> None:
    run = sfm(pictures, told(scene))
    assert run.metrics["up_from"] == "positions"
    assert run.metrics["positions_photos"] == 8
    assert run.metrics["positions_residual_m"] < 0.01
    assert np.median(lengths(run.centers) / lengths(scene.centers)) == pytest.approx(SCALE, rel=0.01)
    # Its y is down, as in the scene that they were taken from.
    assert np.ptp((run.centers - SCALE * scene.centers)[:, 1]) < 0.02
    assert not (run.output / "georef.json").exists()


@pytest.mark.slow
def test_a_camera_height_gives_the_scene_metres_where_nothing_else_does(
    sfm: Sfm, pictures: Pictures, scene: Run
) -> None:
    assert scene.metrics["metres_from"] is None
    run = sfm(pictures, camera_height=42.0)
    assert run.metrics["metres_from"] == "camera_height"
    # The flight was level, over a level field.
    below = np.median(run.points["xyz"][:, 1]) - np.median(run.centers[:, 1])
    assert below == pytest.approx(42, rel=0.05)
    ratio = lengths(run.centers) / lengths(scene.centers)
    assert ratio == pytest.approx(np.median(ratio), rel=0.02)
    twice = told(scene)
    assert sfm(pictures, twice, camera_height=42.0).metrics["metres_from"] == "positions"


def test_a_camera_height_that_nobody_gave_changes_no_artifact_key() -> None:
    assert "camera_height" not in Params().keyed()
    assert Params(camera_height=1.6).keyed()["camera_height"] == 1.6


@pytest.mark.slow
def test_positions_that_were_not_measured_in_metres_change_nothing(sfm: Sfm, pictures: Pictures, scene: Run) -> None:
    run = sfm(pictures, told(scene, meters=False))
    assert run.metrics["up_from"] == scene.metrics["up_from"]
    assert "positions_photos" not in run.metrics


@pytest.mark.slow
def test_poses_that_are_told_are_kept_and_points_are_placed_by_them(sfm: Sfm, pictures: Pictures, scene: Run) -> None:
    views = {view["name"]: view for view in scene.views}

    def edit(record: dict[str, Any]) -> None:
        told(scene)(record)
        record["photos"][2].pop("xyz")
        for photo in record["photos"][:2] + record["photos"][3:]:
            view = views[photo["name"]]
            pose = np.linalg.inv(np.array(view["world_to_camera"]))
            pose[:3, :3] = TURN @ pose[:3, :3]
            pose[:3, 3] = photo["xyz"]
            # Undistortion crops; the focal length stays.
            lens = [view["fx"], view["fy"], photo["width"] / 2, photo["height"] / 2, 0, 0, 0, 0]
            photo["pose"] = {"camera_to_world": pose.tolist(), "model": "OPENCV", "lens": lens}
            photo["camera"] = 0

    run = sfm(pictures, edit)
    assert run.metrics["mapper"] == "own poses"
    assert run.metrics["photos_supported"] == 7
    assert run.metrics["points"] > 0.5 * scene.metrics["points"]
    assert run.metrics["up_from"] == "positions"
    others = np.delete(scene.centers, 2, axis=0)
    assert lengths(run.centers) == pytest.approx(SCALE * lengths(others), rel=1e-4)
    assert np.ptp((run.centers - SCALE * others)[:, 1]) < 1e-4
    assert max(max(view["width"], view["height"]) for view in run.views) <= LONG_SIDE
    left_out = [photo for photo in run.photos.values() if not photo["supported"]]
    assert [photo["reason"] for photo in left_out] == ["not in the capture's own poses, by its name and shape"]
