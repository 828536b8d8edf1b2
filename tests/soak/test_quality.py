"""Whole captures at the demo's preset: the figures that the README and the notes may quote."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.airflow_runs import Outcome, run_dag

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    """A profile whose store all seeds share, so that ingest and sfm run once."""
    folder = tmp_path_factory.mktemp("soak")
    file = folder / "profiles.yaml"
    file.write_text(f"local: {{store: '{(folder / 'store').as_uri()}', captures: ['{sample.parent.as_uri()}']}}\n")
    return file


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_sample_reaches_its_quality_with_any_seed(
    airflow_home: Path,
    profiles: Path,
    sample: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    seed: int,
) -> None:
    monkeypatch.setenv("AIRFLOW__E2E3D__PROFILES_FILE", str(profiles))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    outcome = run_dag("reconstruct", {"capture": str(sample), "preset": "draft", "train_seed": seed}, capfd)
    assert outcome.state == "success", outcome.log[-5000:]
    sfm, quality = metrics(outcome, "sfm"), metrics(outcome, "evaluate")
    with capfd.disabled():
        shown = {name: value for name, value in quality.items() if name.startswith(("psnr", "ssim", "base", "compr"))}
        print(f"\nseed {seed}: {json.dumps(shown)}\n  train {json.dumps(metrics(outcome, 'train'))}")
    assert sfm["photos_registered"] == sfm["photos_supported"] == 31
    assert quality["psnr_400"] >= 31.5
    assert quality["ssim_400"] >= 0.90
    assert quality["compression_loss_db"] <= 0.1


def metrics(outcome: Outcome, stage: str) -> dict[str, Any]:
    """What a stage measured."""
    found: dict[str, Any] = outcome.results[stage]["metrics"]
    return found
