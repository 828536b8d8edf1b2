"""What `make gpu` brings along works where there is no GPU, as far as it can."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import prepared
import pytest
import torch
from synthetic import FakeJob

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
