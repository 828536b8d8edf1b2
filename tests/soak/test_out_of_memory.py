"""A real training that its container's memory limit ends, and what becomes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from e2e3d_stages.contract.messages import FailureCode
from e2e3d_stages.store.artifacts import ArtifactStore
from tests.airflow_runs import run_dag

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

# At 1000 px training needs more than the limit, at 500 px less.
CONF = {
    "preset": "draft",
    "train_iterations": 300,
    "train_long_side": 1000,
    "train_max_gaussians": 15_000,
    "train_coarse_to_fine": False,
}


def test_a_training_killed_for_its_memory_ends_smaller_and_the_report_says_so(
    airflow_home: Path,
    images: None,
    sample: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    profile = {
        "store": (tmp_path / "store").as_uri(),
        "captures": [sample.parent.as_uri()],
        "stages": {"default": {"backend": "docker"}, "train": {"backend": "docker", "mem_limit": "400m"}},
    }
    (tmp_path / "profiles.yaml").write_text(yaml.safe_dump({"docker": profile}))
    monkeypatch.setenv("AIRFLOW__E2E3D__PROFILES_FILE", str(tmp_path / "profiles.yaml"))
    outcome = run_dag("reconstruct", {"capture": str(sample), **CONF}, capfd)
    assert outcome.state == "success", outcome.log[-5000:]
    assert outcome.tries["train"] == 2
    store = ArtifactStore.open((tmp_path / "store").as_uri())
    manifest = store.manifest("train", outcome.results["train"]["key"])
    assert manifest is not None
    assert manifest.params["long_side"] == 500
    assert manifest.degraded_from is not None
    failure = store.failure("train", manifest.degraded_from, 1)
    assert failure is not None
    assert failure.code is FailureCode.OUT_OF_MEMORY
    (report,) = (tmp_path / "store" / "scenes").rglob("report.html")
    assert "ran out of memory" in report.read_text()
