"""What the evaluation measures, and what it does not claim to have measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from e2e3d_stages.contract.messages import StageError
from e2e3d_stages.evaluate import stage
from e2e3d_stages.evaluate.flip import flip
from e2e3d_stages.evaluate.params import Params
from e2e3d_stages.evaluate.pictures import blurred, difference
from e2e3d_stages.splats import sog
from e2e3d_stages.splats.gaussians import Gaussians, write_ply
from e2e3d_stages.splats.quality import colour_corrected, ms_ssim

NAMES = [f"{i:03}.jpg" for i in range(10)]
SIZE = (240, 180)


def view(name: str, order: int) -> dict[str, Any]:
    """A camera five units before the origin, a little to the side for each photo."""
    pose = np.eye(4)
    pose[:3, 3] = [0.1 * order, 0, 5]
    size = {"width": SIZE[0], "height": SIZE[1], "fx": 200.0, "fy": 200.0, "cx": 120.0, "cy": 90.0}
    return {"name": name, "order": order, **size, "world_to_camera": pose.tolist()}


def cloud(count: int = 400) -> Gaussians:
    """Coloured, half transparent Gaussians around the origin."""
    random = np.random.default_rng(1)
    return Gaussians(
        means=random.normal(0, 0.8, (count, 3)).astype(np.float32),
        scales=np.full((count, 3), np.log(0.15), np.float32),
        quats=np.tile(np.array([1, 0, 0, 0], np.float32), (count, 1)),
        opacities=np.zeros(count, np.float32),
        sh=random.normal(0, 1, (count, 1, 3)).astype(np.float32),
    )


class PhotoRenderer:
    """Stands for the rasteriser: what it draws is the photo, a little brighter."""

    photos: Path

    def __init__(self, gaussians: Gaussians) -> None:
        assert len(gaussians)

    def image(self, of: dict[str, Any], width: int, height: int) -> np.ndarray:
        with Image.open(self.photos / of["name"]) as photo:
            return np.asarray(photo.resize((width, height), Image.Resampling.LANCZOS), np.float32) / 255 + 0.01


@pytest.fixture(scope="module")
def scene_sog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small scene as `compress` writes it."""
    path = tmp_path_factory.mktemp("scene") / "scene.sog"
    sog.encode(cloud(), path)
    return path


@pytest.fixture
def job(tmp_path: Path, scene_sog: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A job over ten noisy photos and a small scene, nothing held out; `draw` puts in the stand-in rasteriser."""
    folders = {name: tmp_path / name for name in ("sfm", "train", "compress", "output")}
    for folder in folders.values():
        folder.mkdir()
    (folders["sfm"] / "images").mkdir()
    random = np.random.default_rng(2)
    for name in NAMES:
        noise = random.integers(0, 255, (90, 120, 3), dtype=np.uint8)
        Image.fromarray(noise).resize(SIZE).save(folders["sfm"] / "images" / name, quality=95)
    (folders["sfm"] / "views.json").write_text(json.dumps([view(name, i) for i, name in enumerate(NAMES)]))
    seen = {"view": np.array([3, 3], np.int32), "point": np.array([0, 0], np.int32)}
    np.savez(folders["sfm"] / "points.npz", xyz=np.zeros((1, 3), np.float32), **seen)
    write_ply(folders["train"] / "scene.ply", cloud())
    shutil.copy(scene_sog, folders["compress"])
    # The photos are half as large as usual, and so are the sizes to compare them at.
    monkeypatch.setattr(stage, "COMMON_LONG_SIDE", stage.COMMON_LONG_SIDE // 2)
    monkeypatch.setattr(PhotoRenderer, "photos", folders["sfm"] / "images", raising=False)
    warnings: list[str] = []
    steps: list[tuple[str, float, float]] = []
    job = SimpleNamespace(
        params=Params(pictures=3, picture_size=200),
        inputs={name: SimpleNamespace(folder=folders[name]) for name in ("sfm", "train", "compress")},
        output=folders["output"],
        threads=2,
        warnings=warnings,
        check_stop=lambda: None,
        steps=steps,
        progress=lambda done, total, unit, phase: steps.append((phase, done, total)),
        warn=lambda code, message, advice="": warnings.append(code),
    )
    hold_out(job, [])
    return job


def hold_out(job: Any, names: list[str], long_side: int = 120) -> None:
    """Write `train`'s record of what it did not look at."""
    record = {"long_side": long_side, "holdout": names, "training": [name for name in NAMES if name not in names]}
    (job.inputs["train"].folder / "training.json").write_text(json.dumps(record))


@pytest.fixture
def draws_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "Renderer", PhotoRenderer)


