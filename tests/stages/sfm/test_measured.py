"""A distance that somebody measured between two points that photos show: how it is told, and what it does."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pycolmap
import pytest
from PIL import Image
from sfm_runs import Run

from e2e3d_stages.contract.messages import InvalidRequest
from e2e3d_stages.registry import STAGES
from e2e3d_stages.sfm import stage
from e2e3d_stages.sfm.measured import EXAMPLE, Sighting, place_in, read_measured
from e2e3d_stages.sfm.params import Params
from e2e3d_stages.sfm.rays import Ray, meeting_point

Pictures = dict[str, Image.Image]
Sfm = Callable[..., Run]
Edit = Callable[[dict[str, Any]], None]


def test_it_is_a_line_with_a_length_and_the_photos_that_show_each_end() -> None:
    told = read_measured(EXAMPLE)
    assert told.metres == 1.25
    assert told.ends[0] == (Sighting("a.jpg", 812, 403), Sighting("b.jpg", 655, 391))
    assert told.ends[1] == (Sighting("a.jpg", 1210, 388), Sighting("b.jpg", 1044, 402))


def test_names_may_have_spaces_folders_and_signs_and_places_may_be_between_pixels() -> None:
    told = read_measured("2m from way to go.jpg@1,2.5 day 1/b@2x.jpg@3,4 to walk.mp4/0003.250 s@5,6 c.jpg@7,8")
    assert told.ends[0] == (Sighting("way to go.jpg", 1, 2.5), Sighting("day 1/b@2x.jpg", 3, 4))
    assert told.ends[1] == (Sighting("walk.mp4/0003.250 s", 5, 6), Sighting("c.jpg", 7, 8))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a.jpg@1,2 b.jpg@3,4 to a.jpg@5,6 b.jpg@7,8", "the distance in metres"),
        ("0 m from a.jpg@1,2 b.jpg@3,4 to a.jpg@5,6 b.jpg@7,8", "the distance in metres"),
        ("-2 m from a.jpg@1,2 b.jpg@3,4 to a.jpg@5,6 b.jpg@7,8", "the distance in metres"),
        ("2 m from a.jpg@1,2 b.jpg@3,4", "its other end"),
        ("2 m from a.jpg@1,2 to a.jpg@5,6 b.jpg@7,8", "two photos or more"),
        ("2 m from a.jpg@1,2 a.jpg@3,4 to a.jpg@5,6 b.jpg@7,8", "two photos or more"),
        ("2 m from a.jpg@1,2 b.jpg@3,4 to a.jpg@5,6 b.jpg", "'b.jpg' is no photo with a place in it"),
        ("2 m from a.jpg@1,2 b.jpg@3,4 to a.jpg@5,6 b.jpg@7;8", "is no photo with a place in it"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs_with_what_is_missing(text: str, why: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        STAGES["sfm"].resolve("standard", {"measured": text})
    assert why in refused.value.message


def test_a_long_line_of_nonsense_is_read_at_once() -> None:
    with pytest.raises(ValueError, match="other end"):
        read_measured("2 m from " + "@1,1 to" * 280 + "@1,1")


def test_a_distance_that_nobody_measured_changes_no_artifact_key() -> None:
    assert "measured" not in Params().keyed()
    assert Params(measured=EXAMPLE).keyed()["measured"] == EXAMPLE


PHOTOS = [
    {"name": "001_a.jpg", "source": "day 1/a.jpg", "width": 400, "height": 300, "full": [4000, 3000]},
    {"name": "002_a.jpg", "source": "day 2/a.jpg", "width": 300, "height": 400, "full": [3000, 4000]},
    {"name": "003_b.jpg", "source": "b.jpg", "width": 400, "height": 300},
]


def test_pixels_are_those_of_the_photo_as_it_was_uploaded() -> None:
    photo, pixel = place_in(Sighting("day 2/a.jpg", 2999, 0), PHOTOS)
    assert photo["name"] == "002_a.jpg"
    assert pixel == pytest.approx((299.95, 0.05))


@pytest.mark.parametrize(
    ("sighting", "why", "what_to_do"),
    [
        (Sighting("c.jpg", 1, 1), "no photo that is used is called so", "name photos as the capture does: day 1/a.jpg"),
        (Sighting("a.jpg", 1, 1), "or several are", "name photos as the capture does"),
        (Sighting("day 1/a.jpg", 1, 3000), "day 1/a.jpg@1,3000, and that photo has 4000 x 3000", "upper left corner"),
        (Sighting("b.jpg", 1, 1), "did not note how large they were", "ingest under Re-run stages"),
    ],
)
def test_a_place_that_is_in_no_photo_is_refused(sighting: Sighting, why: str, what_to_do: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        place_in(sighting, PHOTOS)
    assert why in refused.value.message
    assert what_to_do in refused.value.hint


def sight(center: list[float], at: list[float], name: str = "a.jpg@1,2") -> Ray:
    """A photo with 4,000 px at 3,000 px of focal length, from which a point is seen."""
    direction = np.array(at, float) - center
    return Ray(name, np.array(center, float), direction / np.linalg.norm(direction), focal=3000, long_side=4000)


def test_lines_of_sight_meet_in_the_point_that_they_show() -> None:
    point, miss = meeting_point([sight(place, [1, 2, 9]) for place in ([0, 0, 0], [2, 0, 0], [0, 3, 1])])
    assert point == pytest.approx([1, 2, 9])
    assert miss == pytest.approx(0, abs=1e-6)


def test_a_point_that_photos_show_a_little_apart_lies_between_and_the_miss_is_told_in_pixels() -> None:
    point, miss = meeting_point([sight([-2, 0, 0], [0, 0.005, 10]), sight([2, 0, 0], [0, -0.005, 10])])
    assert point == pytest.approx([0, 0, 10], abs=1e-3)
    assert miss == pytest.approx(3000 * 0.005 / np.hypot(2, 10), rel=1e-3)


@pytest.mark.parametrize(
    ("rays", "why"),
    [
        ([sight([0, 0, 0], [0, 0, 9]), sight([0.1, 0, 0], [0, 0, 9])], "0.6 degrees apart, and 3 are needed"),
        ([sight([-2, 0, 0], [0, 0.1, 10]), sight([2, 0, 0], [0, -0.1, 10], "b.jpg@3,4")], "is 29 px off; 20 px are"),
        ([sight([-2, 0, 0], [-4, 0, 10]), sight([2, 0, 0], [4, 0, 10])], "has it behind its camera"),
    ],
)
def test_lines_of_sight_that_do_not_meet_are_refused_with_the_figures(rays: list[Ray], why: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        meeting_point(rays)
    assert why in refused.value.message
    assert refused.value.hint


def test_a_photo_that_does_not_exist_is_told_before_hours_of_work(
    sfm: Sfm, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "supervise", lambda *_: pytest.fail("it went to work"))
    with pytest.raises(InvalidRequest, match=r"names a\.jpg: no photo that is used is called so"):
        sfm(pictures, measured=EXAMPLE)


# A lens that bends lines, so that what is told must be straightened.
DISTORTION = 0.02
# Of the sample's photos, and as they are prepared here.
FULL, PREPARED = (1000, 750), (400, 300)
METRES = 12.5


def lens(view: dict[str, Any]) -> pycolmap.Camera:
    """What a photo was taken with before it was straightened."""
    width, height = PREPARED
    params = [view["fx"], view["fy"], width / 2, height / 2, DISTORTION, 0, 0, 0]
    return pycolmap.Camera(model="OPENCV", params=params, width=width, height=height)


@pytest.fixture(scope="module")
def field(scene: Run) -> SimpleNamespace:
    """The sample's corner with poses that are told, and two of its points.

    `edit` tells `sfm` the poses, `ends` are the places of the points in two photos each, `length` is how far apart they
    are in the unit of the poses.
    """
    views, points = scene.views, scene.points
    sources = {photo["name"]: photo["source"] for photo in scene.json("photos.json")}

    def edit(record: dict[str, Any]) -> None:
        by_name = {view["name"]: view for view in views}
        for photo in record["photos"]:
            view = by_name[photo["name"]]
            pose = np.linalg.inv(np.array(view["world_to_camera"]))
            params = lens(view).params.tolist()
            photo |= {"camera": 0, "pose": {"camera_to_world": pose.tolist(), "model": "OPENCV", "lens": params}}

    def sightings(point: int) -> str:
        """In the first and the last photo that show it."""
        found = []
        for view in (views[each] for each in points["view"][points["point"] == point][[0, -1]]):
            pose = np.array(view["world_to_camera"])
            pixel = np.asarray(lens(view).img_from_cam(pose[:3, :3] @ points["xyz"][point] + pose[:3, 3]))
            across, down = pixel * FULL / PREPARED - 0.5
            found.append(f"{sources[view['name']]}@{across:.2f},{down:.2f}")
        return " ".join(found)

    often = np.flatnonzero(np.bincount(points["point"]) >= 5)
    along = points["xyz"][often] @ [1, 0, 1]
    first, last = int(often[np.argmin(along)]), int(often[np.argmax(along)])
    return SimpleNamespace(
        edit=edit,
        ends=(sightings(first), sightings(last)),
        length=float(np.linalg.norm(points["xyz"][first] - points["xyz"][last])),
    )


@pytest.mark.slow
def test_a_measured_distance_gives_the_scene_metres_where_nothing_else_does(
    sfm: Sfm, pictures: Pictures, scene: Run, field: SimpleNamespace
) -> None:
    text = f"{METRES} m from {field.ends[0]} to {field.ends[1]}"
    run = sfm(pictures, field.edit, measured=text, camera_height=42.0)
    assert run.metrics["metres_from"] == "measured"
    assert run.metrics["measured_m"] == pytest.approx(METRES)
    assert run.metrics["measured_miss_px"] < 0.1
    assert spread(run) / spread(scene) == pytest.approx(METRES / field.length, rel=1e-4)
    assert "camera_height_not_needed" in {warning.code for warning in run.warnings}


@pytest.mark.slow
def test_where_positions_give_the_metres_it_tells_what_the_distance_is_by_them(
    sfm: Sfm, pictures: Pictures, scene: Run, field: SimpleNamespace
) -> None:
    def edit(record: dict[str, Any]) -> None:
        field.edit(record)
        record["positions"] = {"source": "transforms.json", "meters": True}
        for photo in record["photos"]:
            photo["xyz"] = (np.array(photo["pose"]["camera_to_world"])[:3, 3] * [3, -3, -3]).tolist()

    run = sfm(pictures, edit, measured=f"{METRES} m from {field.ends[0]} to {field.ends[1]}")
    assert run.metrics["metres_from"] == "positions"
    assert run.metrics["measured_m"] == pytest.approx(3 * field.length, rel=1e-3)
    (told,) = [warning for warning in run.warnings if warning.code == "measured_not_needed"]
    assert f"measured as 12.5 m has {3 * field.length:.4g} m" in told.message


@pytest.mark.slow
def test_photos_that_show_other_things_fail_for_good_with_what_to_do(
    sfm: Sfm, pictures: Pictures, field: SimpleNamespace
) -> None:
    (one, other), (third, fourth) = (end.split() for end in field.ends)
    with pytest.raises(InvalidRequest, match="do not show the same end") as refused:
        sfm(pictures, field.edit, measured=f"{METRES} m from {one} {fourth} to {third} {other}")
    assert "look up again" in refused.value.hint


def spread(run: Run) -> float:
    """How far its cameras are from one another."""
    return float(np.linalg.norm(run.centers - run.centers.mean(0)))
