"""What a run adds to the report: which run it was, what it reused, what it cost, how to have it again."""

from __future__ import annotations

import datetime as dt
import json
import shlex
from types import SimpleNamespace
from typing import Any

import pytest
from test_report import Page

from airflow_provider_e2e3d.scenes.record import Run, record_of
from airflow_provider_e2e3d.scenes.report import with_run
from e2e3d_stages.contract.messages import Claim, JobRecord
from e2e3d_stages.publish.report import report_page
from e2e3d_stages.registry import STAGES
from e2e3d_stages.store.artifacts import ArtifactStore

STARTED = dt.datetime(2026, 11, 1, 8, 0, tzinfo=dt.timezone.utc)
PRICES = {"ingest": 0.05, "sfm": 0.25, "train": 1.5, "compress": 0.125, "evaluate": 0.125}


@pytest.fixture
def record(run: SimpleNamespace, tmp_path) -> Any:
    """Makes the record of a run over the made-up scene: record(price of training, fields of the run)."""
    store = ArtifactStore.open((tmp_path / "store").as_uri())

    def make(train_price: float | None = 1.5, **others: Any) -> dict[str, Any]:
        for stage, price in {**PRICES, "train": train_price}.items():
            claim = Claim(owner="me", attempt=1, claimed=STARTED)
            path = f"{store.attempt_folder(stage, f'key-of-{stage}', 1)}/claim.json"
            store.storage.write(path, claim.model_dump_json().encode())
            job = JobRecord(
                profile="cloud", backend="ecs", handle={}, machine="large", billable_seconds=60, price=price
            )
            store.write_job(stage, f"key-of-{stage}", 1, job)
        asked = {
            "scene": "yard",
            "id": "manual__2026-11-01",
            "owner": "me",
            "started": STARTED,
            "ended": STARTED + dt.timedelta(minutes=4, seconds=10),
            "dag_id": "reconstruct",
            "profile": "cloud",
            "preset": "draft",
        }
        manifests = {stage: artifact.manifest for stage, artifact in run.inputs.items()}
        return record_of(store, Run(**{**asked, **others}), manifests, folder="scenes/yard/run-1", files={})

    return make


def words(run: SimpleNamespace, record: dict[str, Any]) -> str:
    return Page(with_run(report_page("Yard", run.inputs), record)).words


def test_a_run_s_time_and_money_are_those_of_what_ran(run, record) -> None:
    told = words(run, record(reused=["ingest", "sfm"]))
    assert "Time 4 min 10 s this run, $1.75" in told
    assert "Ingest the photos reused" in told
    assert "Find the camera poses reused 11 s 15 s 512 MB $0.25 ecs, large" in told
    assert "Train the Gaussians 21 s" in told
    assert "This run 4 min 10 s $1.75" in told
    assert "all stages together" not in told


def test_the_gpu_s_memory_is_told_where_there_is_one(run, record) -> None:
    assert "GPU" not in words(run, record())
    metrics = run.inputs["train"].manifest.metrics
    run.change("train", metrics={**metrics, "peak_gpu_memory_bytes": 9_400_000_000})
    assert "512 MB GPU 9.4 GB" in words(run, record())


def test_an_unknown_price_is_no_price(run, record) -> None:
    told = words(run, record(train_price=None))
    assert "this run, cost unknown" in told
    assert "does not know every price" in told


def test_the_capture_that_is_told_is_this_run_s_and_not_that_of_whoever_made_a_reused_artifact(run, record) -> None:
    told = record(capture="s3://captures/教会", reused=["ingest", "sfm"])
    assert told["capture"] == "s3://captures/教会"
    assert "s3://captures/教会" in words(run, told)
    assert "s3://captures/yard" not in words(run, told)
    assert record()["capture"] == "s3://captures/yard"


def test_the_command_asks_for_the_same_in_any_shell(run, record) -> None:
    conf = {"capture": "/photos/anna's yard; rm -rf $HOME", "train_iterations": 500}
    told = record(conf=conf)
    command = shlex.split(told["command"])
    assert command[:-1] == ["airflow", "dags", "trigger", "reconstruct", "--conf"]
    assert json.loads(command[-1]) == {
        "capture": "/photos/anna's yard; rm -rf $HOME",
        "train_iterations": 500,
        "profile": "cloud",
        "preset": "draft",
    }
    assert told["command"] in words(run, told)


def test_a_dag_without_presets_is_asked_with_its_own_conf_alone(record) -> None:
    command = shlex.split(record(preset=None, dag_id="nightly", conf={"day": 3})["command"])
    assert command == ["airflow", "dags", "trigger", "nightly", "--conf", '{"day": 3}']


def test_parameters_that_are_not_the_preset_s_are_named(run, record) -> None:
    def params(stage: str, **changes: Any) -> dict[str, Any]:
        return {**STAGES[stage].resolve("draft", {}).model_dump(mode="json"), **changes}

    for stage in run.inputs:
        run.change(stage, params=params(stage))
    assert "all as in the preset" in words(run, record())
    run.change("train", params=params("train", iterations=123))
    told = record()
    assert told["stages"]["train"]["changed"] == {"iterations": 2500}
    assert told["stages"]["sfm"]["changed"] == {}
    assert "Parameters train iterations = 123, not 2500 as in the preset" in words(run, told)


def test_nothing_that_was_asked_brings_markup_into_the_page(run, record) -> None:
    evil = "</code><script>alert(1)</script><!--run-->"
    page = with_run(report_page("Yard", run.inputs), record(conf={"capture": evil}, id=evil, profile=evil))
    assert Page(page).tags.count("script") == 1
    assert evil in Page(page).words


def test_the_artifact_s_own_page_reads_well_without_a_run(run) -> None:
    told = Page(report_page("Yard", run.inputs)).words
    assert "Time 1 min 45 s all stages together" in told
    assert "Time and memory" in told
    assert "$" not in told
    assert "Reproduce" not in told
