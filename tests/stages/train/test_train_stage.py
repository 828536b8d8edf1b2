"""The train stage: from an `sfm` artifact to a scene."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from synthetic import FakeJob, write_sfm

from e2e3d_stages.contract.messages import Interrupted, InvalidRequest, OutOfMemory, StageError
from e2e3d_stages.splats.camera import Camera
from e2e3d_stages.splats.gaussians import read_ply
from e2e3d_stages.splats.quality import psnr
from e2e3d_stages.splats.rasterizer import Renderer
from e2e3d_stages.train import seeding, stage
from e2e3d_stages.train.params import PRESETS, Params
from e2e3d_stages.train.scene import Photos, Points, Scene, View, load_scene, split_heldout
from e2e3d_stages.train.seeding import _depths, seed

MakeJob = Callable[..., FakeJob]


@pytest.fixture(scope="module")
def trained(sfm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[FakeJob, dict[str, Any]]:
    """A short training with one photo of nine held out."""
    job = FakeJob(sfm, tmp_path_factory.mktemp("train"), iterations=300, holdout=8)
    return job, stage.run(job)


@pytest.fixture(scope="module")
def usual(sfm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[FakeJob, dict[str, Any]]:
    """The shortest training, no parameter changed."""
    job = FakeJob(sfm, tmp_path_factory.mktemp("usual"))
    return job, stage.run(job)


@pytest.fixture(scope="module")
def half_covered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An `sfm` artifact with points in the scene's left half only."""
    return write_sfm(tmp_path_factory.mktemp("half") / "sfm", points_in="left")


@pytest.fixture
def tenfold(monkeypatch: pytest.MonkeyPatch) -> None:
    """What training does every 100 steps is done every 10, so that a tenth of the steps shows as much."""
    monkeypatch.setattr(stage, "REFINE_EVERY", stage.REFINE_EVERY // 10)
    monkeypatch.setattr(stage, "REFINE_FROM", stage.REFINE_FROM // 10)


@pytest.mark.slow
def test_a_view_that_was_not_trained_on_looks_like_its_photo(trained: tuple[FakeJob, dict], sfm: Path) -> None:
    job, metrics = trained
    assert job.record["holdout"] == ["photo_04.png"]
    view = json.loads((sfm / "views.json").read_text())[4]
    photo = np.asarray(Image.open(sfm / "images" / "photo_04.png")) / 255
    render = Renderer(read_ply(job.output / "scene.ply")).image(view, view["width"], view["height"])
    assert psnr(render, photo) > 22
    assert metrics["psnr_training"] > 24


@pytest.mark.slow
def test_the_artifact_has_scene_record_and_preview(trained: tuple[FakeJob, dict]) -> None:
    job, metrics = trained
    assert sorted(path.name for path in job.output.iterdir()) == ["preview.jpg", "scene.ply", "training.json"]
    assert len(read_ply(job.output / "scene.ply")) == metrics["gaussians"]
    assert [point["step"] for point in job.record["curve"]] == [100, 200, 300]
    assert job.record["resumed_from"] is None
    assert metrics["views_training"] == 8
    assert metrics["views_heldout"] == 1
    json.dumps(metrics)


def test_the_number_of_gaussians_grows_to_the_cap_and_never_beyond(make_job: MakeJob, tenfold: None) -> None:
    job = make_job(iterations=100, max_gaussians=2_000)
    metrics = stage.run(job)
    assert metrics["seeded"] < metrics["gaussians"] == max(job.gaussians) == 2_000


def test_a_cap_below_the_number_of_points_holds_from_the_first_step(make_job: MakeJob) -> None:
    job = make_job(max_gaussians=100)
    stage.run(job)
    assert set(job.gaussians) == {100}


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"iterations": 20}, "iterations"),
        ({"max_gaussians": 120}, "gaussians"),
        ({"sh_degree": 2}, "sh_degree"),
        ({"long_side": 32}, "long_side"),
        ({"holdout": 3}, "views_training"),
        ({"seed": 1}, "psnr_training"),
        ({"coarse_to_fine": False}, "psnr_training"),
        ({"ssim_weight": 0.9}, "psnr_training"),
    ],
)
def test_every_parameter_changes_what_runs(
    usual: tuple[FakeJob, dict], make_job: MakeJob, change: dict[str, Any], differs: str
) -> None:
    assert stage.run(make_job(**change))[differs] != usual[1][differs]


