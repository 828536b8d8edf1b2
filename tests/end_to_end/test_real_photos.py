"""Real photos through the real stages in a real DAG run, small enough for a test."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from e2e3d_stages.contract import Manifest, Reference
from e2e3d_stages.store import ArtifactStore
from tests.airflow_runs import Outcome, run_dag

pytestmark = pytest.mark.slow

TINY: dict[str, Any] = {
    "preset": "draft",
    "ingest_max_size": 640,
    "sfm_max_features": 3000,
    "train_iterations": 150,
    "train_max_gaussians": 6000,
    "train_long_side": 200,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    """A folder with one capture: twelve photos of the sample and three files that are none."""
    folder = tmp_path_factory.mktemp("real")
    capture = folder / "captures" / "valley"
    capture.mkdir(parents=True)
    for photo in sorted(sample.iterdir())[:12]:
        shutil.copy(photo, capture)
    (capture / "IMG_9999.jpg").write_bytes(b"not a JPEG at all")
    (capture / "IMG_9998.jpg").write_bytes((capture / "IMG_9371.jpg").read_bytes())
    (capture / "notes.txt").write_text("windy")
    (folder / "profiles.yaml").write_text(
        f"local: {{store: '{(folder / 'store').as_uri()}', captures: ['{(folder / 'captures').as_uri()}']}}\n"
    )
    return folder


@pytest.fixture
def run(
    airflow_home: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Runs the reconstruct DAG on the capture with tiny parameters."""
    monkeypatch.setenv("AIRFLOW__E2E3D__PROFILES_FILE", str(place / "profiles.yaml"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    return lambda **conf: run_dag("reconstruct", {"capture": str(place / "captures" / "valley"), **TINY, **conf}, capfd)


def test_photos_go_in_and_a_page_comes_out(run: Callable[..., Outcome], place: Path) -> None:
    outcome = run()
    assert outcome.state == "success", outcome.log[-5000:]
    store = ArtifactStore.open((place / "store").as_uri())

    def manifest(stage: str) -> Manifest:
        reference = Reference.model_validate(outcome.results[stage])
        found = store.manifest(stage, reference.key, digest=reference.digest)
        assert found is not None
        return found

    assert manifest("ingest").metrics["photos"] == 12
    told = " ".join(warning.message for warning in manifest("ingest").warnings)
    assert "IMG_9999.jpg" in told
    assert "IMG_9998.jpg" in told
    assert manifest("sfm").metrics["photos_supported"] >= 11
    assert manifest("train").metrics["gaussians"] <= 6000
    assert manifest("evaluate").metrics["psnr"] > 18
    assert abs(manifest("evaluate").metrics["compression_loss_db"]) < 0.5
    for stage in ("ingest", "sfm", "train", "compress", "evaluate", "publish"):
        assert manifest(stage).usage.peak_memory_bytes < 2 << 30

    (latest,) = (place / "store" / "scenes" / "valley").glob("latest.json")
    folder = latest.parent / json.loads(latest.read_text())["run"]
    for name in ("index.html", "report.html", "thumbnail.jpg", "scene.ply", "scene.sog", "scene.spz"):
        assert (folder / name).stat().st_size > 1000, name
    report = (folder / "report.html").read_text()
    assert "IMG_9999.jpg" in report
    assert "http://" not in report.replace("http://www.w3.org", "")

    again = run(train_iterations=20)
    assert again.state == "success"
    assert sorted(again.reused) == ["ingest", "sfm"]
