"""The clean-up DAG: what it says, what it removes, and that what stays is as good as before."""

from __future__ import annotations

import datetime as dt
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag

from airflow_provider_e2e3d.pipelines import cleanup
from e2e3d_stages.contract.messages import now
from e2e3d_stages.store.artifacts import CLEAN_UP
from tests.airflow_runs import Outcome, run_dag
from tests.conftest import ROOT
from tests.provider.conftest import Script

Run = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scratch and logs of this test's own: those of others are not to be cleaned up."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setenv("AIRFLOW__LOGGING__BASE_LOG_FOLDER", str(tmp_path / "logs"))


@pytest.fixture
def clean_up_after(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """Runs the clean-up DAG some days later."""
    caplog.set_level("INFO")

    def go(days: float, **conf: Any) -> Outcome:
        monkeypatch.setattr(cleanup, "now", lambda: now() + dt.timedelta(days=days))
        caplog.clear()
        outcome = run_dag("reconstruct_cleanup", conf, capfd)
        return replace(outcome, log=outcome.log + caplog.text)

    return go


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.slow
def test_it_only_says_what_it_would_remove_until_it_is_told_to(
    run: Run, clean_up_after: Callable[..., Outcome], script: Script, tmp_path: Path
) -> None:
    script["sfm"] = ["crash"]
    assert run("sfm").state == "failed"
    store, logs = tmp_path / "store", tmp_path / "logs" / "e2e3d"
    before = files_below(store)
    dry = clean_up_after(8)
    assert dry.state == "success"
    # A line may be captured twice.
    assert len({line.strip() for line in dry.log.splitlines() if "it made no artifact" in line}) == 3
    # With the logs of four programs.
    assert dry.results["clean_up"]["items"] == 7
    assert f"It would remove 7, {dry.results['clean_up']['bytes'] / 1000:.1f} kB" in dry.log
    assert files_below(store) == before
    assert clean_up_after(32, dry_run=False, attempt_days=40).results["clean_up"]["items"] == 0
    assert clean_up_after(32, dry_run=False, artifact_days=40).results["clean_up"]["items"] == 7
    # Of the attempts nothing is left but the clean-up's own, which goes with the artifact, and so does that one's.
    (own,) = store.glob("artifacts/sfm/*/attempts/*")
    assert json.loads((own / "claim.json").read_text())["owner"].startswith(CLEAN_UP)
    assert files_below(logs) == {}
    assert clean_up_after(32, dry_run=False).results["clean_up"]["items"] == 2
    assert clean_up_after(32, dry_run=False).results["clean_up"]["items"] == 1
    # What the stages took and what was expected of the run are for the next estimate and for people.
    left = {path.relative_to(store) for path in store.rglob("*") if path.is_file()}
    assert {path.name for path in left if path.parts[0] != "history"} == {"estimate.json", "probed.json"}


@pytest.mark.slow
def test_after_years_a_scene_is_as_it_was_and_all_of_it_is_reused(
    run: Run, clean_up_after: Callable[..., Outcome], script: Script, tmp_path: Path
) -> None:
    assert run("publish").state == "success"
    before = files_below(tmp_path / "store")
    # The logs of six programs.
    assert clean_up_after(1000, dry_run=False).results["clean_up"]["items"] == 6
    assert files_below(tmp_path / "store") == before
    script.forget()
    assert run("publish").state == "success"
    assert script.calls == []


@pytest.mark.slow
def test_an_unknown_name_is_refused(run: Run, clean_up_after: Callable[..., Outcome]) -> None:
    refused = clean_up_after(0, dryrun=False)
    assert refused.state == "failed"
    assert "There is no parameter 'dryrun'" in refused.log


@pytest.mark.slow
def test_one_place_that_does_not_answer_keeps_nobody_else_waiting(
    clean_up_after: Callable[..., Outcome], run: Run, script: Script, profiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_e2e3d.jobs.attempt.PATIENCE_SECONDS", 0)
    script["ingest"] = ["unreadable"]
    run("ingest")
    local = profiles.read_text()
    away = f"away:\n  store: {(profiles.parent / 'another').as_uri()}\n  captures: ['{profiles.parent.as_uri()}']\n"
    away += "  stages: {default: {backend: docker, docker_url: 'unix:///nowhere/docker.sock'}}\n"
    profiles.write_text(away + local)
    outcome = clean_up_after(8, dry_run=False)
    assert outcome.state == "failed"
    assert "does not answer" in outcome.log
    assert "Removed 2," in outcome.log
    assert clean_up_after(8, profile="local").state == "success"


def test_the_configuration_says_when_it_runs_and_whether_it_then_removes(
    profiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown() -> tuple[object, object]:
        bag = DagBag(ROOT / "dags" / "reconstruct_cleanup.py")
        assert not bag.import_errors
        dag = bag.dags["reconstruct_cleanup"]
        return dag.schedule, dag.params["dry_run"]

    assert shown() == ("@weekly", True)
    monkeypatch.setenv("AIRFLOW__E2E3D__CLEANUP_SCHEDULE", "")
    monkeypatch.setenv("AIRFLOW__E2E3D__CLEANUP_DRY_RUN", "False")
    assert shown() == (None, False)