def test_more_bands_of_harmonics_end_up_in_the_file(make_job: MakeJob) -> None:
    job = make_job(sh_degree=2)
    stage.run(job)
    assert read_ply(job.output / "scene.ply").sh.shape[1] == 9


def test_the_same_seed_gives_the_same_scene(usual: tuple[FakeJob, dict], make_job: MakeJob) -> None:
    job = make_job()
    stage.run(job)
    assert (job.output / "scene.ply").read_bytes() == (usual[0].output / "scene.ply").read_bytes()


@pytest.mark.parametrize("threads", [1, 4])
def test_the_scene_does_not_depend_on_the_number_of_threads(
    usual: tuple[FakeJob, dict], make_job: MakeJob, threads: int
) -> None:
    job = make_job()
    assert usual[0].threads == 2
    job.threads = threads
    stage.run(job)
    assert (job.output / "scene.ply").read_bytes() == (usual[0].output / "scene.ply").read_bytes()


def test_training_goes_on_from_the_checkpoint(make_job: MakeJob, caplog: pytest.LogCaptureFixture) -> None:
    job = make_job(iterations=60, checkpoint_every=20)
    job.stop_at = 45
    with pytest.raises(Interrupted):
        stage.run(job)
    assert job.latest_checkpoint()[0] == 45
    again = make_job(iterations=60, checkpoint_every=20)
    with caplog.at_level(logging.INFO):
        metrics = stage.run(again)
    assert "resuming from step 45 of 60" in caplog.text
    assert len(again.gaussians) == 15
    assert metrics["iterations"] == 60
    assert again.record["resumed_from"] == 45


def test_an_interrupted_training_ends_with_the_same_scene(sfm: Path, tmp_path: Path) -> None:
    straight = FakeJob(sfm, tmp_path / "straight", iterations=40)
    stage.run(straight)
    broken = FakeJob(sfm, tmp_path / "broken", iterations=40)
    broken.stop_at = 25
    with pytest.raises(Interrupted):
        stage.run(broken)
    broken.stop_at = None
    stage.run(broken)
    first, second = (read_ply(job.output / "scene.ply") for job in (straight, broken))
    np.testing.assert_allclose(first.means, second.means, atol=1e-5)


def test_checkpoints_are_written_at_the_asked_steps(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "CHECKPOINT_SHARE", 1e9)
    job = make_job(iterations=50, checkpoint_every=20)
    stage.run(job)
    assert sorted(folder.name for folder in job.checkpoints.iterdir()) == ["000020", "000040"]


