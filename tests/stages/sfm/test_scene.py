from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pycolmap
import pytest
from PIL import Image
from sfm_runs import LONG_SIDE, Run

from tests.conftest import ROOT
from tests.panorama_room import seen

# Photos are matched and placed for real.
pytestmark = pytest.mark.slow

Pictures = dict[str, Image.Image]
Sfm = Callable[..., Run]


def test_all_photos_of_a_good_capture_are_placed(scene: Run) -> None:
    assert scene.metrics["photos_given"] == scene.metrics["photos_registered"] == scene.metrics["photos_supported"] == 8
    assert scene.metrics["registered_share"] == 1
    assert scene.metrics["models"] == 1
    assert scene.metrics["mapper"] == "incremental"
    assert scene.metrics["points_per_photo_median"] > 100
    assert scene.metrics["reprojection_error_px"] < 1
    assert all(photo["reason"] is None for photo in scene.photos.values())


def test_the_focal_length_stays_near_the_one_from_exif(scene: Run) -> None:
    assert scene.views[0]["fx"] == pytest.approx(746 * LONG_SIDE / 1000, rel=0.08)


def test_views_are_sorted_and_describe_the_undistorted_photos(scene: Run) -> None:
    views = scene.views
    assert [view["order"] for view in views] == list(range(8))
    assert sorted(path.name for path in (scene.output / "images").iterdir()) == [view["name"] for view in views]
    for view in views:
        with Image.open(scene.output / "images" / view["name"]) as image:
            assert image.size == (view["width"], view["height"])
            edge = np.asarray(image.convert("L"))
        assert min(line.max() for line in (edge[0], edge[-1], edge[:, 0], edge[:, -1])) > 20  # no blank border


def test_the_world_is_upright_and_centred_on_the_subject(scene: Run) -> None:
    """The drone looks down: it must hang above the ground, towards -Y, and the ground must be level."""
    xyz = scene.points["xyz"]
    assert np.abs(np.median(xyz, axis=0)).max() < 0.5
    assert scene.centers[:, 1].max() < -3
    assert np.ptp(np.percentile(xyz[:, 1], [5, 95])) < 0.3 * np.ptp(np.percentile(xyz[:, 0], [5, 95]))
    assert scene.metrics["up_from"] == "nadir"


def test_points_are_where_the_photos_that_observe_them_say(scene: Run) -> None:
    points = scene.points
    model = pycolmap.Reconstruction(scene.output / "sparse" / "0")
    assert model.num_points3D() == len(points["xyz"]) == scene.metrics["points"]
    for number, view in enumerate(scene.views):
        pose = np.array(view["world_to_camera"])
        seen = points["xyz"][points["point"][points["view"] == number]] @ pose[:3, :3].T + pose[:3, 3]
        assert len(seen) == pytest.approx(scene.json("photos.json")[view["order"]]["observations"], rel=0.05)
        assert (seen[:, 2] > 0).all()
        pixels = seen[:, :2] / seen[:, 2:] * [view["fx"], view["fy"]] + [view["cx"], view["cy"]]
        image = model.find_image_with_name(view["name"])
        observed = np.array([point.xy for point in image.points2D if point.has_point3D()])
        distance = np.linalg.norm(pixels[:, None] - observed[None], axis=2).min(axis=1)
        assert np.median(distance) < 1
    assert points["rgb"].dtype == np.uint8
    assert points["view"].dtype == points["point"].dtype == np.int32


def test_landscape_and_portrait_photos_are_used_together_and_gps_that_fits_is_used(
    sfm: Sfm, scene: Run, pictures: Pictures
) -> None:
    """Half of the photos turned on their side, and GPS made from the first run's cameras, with one gross error."""
    mixed = {
        name: image.transpose(Image.Transpose.ROTATE_90) if number % 2 else image
        for number, (name, image) in enumerate(pictures.items())
    }
    meters = 10 * scene.centers @ np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]).T  # east, north, up
    meters[3] += [200, 0, 0]

    def with_gps(record: dict[str, Any]) -> None:
        for photo, (east, north, up) in zip(record["photos"], meters, strict=True):
            lon = -98 + np.degrees(east / (6383480.9 * np.cos(np.radians(30))))
            photo["gps"] = {"lat": 30 + np.degrees(north / 6351377.1), "lon": lon, "alt": 300 + up}

    run = sfm(mixed, with_gps)
    assert run.metrics["photos_supported"] == 8
    assert run.metrics["cameras"] == 2
    assert len({(view["width"] > view["height"]) for view in run.views}) == 2

    assert run.metrics["up_from"] == "gps"
    assert run.metrics["gps_residual_m"] < 0.5
    matrix = np.array(run.json("georef.json")["scene_to_enu"])
    enu = run.centers @ matrix[:3, :3].T + matrix[:3, 3]
    good = np.arange(8) != 3
    # The same shape in the same directions; only the origin is georef.json's own.
    offset = (enu - meters)[good]
    assert np.abs(offset - offset.mean(0)).max() < 1
    assert run.centers[:, 1].max() < 0


def test_gps_that_does_not_fit_is_reported_and_not_used(scene: Run) -> None:
    assert not (scene.output / "georef.json").exists()
    assert scene.metrics["gps_problem"]
    assert "gps_not_used" in {warning.code for warning in scene.warnings}


def test_unrelated_photos_end_in_an_empty_scene_with_reasons(sfm: Sfm) -> None:
    random = np.random.default_rng(3)
    unrelated = {
        f"{name}.jpg": Image.fromarray(random.integers(0, top, (30, 40, 3), np.uint8)).resize((400, 300))
        for name, top in [("a", 255), ("b", 255), ("c", 255), ("night", 12)]
    }
    run = sfm(unrelated, max_features=1024)
    assert run.metrics["photos_supported"] == 0
    assert run.metrics["registered_share"] == 0
    assert run.views == []
    assert run.points["xyz"].shape == (0, 3)
    assert run.photos["a.jpg"]["reason"].startswith("no overlap")
    assert run.photos["night.jpg"]["reason"].startswith("too dark")
    assert any("; night.jpg: too dark" in warning.message for warning in run.warnings)


def test_a_camera_that_only_turned_is_measured_to_have(sfm: Sfm, scene: Run) -> None:
    walls = [Image.open(path) for path in sorted((ROOT / "sample/caliterra/images").glob("*.jpg"))[::5][:6]]
    x, y = np.meshgrid(np.arange(400) + 0.5 - 200, np.arange(300) + 0.5 - 150)
    rays = np.stack([x / 350, y / 350, np.ones_like(x)], axis=-1)
    pictures = {}
    for number, yaw in enumerate(np.radians(np.arange(0, 96, 12))):
        turn = np.array([[np.cos(yaw), 0, -np.sin(yaw)], [0, 1, 0], [np.sin(yaw), 0, np.cos(yaw)]])
        pictures[f"T{number}.jpg"] = Image.fromarray(seen(walls, (0.3, 0.1, -0.4), rays @ turn))
    assert sfm(pictures).metrics["turned_share"] > 0.8
    assert scene.metrics["turned_share"] < 0.3
