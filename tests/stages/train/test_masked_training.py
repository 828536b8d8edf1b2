"""What masks hide of the photos: the loss, the seeds and the scene know nothing of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from synthetic import FakeJob, before_noise, disc
from torch import Tensor

from e2e3d_stages.splats.camera import Camera
from e2e3d_stages.splats.gaussians import read_ply
from e2e3d_stages.splats.params import RenderParams
from e2e3d_stages.splats.quality import psnr, ssim
from e2e3d_stages.splats.rasterizer import render
from e2e3d_stages.splats.rendering import Splats
from e2e3d_stages.train import stage
from e2e3d_stages.train.loss import photometric_loss, torch_loss
from e2e3d_stages.train.scene import load_scene
from e2e3d_stages.train.seeding import seed

UNSEEN = 4


def pictures(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    image, photo = torch.rand(40, 50, 3, generator=random), torch.rand(40, 50, 3, generator=random)
    counted = torch.zeros(40, 50, dtype=torch.bool)
    counted[8:30, 10:35] = True
    return image, photo, counted


def test_the_loss_is_blind_where_the_photo_does_not_count() -> None:
    image, photo, counted = pictures(1)
    other = torch.where(counted[..., None], photo, torch.rand(3))
    leaf = image.clone().requires_grad_()
    loss, square = photometric_loss(leaf, photo, 0.2, counted)
    loss.backward()
    assert leaf.grad is not None
    assert (leaf.grad[~counted] == 0).all()
    assert leaf.grad[counted].abs().min() > 0
    agreed, _ = torch_loss(torch.where(counted[..., None], image, photo).double(), photo.double(), 0.2)
    assert float(loss.detach()) == pytest.approx(float(agreed), rel=1e-4)
    assert float(square) == pytest.approx(float((image - photo)[counted].square().mean()), rel=1e-5)
    l1, _ = photometric_loss(image, other, 0.0, counted)
    assert float(l1) == pytest.approx(float((image - photo).abs()[counted].sum() / image.numel()), rel=1e-5)


def test_the_gradient_where_it_counts_is_that_of_differences() -> None:
    image, photo, counted = pictures(2)
    leaf = image.clone().requires_grad_()
    photometric_loss(leaf, photo, 0.2, counted)[0].backward()
    assert leaf.grad is not None
    exact = image.double()
    for row, column in ((8, 10), (15, 20), (29, 34)):
        step = torch.zeros_like(exact)
        step[row, column, 1] = 1e-6
        blind = [torch.where(counted[..., None], each, photo.double()) for each in (exact + step, exact - step)]
        ahead, behind = (float(torch_loss(each, photo.double(), 0.2)[0]) for each in blind)
        assert float(leaf.grad[row, column, 1]) == pytest.approx((ahead - behind) / 2e-6, rel=0.02, abs=1e-7)


def test_figures_are_those_of_the_pixels_that_count() -> None:
    image, photo, counted = (each.numpy() for each in pictures(3))
    wrong = np.where(counted[..., None], image, 1 - photo)
    assert psnr(wrong, photo, counted) == pytest.approx(psnr(image[8:30, 10:35], photo[8:30, 10:35]))
    assert ssim(wrong, photo, counted) == pytest.approx(ssim(image, photo, counted))
    assert ssim(wrong, photo, counted) > ssim(wrong, photo)
    assert ssim(image, photo, np.ones_like(counted)) == pytest.approx(ssim(image, photo))


def trained(sfm: Path, folder: Path, hides: str | None) -> tuple[NDArray[np.float32], NDArray[np.float32], Path]:
    """What a view that was not trained on shows after a short training: its picture, and how much covers each pixel."""
    job = FakeJob(before_noise(sfm, folder / "sfm", hides=hides), folder, iterations=300, holdout=8)
    stage.run(job)
    view = json.loads((folder / "sfm" / "views.json").read_text())[UNSEEN]
    found = read_ply(job.output / "scene.ply")
    means, quats, scales, opacities, sh = map(
        torch.as_tensor, (found.means, found.quats, found.scales, found.opacities, found.sh)
    )
    splats = Splats(means, quats, scales.exp(), opacities.sigmoid(), sh)
    with torch.no_grad():
        camera = Camera.from_view(view, view["width"], view["height"])
        drawn = render(splats, camera, RenderParams(sh_degree=0), torch.zeros(3))
    return drawn.image.numpy(), drawn.alpha.numpy(), folder / "sfm"


def seen(sfm: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The photo that was not trained on, and where it shows the disc."""
    view = json.loads((sfm / "views.json").read_text())[UNSEEN]
    with Image.open(sfm / "images" / view["name"]) as photo:
        return np.asarray(photo, np.float32) / np.float32(255), disc(view)


@pytest.mark.slow
def test_what_is_cut_out_stays_alone_where_the_background_was_noise(sfm: Path, tmp_path: Path) -> None:
    image, alpha, folder = trained(sfm, tmp_path / "with", "empty")
    _, noisy, _ = trained(sfm, tmp_path / "without", None)
    photo, kept = seen(folder)
    assert alpha[~kept].mean() < 0.05
    assert noisy[~kept].mean() > 0.6
    assert alpha[kept].mean() > 0.8
    assert psnr(image, photo, kept) > 20


@pytest.mark.slow
def test_where_nothing_is_known_nothing_is_learned(sfm: Path, tmp_path: Path) -> None:
    image, _, folder = trained(sfm, tmp_path / "unknown", "unknown")
    photo, kept = seen(folder)
    assert psnr(image, photo, kept) > 22


@pytest.mark.parametrize("hides", ["empty", "unknown"])
def test_the_training_error_is_that_of_the_pixels_that_count(
    sfm: Path, tmp_path: Path, hides: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = FakeJob(before_noise(sfm, tmp_path / "sfm", hides=hides), tmp_path)
    trainer = stage.Trainer(job, load_scene(tmp_path / "sfm", 64, 0), torch.device("cpu"))
    drawn: list[Tensor] = []
    monkeypatch.setattr(
        stage, "photometric_loss", lambda image, *others: (drawn.append(image), photometric_loss(image, *others))[1]
    )
    trainer._iterate()
    view = int((~trainer.errors.isnan()).nonzero())
    _, photo = trainer.photos.get(view, 4)
    counted = trainer.photos.counted(view, 4)
    wrong = (drawn[0].detach() - photo)[counted].square().mean()
    assert float(trainer.errors[view]) == pytest.approx(float(wrong), rel=1e-5)


def test_no_seed_lies_where_most_photos_do_not_count(sfm: Path, tmp_path: Path) -> None:
    folder = before_noise(sfm, tmp_path / "sfm", hides="unknown")
    scene, whole = load_scene(folder, 64, 0), load_scene(sfm, 64, 0)
    assert 0 < len(scene.points.xyz) < len(whole.points.xyz)
    assert max(int(seen.max()) for seen in scene.points.seen_by) < len(scene.points.xyz)
    tensors, _ = seed(scene, 600, 0, np.random.default_rng(0))
    hidden = np.zeros(len(tensors["means"]), int)
    for view in scene.views:
        pixels, _, which = view.camera.project(tensors["means"].numpy())
        assert view.counted is not None
        column, row = pixels.astype(int).T
        hidden[which] += ~view.counted[row, column]
    assert (hidden <= len(scene.views) / 2).mean() > 0.95
