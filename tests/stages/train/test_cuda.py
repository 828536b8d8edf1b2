"""Training on an NVIDIA GPU does what it does on the CPU, and does not wait; `make gpu` runs these."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic import FakeJob, random_camera, random_gaussians
from torch import Tensor

from e2e3d_stages.contract.messages import Interrupted
from e2e3d_stages.splats.gaussians import read_ply
from e2e3d_stages.splats.params import RenderParams
from e2e3d_stages.splats.quality import psnr
from e2e3d_stages.splats.rasterizer import Renderer, render
from e2e3d_stages.splats.rendering import Splats
from e2e3d_stages.splats.ssim_window import SSIM_EVERY
from e2e3d_stages.train import loss, stage
from e2e3d_stages.train.light import Light
from e2e3d_stages.train.scene import Photos, load_scene

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")
BACKGROUND = torch.tensor([0.1, 0.2, 0.3])
NAMES = ("means", "quats", "scales", "opacities", "sh")


def relative(ours: Tensor, truth: Tensor) -> float:
    return float((ours.cpu() - truth).norm() / truth.norm())


def drawn(gaussians: list[Tensor], size: tuple[int, int], degree: int, device: torch.device) -> dict[str, Tensor]:
    """A picture, and what its backward pass leaves, on the CPU."""
    leaves = [t.detach().to(device).requires_grad_() for t in gaussians]
    camera = random_camera(*size)
    result = render(Splats(*leaves), camera, RenderParams(sh_degree=degree), BACKGROUND.to(device))
    weight = torch.randn(*size[::-1], 3, generator=torch.Generator().manual_seed(1)).to(device)
    (result.image * weight).sum().backward()
    found = {"image": result.image, "alpha": result.alpha, "visible": result.visible, "pull": result.screen_gradient()}
    return {
        name: t.detach().cpu() for name, t in (found | dict(zip(NAMES, (t.grad for t in leaves), strict=True))).items()
    }


def test_light_is_learned_as_on_the_cpu_and_nothing_waits_for_it(cuda: torch.device) -> None:
    random = torch.Generator().manual_seed(0)
    picture, photo = torch.rand(40, 50, 3, generator=random), torch.rand(40, 50, 3, generator=random)

    def learned(device: torch.device) -> Tensor:
        light = Light(torch.eye(3, 4) * torch.tensor([0.8, 1.2])[:, None, None], torch.full((3,), 0.5), device)
        scene, seen = picture.to(device), photo.to(device)
        loss.photometric_loss(scene, seen, 0.2)  # its window is made once
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            for step in range(20):
                loss.photometric_loss(light.developed(scene, step % 2, seen), seen, 0.2)[0].backward()
                light.step(step / 20)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return light.maps.detach().cpu()

    assert (learned(cuda) - learned(CPU)).abs().max() < 1e-3


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_pictures_and_gradients_are_the_cpu_kernels(cuda: torch.device, degree: int) -> None:
    gaussians = random_gaussians(2_000, degree, 0.04)
    truth, ours = (drawn(gaussians, (300, 201), degree, device) for device in (CPU, cuda))
    assert (ours["image"] - truth["image"]).abs().mean() < 1e-4
    assert (ours["alpha"] - truth["alpha"]).abs().mean() < 1e-4
    for name in (*NAMES, "pull"):
        print(f"degree {degree} {name}: relative difference {relative(ours[name], truth[name]):.1e}")
        assert relative(ours[name], truth[name]) < 2e-2, name
    # Those that the two see differently lie on the screen's edge.
    assert (ours["visible"] != truth["visible"]).float().mean() < 0.02


@pytest.mark.parametrize("phase", range(SSIM_EVERY))
def test_loss_and_gradient_are_the_cpu_kernels(cuda: torch.device, phase: int) -> None:
    rng = torch.Generator().manual_seed(0)
    photo = torch.rand(749, 1000, 3, generator=rng)
    noisy = (photo + 0.1 * torch.randn(749, 1000, 3, generator=rng)).clamp(0, 1)
    values, gradients = [], []
    for device in (CPU, cuda):
        image = noisy.detach().to(device).requires_grad_()
        value, square = loss.photometric_loss(image, photo.to(device), 0.2, phase=phase)
        value.backward()
        values.append([value.item(), square.item()])
        gradients.append(image.grad.cpu())
    assert values[1] == pytest.approx(values[0], rel=1e-4)
    assert relative(gradients[1], gradients[0]) < 1e-3


def test_a_scene_trained_on_both_is_equally_good(cuda: torch.device, sfm: Path, tmp_path: Path, cpu: Any) -> None:
    view = json.loads((sfm / "views.json").read_text())[4]
    photo = np.asarray(Image.open(sfm / "images" / view["name"])) / 255
    quality = {}
    for name in ("cpu", "gpu"):
        job = FakeJob(sfm, tmp_path / name, iterations=600, max_gaussians=2_000, sh_degree=1, holdout=8)
        with cpu(name == "cpu"):
            metrics = stage.run(job)
            render = Renderer(read_ply(job.output / "scene.ply")).image(view, view["width"], view["height"])
        assert (metrics["device"] == "cpu") == (name == "cpu")
        quality[name] = (psnr(render, photo), metrics["psnr_training"])
    print(f"held-out and training PSNR: {quality}")
    np.testing.assert_allclose(quality["gpu"], quality["cpu"], atol=1)


def test_a_training_goes_on_from_its_checkpoint(cuda: torch.device, sfm: Path, tmp_path: Path) -> None:
    job = FakeJob(sfm, tmp_path, iterations=240)
    job.stop_at = 150
    with pytest.raises(Interrupted):
        stage.run(job)
    job.stop_at = None
    metrics = stage.run(job)
    assert job.record["resumed_from"] == 150
    assert metrics["iterations"] == 240
    assert metrics["peak_gpu_memory_bytes"] > 1_000_000


def test_a_step_waits_for_the_gpu_once(cuda: torch.device, sfm: Path, tmp_path: Path) -> None:
    job = FakeJob(sfm, tmp_path, iterations=1_000, coarse_to_fine=False)
    trainer = stage.Trainer(job, load_scene(sfm, 64, 0), cuda)
    for _ in range(len(trainer.scene.views)):
        trainer._iterate()  # brings every photo and camera there
    steps, always = 5, torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for _ in range(steps):
                trainer._iterate()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.set_warn_always(always)
    waits = [f"{warning.filename}:{warning.lineno} {warning.message}" for warning in told]
    # gsplat asks how many pairs of a tile and a Gaussian there are.
    assert len([line for line in waits if "synchroniz" in line]) <= steps, "\n".join(waits)


def test_photos_that_do_not_fit_come_from_the_host(cuda: torch.device, sfm: Path) -> None:
    views = load_scene(sfm, 64, 0).views
    resident, waiting = Photos(views, cuda), Photos(views, cuda, room=64 * 48 * 3 * 2.5)
    for i in range(len(views)):
        _, photo = waiting.get(i, 1)
        assert photo.is_cuda
        assert torch.equal(photo, resident.get(i, 1)[1])
        # A GPU divides by multiplying.
        torch.testing.assert_close(photo.cpu(), torch.from_numpy(views[i].photo).float() / 255, rtol=1e-6, atol=0)
    assert [waiting._ready[i][1].is_cuda for i in range(len(views))] == [True] * 2 + [False] * (len(views) - 2)
    assert waiting._ready[5][1].is_pinned()
