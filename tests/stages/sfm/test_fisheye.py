"""Photos of lenses that see very much: taken for those of a fisheye where that explains them better."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pycolmap
import pytest
from PIL import Image
from sfm_runs import Run

from e2e3d_stages.sfm import reconstruct
from e2e3d_stages.sfm.geodesy import fit_similarity
from e2e3d_stages.sfm.params import Params
from tests.conftest import ROOT
from tests.panorama_room import seen

PLACES = [(0.9 * np.cos(turn), 0.25 * np.sin(2 * turn), 1.1 * np.sin(turn)) for turn in np.arange(10) * np.pi / 5]
WIDTH, HEIGHT, FOCAL = 400, 300, 138.0


def fisheye_photo(walls: list[Image.Image], place: tuple[float, float, float], degrees: float) -> Image.Image:
    """Of an equidistant fisheye: an angle from the middle is as many pixels anywhere."""
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5 - WIDTH / 2, np.arange(HEIGHT) + 0.5 - HEIGHT / 2)
    radius = np.hypot(x, y)
    aside = np.sin(radius / FOCAL) / radius
    turn = np.radians(degrees)
    turned = np.array([[np.cos(turn), 0, -np.sin(turn)], [0, 1, 0], [np.sin(turn), 0, np.cos(turn)]])
    return Image.fromarray(seen(walls, place, np.stack([aside * x, aside * y, np.cos(radius / FOCAL)], -1) @ turned))


@pytest.mark.slow
def test_photos_of_a_fisheye_are_placed_by_its_model_and_straightened(sfm: Callable[..., Run]) -> None:
    walls = [Image.open(path) for path in sorted((ROOT / "sample" / "caliterra" / "images").glob("*.jpg"))[::5][:6]]
    run = sfm(
        {f"F{n}.png": fisheye_photo(walls, place, 36 * n + 20) for n, place in enumerate(PLACES)},
        first_octave=-1,
        orientations=1,
        max_features=3000,
    )
    assert run.metrics["fisheye"]
    assert run.metrics["photos_supported"] == 10
    assert [advice.code for advice in run.warnings] == ["fisheye"]
    fit = fit_similarity(run.centers, np.array(PLACES))
    assert np.linalg.norm(fit(run.centers) - PLACES, axis=1).max() < 0.02
    # In the middle a straightened photo is as large as it was, and a room's edges are straight in it.
    view = run.views[0]
    assert view["fx"] == pytest.approx(FOCAL, rel=0.02)
    x, y = np.meshgrid(np.arange(view["width"]) + 0.5 - view["cx"], np.arange(view["height"]) + 0.5 - view["cy"])
    turn = np.radians(20)
    turned = np.array([[np.cos(turn), 0, -np.sin(turn)], [0, 1, 0], [np.sin(turn), 0, np.cos(turn)]])
    truth = seen(walls, PLACES[0], np.stack([x / view["fx"], y / view["fy"], np.ones_like(x)], -1) @ turned)
    straightened = np.asarray(Image.open(run.output / "images" / view["name"]), float)
    alike = [np.corrcoef(straightened.ravel(), each.ravel())[0, 1] for each in (truth, np.roll(truth, 6, axis=1))]
    assert alike[0] > 0.8
    assert alike[0] > alike[1] + 0.1


def model(focal: float, error: float) -> Any:
    camera = SimpleNamespace(camera_id=1, width=1000, height=750, mean_focal_length=lambda: focal)
    return SimpleNamespace(cameras={1: camera}, compute_mean_reprojection_error=lambda: error)


def photos(focal: float | None) -> list[dict[str, Any]]:
    return [{"name": f"{n}.jpg", "focal_px": focal, "width": 1000, "height": 750} for n in range(10)]


@pytest.mark.parametrize(
    ("found", "told", "wide"),
    [(700, 300, False), (500, 900, True), (None, 500, True), (None, 700, False), (None, None, False)],
)
def test_a_lens_is_wide_by_what_was_found_or_else_by_exif(
    found: float | None, told: float | None, wide: bool, tmp_path: Path
) -> None:
    task = reconstruct.Task(tmp_path, photos(told), Params(), 1, tmp_path, tmp_path)
    assert reconstruct.is_wide(task, [model(found, 1)] if found else []) is wide


@pytest.mark.parametrize(
    ("error", "missing", "taken"),
    [(0.4, 0, True), (0.7, 0, False), (0.4, 3, False)],
    ids=["better", "no better", "fewer"],
)
def test_a_fisheye_is_taken_only_where_it_explains_as_many_photos_much_better(
    error: float, missing: int, taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = reconstruct.Task(tmp_path, photos(None), Params(), 1, tmp_path, tmp_path)
    with pycolmap.Database.open(task.database) as database:
        database.write_camera(pycolmap.Camera.create_from_model_name(1, "SIMPLE_RADIAL", 500, 1000, 750))
    straight, fisheye = [model(500, 0.8)], [model(400, error)]
    monkeypatch.setattr(reconstruct, "_verify_again", lambda *_: None)
    monkeypatch.setattr(reconstruct, "map_incrementally", lambda _: fisheye)
    monkeypatch.setattr(reconstruct, "_missing", lambda _, models: [0] * (missing if models is fisheye else 1))
    assert reconstruct.reconstruct_fisheye(task, [], ("global", straight)) == (
        ("incremental", fisheye) if taken else ("global", straight)
    )
    with pycolmap.Database.open(task.database) as database:
        (camera,) = database.read_all_cameras()
    assert camera.model_name == ("OPENCV_FISHEYE" if taken else "SIMPLE_RADIAL")