def test_checkpoints_that_take_long_are_made_seldom(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    save = torch.save

    def slow(*arguments: Any) -> None:
        time.sleep(0.2)
        save(*arguments)

    monkeypatch.setattr(torch, "save", slow)
    job = make_job(iterations=200, checkpoint_every=10)
    started = time.monotonic()
    stage.run(job)
    made = len(list(job.checkpoints.iterdir()))
    assert made >= 1
    assert (made - 1) * 0.2 <= stage.CHECKPOINT_SHARE * (time.monotonic() - started)


def test_people_see_the_scene_and_its_curve_while_it_trains(
    sfm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tenfold: None
) -> None:
    monkeypatch.setattr(stage, "PREVIEW_SECONDS", 0)
    monkeypatch.setattr(stage, "PREVIEW_SHARE", 1)
    monkeypatch.setattr(stage, "PREVIEW_LONG_SIDE", 48)
    job = FakeJob(sfm, tmp_path, iterations=39)
    stage.run(job)
    previews = [Image.open(io.BytesIO(data)) for name, data in job.shown if name == "preview.jpg"]
    assert {preview.size for preview in previews} == {(48, 36)}
    middle = json.loads((sfm / "views.json").read_text())[4]["name"]
    photo = np.asarray(Image.open(sfm / "images" / middle).resize((48, 36))) / 255
    first, last = (psnr(np.asarray(preview) / 255, photo) for preview in (previews[0], previews[-1]))
    assert last > first + 2
    curves = [json.loads(data) for name, data in job.shown if name == "curve.json"]
    assert [len(curve) for curve in curves] == [1, 2, 3]
    assert curves[-1] == job.record["curve"]


def test_previews_that_take_long_are_made_seldom(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes 20 ms and a preview 100 ms, by a clock of their own."""
    preview, clock, made = stage.Trainer._preview, [0.0], []

    def slow(self: stage.Trainer, long_side: int) -> Image.Image:
        made.append(clock[0])
        clock[0] += 0.1
        return preview(self, long_side)

    def step(*_: Any, **__: Any) -> None:
        clock[0] += 0.02

    monkeypatch.setattr(stage, "PREVIEW_SECONDS", 0)
    monkeypatch.setattr(stage, "PREVIEW_SHARE", 0.1)
    monkeypatch.setattr(stage.Trainer, "_preview", slow)
    monkeypatch.setattr(stage, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    job = make_job(iterations=160)
    monkeypatch.setattr(job, "progress", step)
    stage.run(job)
    # One comes at the start, and one is the artifact's own.
    assert len(made) > 3
    assert (len(made) - 2) * 0.1 <= 0.1 * clock[0]


def test_a_resumed_training_shows_the_curve_so_far(make_job: MakeJob, tenfold: None) -> None:
    job = make_job(iterations=16)
    job.stop_at = 15
    with pytest.raises(Interrupted):
        stage.run(job)
    again = make_job(iterations=16)
    stage.run(again)
    assert [name for name, _ in again.shown] == ["curve.json", "preview.jpg"]
    assert [point["step"] for point in json.loads(again.shown[0][1])] == [10]


def test_held_out_photos_are_chosen_by_their_place_in_the_capture() -> None:
    views = [{"name": str(order), "order": order} for order in range(31) if order != 12]
    training, heldout = split_heldout(views, 8)
    assert [view["order"] for view in heldout] == [4, 20, 28]  # 12 was not registered; no other takes its place
    assert len(training) == 27


@pytest.mark.parametrize("room", [None, 64 * 48 * 3 * 2.5, 0])
def test_photos_are_the_same_wherever_they_wait(sfm: Path, room: float | None) -> None:
    views = load_scene(sfm, 64, 0).views
    photos = Photos(views, torch.device("cpu"), room)
    for divisor in (2, 1, 2):
        for _ in range(2):
            for i, view in enumerate(views):
                camera, photo = photos.get(i, divisor)
                size = (64 // divisor, 48 // divisor)
                expected = Image.fromarray(view.photo).resize(size, Image.Resampling.BOX)
                assert (camera.width, camera.height) == size
                assert torch.equal(photo, torch.from_numpy(np.array(expected)).float() / 255)


def test_a_photo_is_made_ready_once_for_each_size(sfm: Path) -> None:
    photos = Photos(load_scene(sfm, 64, 0).views, torch.device("cpu"))
    assert photos.get(3, 2)[0] is photos.get(3, 2)[0]
    assert photos.get(3, 2)[1].data_ptr() != photos.get(3, 2)[1].data_ptr()  # whoever changes it spoils nothing


@pytest.mark.parametrize(("count", "holdout"), [(7, 8), (20, 0)])
def test_nothing_is_held_out_of_few_photos_or_for_delivery(count: int, holdout: int) -> None:
    views = [{"name": str(order), "order": order} for order in range(count)]
    assert split_heldout(views, holdout) == (views, [])


def test_holding_out_every_photo_is_refused(sfm: Path) -> None:
    with pytest.raises(InvalidRequest, match="No photo is left"):
        load_scene(sfm, 64, holdout=1)


def observed(sfm: Path, folder: Path, kept: np.ndarray) -> Path:
    """A copy of the artifact with some of its observations."""
    folder.mkdir()
    for path in (sfm / "views.json", sfm / "images"):
        (folder / path.name).symlink_to(path)
    with np.load(sfm / "points.npz") as data:
        arrays = dict(data)
    arrays["view"], arrays["point"] = arrays["view"][kept], arrays["point"][kept]
    np.savez(folder / "points.npz", **arrays)
    return folder


def test_points_that_only_held_out_photos_confirm_are_not_seeded(sfm: Path, tmp_path: Path) -> None:
    with np.load(sfm / "points.npz") as arrays:
        lost, view, point = arrays["xyz"][0], arrays["view"], arrays["point"]
    folder = observed(sfm, tmp_path / "sfm", (point != 0) | (view == 4) | (view == view.min()))
    everything, held = (load_scene(folder, 64, holdout).points for holdout in (0, 8))
    assert not (held.xyz == lost).all(1).any()
    assert len(held.xyz) <= len(everything.xyz)


def test_what_no_point_covers_is_seeded_too(half_covered: Path) -> None:
    scene = load_scene(half_covered, 64, 0)
    tensors, filled = seed(scene, 5_000, 0, np.random.default_rng(0))
    assert filled > 20
    added = tensors["means"][-filled:]
    assert (added[:, 0] > 0.3).float().mean() > 0.5  # where the points are missing
    # The points are 2 to 5 away, and what continues them no more than half as far again.
    assert ((added[:, 2] > 2 / 1.5) & (added[:, 2] < 5 * 1.5)).all()


def test_a_bare_floor_is_seeded_where_it_lies() -> None:
    # Obliquely seen: y = 1 below a camera that looks along z.
    camera = Camera(torch.eye(4), (80, 80), (50, 20), 100, 75)
    rng = np.random.default_rng(0)
    pixels = rng.uniform((0, 35), (100, 75), (400, 2))
    pixels = pixels[np.abs(pixels - (50, 58)).max(1) > 12]
    ray = np.concatenate([(pixels - camera.centre) / camera.focal, np.ones((len(pixels), 1))], 1)
    xyz = (ray / ray[:, 1:2]).astype(np.float32)
    view = View("floor.jpg", camera, np.full((75, 100, 3), 128, np.uint8))
    points = Points(xyz, np.full_like(xyz, 0.5), [np.arange(len(xyz))])
    tensors, filled = seed(Scene([view], points, []), 5_000, 0, rng)
    added = tensors["means"][-filled:]
    place, _, _ = camera.project(added.numpy())
    bare = np.abs(place - (50, 58)).max(1) < 12
    assert bare.sum() > 20
    assert np.abs(added[bare, 1] - 1).max() < 0.07


def test_points_in_a_line_tell_one_slope_only() -> None:
    column = np.arange(0, 100, 5, dtype=np.float32)
    line = np.stack([column, np.full_like(column, 10)], 1)
    places = np.array([[50, 12], [50, 70]], np.float32)
    near, far = _depths(places, line, np.full(len(line), 3, np.float32), 2.0)
    assert near == pytest.approx(3)
    assert far == pytest.approx(3)


def test_what_lies_beyond_all_points_is_not_far_beyond_them() -> None:
    pixels = np.random.default_rng(0).uniform(0, 10, (40, 2)).astype(np.float32)
    (z,) = _depths(np.array([[0, 90]], np.float32), pixels, 1 / (0.5 - 0.02 * pixels[:, 1]), 2.0)
    assert 2 < z < 2 * (1 / 0.3)


def test_uncovered_areas_do_not_stay_black(half_covered: Path, tmp_path: Path) -> None:
    job = FakeJob(half_covered, tmp_path, iterations=200)
    assert stage.run(job)["seeded_uncovered"] > 20
    view = json.loads((half_covered / "views.json").read_text())[8]
    render = Renderer(read_ply(job.output / "scene.ply")).image(view, 64, 48)
    photo = np.asarray(Image.open(half_covered / "images" / view["name"])) / 255
    assert render[:, 40:].mean() > 0.5 * photo[:, 40:].mean()


def test_what_covers_a_dark_photo_s_gaps_has_the_mean_light(half_covered: Path) -> None:
    scene = load_scene(half_covered, 64, 0)
    gains = np.ones((9, 3), np.float32)
    (plain, filled), (mean, _) = (seed(scene, 5_000, 0, np.random.default_rng(0), given) for given in (None, gains))
    assert torch.equal(plain["sh"], mean["sh"])
    brighter, _ = seed(scene, 5_000, 0, np.random.default_rng(0), gains / 2)
    before, after = (0.5 + 0.28209479 * tensors["sh"][-filled:, 0] for tensors in (plain, brighter))
    assert torch.allclose(after, (2 * before).clamp(max=1), atol=1e-4)
    assert torch.equal(plain["sh"][:-filled], brighter["sh"][:-filled])


def test_there_are_no_more_gaussians_than_the_photos_have_detail_for(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tenfold: None
) -> None:
    monkeypatch.setattr(seeding, "FEWEST_GAUSSIANS", 0)
    monkeypatch.setattr(seeding, "PIXELS_PER_GAUSSIAN", 60)
    assert stage.run(make_job(iterations=60))["gaussians"] == 9 * 64 * 48 // 60


def test_training_begins_on_small_photos_and_ends_on_whole_ones(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    get = Photos.get
    monkeypatch.setattr(Photos, "get", lambda self, view, divisor: (used.append(divisor), get(self, view, divisor))[1])
    stage.run(make_job(iterations=20, long_side=64))
    assert used == [4] * 3 + [2] * 7 + [1] * 10


def test_training_stops_at_the_plateau_only_when_asked(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tenfold: None
) -> None:
    monkeypatch.setattr(stage, "PLATEAU_DB", 100.0)  # any gain is too little
    assert stage.run(make_job(iterations=60, stop_at_plateau=True, long_side=32))["iterations"] < 60
    assert stage.run(make_job(iterations=60, long_side=32))["iterations"] == 60


def test_a_diverged_training_fails_with_advice(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tenfold: None
) -> None:
    monkeypatch.setattr(stage, "photometric_loss", lambda image, *_: ((image * float("nan")).sum(), torch.tensor(0.0)))
    with pytest.raises(StageError, match="diverged at step 10:") as caught:
        stage.run(make_job(iterations=20))
    assert "seed" in caught.value.hint


def test_a_full_gpu_is_out_of_memory(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(stage, "photometric_loss", full)
    with pytest.raises(OutOfMemory, match="GPU memory"):
        stage.run(make_job())


def test_a_gpu_that_is_not_used_is_told(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(stage, "GPU_DRIVER", tmp_path)
    monkeypatch.setattr(stage, "best_device", lambda: torch.device("cpu"))
    job = make_job()
    stage.run(job)
    assert job.warnings == ["gpu_unused"]


def test_too_few_points_to_start_from_are_named(sfm: Path, tmp_path: Path) -> None:
    with np.load(sfm / "points.npz") as arrays:
        few = arrays["point"] < 3
    with pytest.raises(StageError, match="Only 3 points"):
        stage.run(FakeJob(observed(sfm, tmp_path / "sfm", few), tmp_path / "job"))


def test_less_memory_means_fewer_gaussians_and_pixels_then_smaller_photos_then_nothing() -> None:
    params = Params(max_gaussians=30_000, long_side=640)
    steps = []
    while (smaller := params.smaller()) is not None:
        steps.append((smaller.max_gaussians, smaller.long_side))
        params = smaller
    assert steps == [(15_000, 452), (15_000, 226)]


def test_unknown_parameters_are_refused() -> None:
    with pytest.raises(ValidationError):
        Params(iteration=5)


@pytest.mark.parametrize("name", ["draft", "standard", "high"])
def test_presets_are_valid(name: str) -> None:
    assert Params(**PRESETS[name]).iterations > 0
