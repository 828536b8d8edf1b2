"""What `make gpu` brings along works where there is no GPU, as far as it can."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gpu_training
import gsplat_loop
import numpy as np
import prepared
import pytest
import torch
from synthetic import FakeJob
from torch import Tensor

from e2e3d_stages.splats.camera import Camera
from e2e3d_stages.splats.params import RenderParams
from e2e3d_stages.splats.rasterizer import render
from e2e3d_stages.splats.rendering import Splats
from e2e3d_stages.train import stage
from e2e3d_stages.train.scene import load_scene

BENCH = Path(prepared.__file__).parent


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared.write_artifact(tmp_path_factory.mktemp("prepared") / "sfm")


@pytest.mark.slow
def test_the_prepared_sample_trains(artifact: Path, tmp_path: Path) -> None:
    job = FakeJob(artifact, tmp_path, iterations=20, max_gaussians=20_000, sh_degree=1, long_side=160, holdout=8)
    metrics = stage.run(job)
    assert metrics["views_training"] + metrics["views_heldout"] == 31
    assert metrics["seeded"] > 10_000
    assert metrics["psnr_training"] > 12


@pytest.mark.slow
def test_the_prepared_sample_is_complete(artifact: Path) -> None:
    scene = load_scene(artifact, 1_600, 8)
    assert {view.photo.shape for view in scene.views} == {(749, 1000, 3)}
    assert len(scene.heldout) == 4
    assert len(scene.points.xyz) > 10_000
    assert sum(file.stat().st_size for file in prepared.PREPARED.iterdir()) < 1_000_000


def test_photos_are_straightened_as_colmap_does(artifact: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    lens = json.loads((prepared.PREPARED / "lens.json").read_text())
    view = json.loads((prepared.PREPARED / "views.json").read_text())[0]
    params = [lens["f"], lens["cx"], lens["cy"], lens["k"]]
    camera = pycolmap.Camera(model="SIMPLE_RADIAL", width=1000, height=750, params=params)
    places = np.array([[0.5, 0.5], [999.5, 0.5], [500.5, 374.5], [13.5, 700.5], [999.5, 748.5]])
    rays = (places - (view["cx"], view["cy"])) / (view["fx"], view["fy"])
    column, row = places.astype(int).T
    found = np.stack(prepared.sources(view, lens), -1)[row, column]
    np.testing.assert_allclose(found, camera.img_from_cam(np.concatenate([rays, np.ones((5, 1))], 1)), atol=1e-6)


def test_between_four_pixels_the_photo_has_their_mean() -> None:
    photo = np.array([[[0], [100]], [[50], [250]]], np.uint8)
    at = np.array([[1.0, 0.5, 1.5]]), np.array([[1.0, 0.5, 1.5]])
    assert prepared.bilinear(photo, *at)[0, :, 0].tolist() == [100, 0, 250]


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA GPU")
    command = [sys.executable, BENCH / "gpu.py"]
    done = subprocess.run(
        command, env={**os.environ, "OUT": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "needs a machine with a CUDA GPU" in done.stdout
    assert "failed" in json.loads((tmp_path / "gpu.json").read_text())["driver"]


def drawn_here(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colours: Tensor, pose: Tensor, lens: Tensor,
    width: int, height: int, **options: Any,
) -> tuple[Tensor, Tensor, dict[str, Any]]:  # fmt: skip
    """In the place of gsplat's `rasterization`, which needs CUDA: the CPU's kernels, and what its strategy asks for."""
    camera = Camera(pose[0], (lens[0, 0, 0], lens[0, 1, 1]), (lens[0, 0, 2], lens[0, 1, 2]), width, height)
    splats = Splats(means, quats, scales, opacities, colours)
    result = render(splats, camera, RenderParams(sh_degree=options["sh_degree"]), torch.zeros(3))
    places = torch.zeros(1, len(means), 2, requires_grad=True)
    radii = result.visible[None, :, None].expand(-1, -1, 2).int()
    asked = {"width": width, "height": height, "n_cameras": 1, "radii": radii, "gaussian_ids": None, "means2d": places}
    return result.image[None] + 0 * places.sum(), result.alpha, asked


@pytest.mark.slow
@pytest.mark.parametrize("what", ["ours", "third", "default", "mcmc", "steps"])
def test_each_part_runs_to_its_figures(
    what: str, artifact: Path, tmp_path: Path, cpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gsplat_loop, "rasterization", drawn_here)
    if what in ("mcmc", "steps"):  # MCMC's moves are in CUDA, too
        monkeypatch.setattr(gsplat_loop, "strategy", lambda *_, **__: (lambda *_: None, lambda *_: None))
    monkeypatch.setattr(gpu_training, "best_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(gpu_training, "STEPS_TIMED", 2)
    monkeypatch.setattr(gpu_training, "PARTS_TIMED", 2)
    monkeypatch.setattr(gpu_training, "DOUBLINGS", 1)
    sizes = ("--set", "iterations=30", "--set", "long_side=160", "--set", "max_gaussians=12000")
    monkeypatch.setattr(sys, "argv", ["gpu_training.py", what, str(artifact), str(tmp_path / "result.json"), *sizes])
    with cpu(True):
        gpu_training.main()
    figures = json.loads((tmp_path / "result.json").read_text())
    if what == "steps":
        assert min(figures["ours"], figures["gsplat_default"], figures["gsplat_mcmc"], *figures["ms"].values()) > 0
    else:
        assert figures["iterations"] == (10 if what == "third" else 30)
        assert figures["heldout"] == 4
        assert figures["cc_psnr"] > 10