def test_quality_is_measured_on_the_held_out_photos_only(job, draws_photos) -> None:
    hold_out(job, NAMES[::8])
    metrics = stage.run(job)
    record = json.loads((job.output / "evaluation.json").read_text())
    assert [entry["name"] for entry in record["views"]] == ["000.jpg", "008.jpg"]
    assert metrics["views"] == 2
    # A constant offset of 0.01 is 40 dB, whatever the photo.
    assert metrics["psnr"] == metrics["psnr_400"] == pytest.approx(40, abs=0.01)
    assert metrics["psnr_full"] == pytest.approx(40, abs=0.01)
    assert job.warnings == []
    assert job.steps == [
        *(("comparing", done, 2) for done in range(3)),
        *(("drawing", done, 3) for done in range(4)),
    ]


def test_a_render_is_made_smaller_as_its_photo_is(job, draws_photos, monkeypatch) -> None:
    def sampled(self: PhotoRenderer, of: dict[str, Any], width: int, height: int) -> np.ndarray:
        with Image.open(self.photos / of["name"]) as photo:
            return np.asarray(photo.resize((width, height), Image.Resampling.NEAREST), np.float32) / 255

    monkeypatch.setattr(PhotoRenderer, "image", sampled)
    hold_out(job, NAMES[::8], long_side=SIZE[0])
    assert stage.run(job)["psnr_400"] > 45


def test_wrong_light_costs_as_drawn_and_nothing_once_the_colours_are_corrected(job, draws_photos, monkeypatch) -> None:
    draw = PhotoRenderer.image
    warm = np.array([[0.6, 0.1, 0], [0, 0.5, 0.05], [0, 0, 0.4]], np.float32)
    monkeypatch.setattr(PhotoRenderer, "image", lambda self, *of: draw(self, *of) @ warm.T + 0.05)
    hold_out(job, NAMES[::8])
    metrics = stage.run(job)
    for size in stage.SUFFIXES:
        for end in ("", "_compressed"):
            assert metrics[f"psnr{size}{end}"] < 20
            assert metrics[f"cc_psnr{size}{end}"] > 60
            assert metrics[f"ssim{size}{end}"] < 0.95
            assert metrics[f"cc_ssim{size}{end}"] > 0.999
    record = json.loads((job.output / "evaluation.json").read_text())
    with Image.open(job.output / record["views"][0]["pictures"]["difference"]) as shown:
        assert np.asarray(shown).max() < 40


def test_the_blurred_photo_is_corrected_like_the_render(job, draws_photos) -> None:
    hold_out(job, NAMES[::8])
    metrics = stage.run(job)
    for size in stage.SUFFIXES:
        assert (
            metrics[f"baseline_psnr{size}"] < metrics[f"baseline_cc_psnr{size}"] < metrics[f"baseline_psnr{size}"] + 3
        )


def test_colours_are_fitted_to_what_counts_and_a_plain_picture_takes_the_photo_s_mean() -> None:
    photo = np.random.default_rng(0).uniform(0.2, 0.8, (20, 30, 3)).astype(np.float32)
    counted = np.ones((20, 30), bool)
    counted[:, :20] = False
    render = np.where(counted[..., None], photo / 2, 1 - photo)
    assert np.abs(colour_corrected(render, photo, counted) - photo)[counted].max() < 1e-4
    assert np.abs(colour_corrected(render, photo) - photo)[counted].max() > 0.1
    black = colour_corrected(np.zeros_like(photo), photo)
    assert np.abs(black - photo.mean((0, 1))).max() < 1e-4


def test_without_held_out_photos_no_quality_is_claimed_but_compression_is_measured(job, draws_photos) -> None:
    metrics = stage.run(job)
    quality = {name: value for name, value in metrics.items() if "psnr" in name or "ssim" in name}
    assert quality
    assert all(value is None for value in quality.values())
    assert metrics["views"] == 0
    assert metrics["compression_loss_db"] == 0
    assert job.warnings == ["no_held_out_views"]
    assert json.loads((job.output / "evaluation.json").read_text())["basis"] == "training"


def test_each_shown_view_has_photo_render_and_difference_no_larger_than_asked(job, draws_photos) -> None:
    hold_out(job, NAMES[:4])
    stage.run(job)
    record = json.loads((job.output / "evaluation.json").read_text())
    shown = [entry["pictures"] for entry in record["views"] if "pictures" in entry]
    assert len(shown) == 3
    for pictures in shown:
        assert set(pictures) == {"photo", "render", "difference"}
        for path in pictures.values():
            with Image.open(job.output / path) as picture:
                assert picture.size == (200, 150)


def test_the_scene_opens_at_a_camera_that_sees_points(job, draws_photos) -> None:
    stage.run(job)
    opening = json.loads((job.output / "evaluation.json").read_text())["opening_view"]
    assert opening == {"name": "003.jpg", "depth": 5.0}
    with Image.open(job.output / "thumbnail.jpg") as thumbnail:
        assert thumbnail.width / thumbnail.height == pytest.approx(16 / 9, rel=0.01)


def test_no_view_at_all_fails_with_a_hint(job, draws_photos) -> None:
    (job.inputs["sfm"].folder / "views.json").write_text("[]")
    with pytest.raises(StageError) as failure:
        stage.run(job)
    assert failure.value.hint


def test_the_baseline_keeps_what_is_smooth_and_loses_detail() -> None:
    ramp = np.linspace(0, 1, 240, dtype=np.float32)
    smooth = np.broadcast_to(ramp[None, :, None], (160, 240, 3)).astype(np.float32)
    checks = np.indices((160, 240)).sum(axis=0) % 2
    detail = np.repeat(checks[..., None], 3, axis=2).astype(np.float32)
    assert np.abs(blurred(smooth) - smooth)[:, 8:-8].max() < 0.01
    assert np.abs(blurred(detail) - 0.5).max() < 0.02


def test_the_difference_is_black_where_pictures_agree_and_brightest_where_they_do_not() -> None:
    photo = np.full((4, 4, 3), 0.5, np.float32)
    render = photo.copy()
    render[0, 0] = 1.0
    render[3, 3] = 0.6
    shown = difference(render, photo).mean(axis=2)
    assert shown[1, 1] < 0.06
    assert shown[1, 1] < shown[3, 3] < shown[0, 0]
    assert shown[0, 0] > 0.9


@pytest.mark.slow
def test_photos_of_the_scene_itself_score_high_and_compression_costs_little(job) -> None:
    from e2e3d_stages.splats.rasterizer import Renderer

    renderer = Renderer(cloud())
    for i, name in enumerate(NAMES):
        picture = (renderer.image(view(name, i), *SIZE) * 255).round().astype(np.uint8)
        Image.fromarray(picture).save(job.inputs["sfm"].folder / "images" / name, quality=98, subsampling=0)
    hold_out(job, NAMES[::8])
    metrics = stage.run(job)
    assert metrics["psnr_full"] > 35
    assert metrics["ssim_full"] > 0.95
    assert abs(metrics["psnr_full"] - metrics["psnr_full_compressed"]) < 3
    assert metrics["psnr_full_compressed"] > 32


def test_only_what_counts_of_a_photo_is_measured(job, draws_photos) -> None:
    hold_out(job, NAMES[::8])
    plain = stage.run(job)
    views = json.loads((job.inputs["sfm"].folder / "views.json").read_text())
    (job.inputs["sfm"].folder / "masks").mkdir()
    shutil.rmtree(job.output / "pictures")
    for name in NAMES:
        # A quarter of the photo does not count, and there the scene looks nothing like it.
        kept = np.ones((SIZE[1], SIZE[0]), bool)
        kept[: SIZE[1] // 2, : SIZE[0] // 2] = False
        Image.fromarray(kept).save(job.inputs["sfm"].folder / "masks" / f"{name}.png")
    truth = PhotoRenderer.image

    def spoilt(self: PhotoRenderer, of: dict[str, Any], width: int, height: int) -> np.ndarray:
        picture = truth(self, of, width, height)
        picture[: height // 2, : width // 2] = 0
        return picture

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PhotoRenderer, "image", spoilt)
        assert stage.run(job)["psnr"] < plain["psnr"] - 20
        shutil.rmtree(job.output / "pictures")
        for entry in views:
            entry["masked"] = "unknown"
        (job.inputs["sfm"].folder / "views.json").write_text(json.dumps(views))
        masked = stage.run(job)
    assert masked["psnr"] == pytest.approx(plain["psnr"], abs=0.01)
    assert masked["ssim"] == pytest.approx(plain["ssim"], abs=0.005)
    record = json.loads((job.output / "evaluation.json").read_text())
    assert [entry["counted"] for entry in record["views"]] == [0.75, 0.75]


def test_of_a_cropped_scene_what_stayed_is_measured_where_photos_show_it(job, monkeypatch) -> None:
    # The left half of the scene stayed; one held-out photo shows the right half only.
    hold_out(job, [NAMES[0], NAMES[8]])
    crop = job.output.parent / "crop"
    crop.mkdir()
    write_ply(crop / "cropped.ply", cloud(200))
    np.save(crop / "kept.npy", np.arange(400) < 200)
    (crop / "box.json").write_text(json.dumps({"low": [-9, -9, -9], "high": [0, 9, 9]}))
    job.inputs["crop"] = SimpleNamespace(folder=crop)

    class CroppedRenderer(PhotoRenderer):
        """Of the scene as trained, in white what stayed; of what stayed the left half of the photo."""

        def __init__(self, gaussians: Gaussians) -> None:
            self.whole = len(gaussians) == 400 and gaussians.sh.max() < 2

        def image(self, of: dict[str, Any], width: int, height: int) -> np.ndarray:
            picture = super().image(of, width, height)
            if self.whole:
                picture = np.ones_like(picture)
            picture[:, width // 2 :] = 0
            return picture * (of["name"] != NAMES[8]) if self.whole else picture

    monkeypatch.setattr(stage, "Renderer", CroppedRenderer)
    monkeypatch.setattr("e2e3d_stages.evaluate.counting.Renderer", CroppedRenderer)
    metrics = stage.run(job)
    record = json.loads((job.output / "evaluation.json").read_text())
    assert [(entry["name"], entry["counted"]) for entry in record["views"]] == [(NAMES[0], 0.5)]
    assert (metrics["views"], metrics["psnr"]) == (1, pytest.approx(40, abs=0.01))


def test_each_held_out_photo_says_what_no_training_photo_shows_and_the_worst_is_told(job, draws_photos) -> None:
    hold_out(job, NAMES[::8])
    spoilt = NAMES[8]
    truth = PhotoRenderer.image
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            PhotoRenderer,
            "image",
            lambda self, of, *size: truth(self, of, *size) if of["name"] != spoilt else np.zeros((*size[::-1], 3)),
        )
        metrics = stage.run(job)
    record = json.loads((job.output / "evaluation.json").read_text())
    assert metrics["worst_view"] == spoilt
    assert metrics["cc_psnr_worst"] == record["views"][1]["cc_psnr"] < record["views"][0]["cc_psnr"]
    assert record["views"][1]["unseen"] == 1
    assert metrics["unseen"] == pytest.approx(np.mean([entry["unseen"] for entry in record["views"]]), abs=1e-4)


@pytest.mark.slow
def test_what_lies_beyond_every_training_photo_is_unseen_however_well_it_is_drawn() -> None:
    from e2e3d_stages.evaluate.unseen import shown_by, unseen_share
    from e2e3d_stages.splats.rasterizer import Renderer

    across, down = (each.ravel() for each in np.meshgrid(np.linspace(-6, 6, 121), np.linspace(-4, 4, 81)))
    wall = Gaussians(
        means=np.stack([across, down, np.zeros_like(across)], 1).astype(np.float32),
        scales=np.full((len(across), 3), np.log(0.07), np.float32),
        quats=np.tile(np.array([1, 0, 0, 0], np.float32), (len(across), 1)),
        opacities=np.full(len(across), 4, np.float32),
        sh=np.zeros((len(across), 1, 3), np.float32),
    )
    before, aside = view("a.jpg", 0), view("b.jpg", 30)  # three units, half of the picture's width on the wall
    white = Renderer(shown_by([before], wall))
    assert unseen_share(white.image(before, *SIZE), None) < 0.04
    assert unseen_share(white.image(aside, *SIZE), None) == pytest.approx(0.5, abs=0.04)
    right = np.zeros((SIZE[1], SIZE[0]), bool)
    right[:, 130:] = True
    assert unseen_share(white.image(aside, *SIZE), right) < 0.04


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """A picture and one that differs from it in colour and in what is fine."""
    across, down = np.meshgrid(np.arange(208) / 208, np.arange(192) / 192)
    photo = np.stack([0.5 + 0.5 * np.sin(40 * across * down), across, 0.5 + 0.5 * np.cos(25 * down)], 2)
    wrong = 0.8 * photo + 0.1 * np.stack([down, across, np.sin(60 * across) ** 2], 2)
    return wrong.astype(np.float32), photo.astype(np.float32)


def test_flip_and_ms_ssim_are_those_of_their_authors() -> None:
    # flip-evaluator 1.7 (NVIDIA) and pytorch-msssim 1.0 on the same arrays.
    assert flip(*pictures()) == pytest.approx(0.425525, abs=2e-5)
    assert ms_ssim(*pictures()) == pytest.approx(0.973899, abs=2e-5)
    picture = pictures()[1]
    assert flip(picture, picture) == 0
    assert ms_ssim(picture, picture) == pytest.approx(1)


def test_flip_and_ms_ssim_leave_out_what_does_not_count() -> None:
    wrong, photo = pictures()
    counted = np.zeros(photo.shape[:2], bool)
    counted[:, :100] = True
    half = np.where(counted[..., None], photo, wrong)
    assert flip(half, photo, counted) == 0
    assert flip(wrong, photo, counted) > 0.2
    assert ms_ssim(half, photo, counted) == pytest.approx(1)
    assert ms_ssim(wrong, photo, counted) < 0.99


def test_ms_ssim_of_a_small_picture_has_fewer_scales_and_of_a_tiny_one_is_refused() -> None:
    wrong, photo = pictures()
    assert 0.9 < ms_ssim(wrong[:60, :80], photo[:60, :80]) < 1
    with pytest.raises(ValueError, match="cannot compare"):
        ms_ssim(wrong[:10, :80], photo[:10, :80])
