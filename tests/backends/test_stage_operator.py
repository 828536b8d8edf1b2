"""What StageOperator does with a job, wherever it runs: proved once, in a place that does exactly what a test says.

What a place does for it, verb by verb, is in test_conformance.py, with one whole run in each of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_e2e3d.backends.base import Backend, Handle, JobSpec
from airflow_provider_e2e3d.jobs.attempt import Attempt
from airflow_provider_e2e3d.operators.stage import StageOperator
from e2e3d_stages.contract.messages import Claim, FailureCode, JobRecord, Manifest, Request, StageName
from e2e3d_stages.registry import STAGES
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.leases import Watch
from tests.airflow_runs import Outcome, run_dag
from tests.backends.scripted import ScriptedBackend, ScriptedPlace
from tests.conftest import until

pytestmark = pytest.mark.slow

DAGS = Path(__file__).with_name("dags")
Run = Callable[..., Outcome]


@pytest.fixture
def place(airflow_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedPlace]:
    """Jobs of the test's own."""
    place = ScriptedPlace(tmp_path, monkeypatch)
    place.write()
    for variable, value in place.environment.items():
        monkeypatch.setenv(variable, value)
    bundle = {
        "name": "three-stages",
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(DAGS)},
    }
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps([bundle]))
    yield place
    place.close()


@pytest.fixture
def run(place: ScriptedPlace, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs three stages up to one of them and tells how it ended."""

    def go(last: str) -> Outcome:
        place.write()
        return run_dag("three_stages", {"capture": place.capture, "profile": place.name}, capfd, folder=DAGS, last=last)

    return go


def dies_once(monkeypatch: pytest.MonkeyPatch, verb: str, *, before: bool = False) -> None:
    """Let the worker die when it has done something for the first time, or is about to."""
    living: Callable[..., Any] = getattr(ScriptedBackend, verb)
    deaths: list[str] = []

    def die(self: Backend, *arguments: Any, **options: Any) -> Any:
        done = None if before and not deaths else living(self, *arguments, **options)
        if not deaths:
            deaths.append(verb)
            raise RuntimeError("the worker dies here")
        return done

    monkeypatch.setattr(ScriptedBackend, verb, die)


def test_a_run_leaves_no_job_and_the_same_again_starts_none(place: ScriptedPlace, run: Run) -> None:
    outcome = run("train")
    assert outcome.state == "success", outcome.log
    assert place.calls == ["ingest", "sfm", "train"]
    assert place.left() == []
    assert "ingest does succeed" in outcome.log
    assert run("train").reused == ["ingest", "sfm", "train"]
    assert place.calls == ["ingest", "sfm", "train"]


def test_a_deferred_run_takes_a_killed_job_up_from_its_checkpoint(
    place: ScriptedPlace, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", "True")
    place.words["sfm"] = ["die", "succeed"]
    outcome = run("sfm")
    assert outcome.state == "success", outcome.log
    assert place.calls == ["ingest", "sfm", "sfm"]
    assert outcome.results["sfm"]["metrics"]["resumed_from"] == 120
    assert outcome.log.count("DEFERRED") >= 3
    assert place.left() == []


@pytest.mark.parametrize("keeps_ended", [True, False], ids=["ended jobs are kept", "ended jobs are forgotten"])
@pytest.mark.parametrize("moment", ["before the handle was stored", "after it", "before the job was cleared away"])
def test_a_worker_that_dies_costs_no_second_job(
    place: ScriptedPlace, run: Run, monkeypatch: pytest.MonkeyPatch, moment: str, keeps_ended: bool
) -> None:
    place.settings["keeps_ended"] = keeps_ended
    verb = {"before the handle was stored": "submit", "after it": "poll"}.get(moment, "clean_up")
    dies_once(monkeypatch, verb, before=verb == "clean_up")
    outcome = run("sfm")
    assert outcome.state == "success", outcome.log
    assert outcome.tries["ingest"] == 2
    assert place.calls == ["ingest", "sfm"]
    assert place.left() == []


@pytest.mark.parametrize("keeps_ended", [True, False], ids=["ended jobs are kept", "ended jobs are forgotten"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_job_s_end_is_told_once_whether_its_worker_died_before_or_after(
    place: ScriptedPlace, run: Run, monkeypatch: pytest.MonkeyPatch, moment: str, keeps_ended: bool
) -> None:
    place.settings["keeps_ended"] = keeps_ended
    told: list[tuple[str, int]] = []
    finish, clean_up = StageOperator._finish, Attempt.clean_up

    def tell(attempt: Attempt, task: Any, manifest: Manifest, failure: Any, record: JobRecord) -> None:
        assert attempt.store.job(attempt.state.stage, attempt.state.key, manifest.attempt) == record
        told.append((attempt.state.stage, manifest.attempt))

    def die_once(living: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(StageOperator, "_finish", finish)
        monkeypatch.setattr(Attempt, "clean_up", clean_up)
        until(lambda: not place.newest("ingest").running)
        raise RuntimeError("the worker dies here")

    monkeypatch.setattr(Attempt, "tell", tell)
    dies_in = (StageOperator, "_finish") if moment == "before" else (Attempt, "clean_up")
    monkeypatch.setattr(*dies_in, die_once)
    outcome = run("ingest")
    assert outcome.state == "success", outcome.log
    assert outcome.tries["ingest"] == 2
    assert not outcome.results["ingest"]["reused"]
    assert place.calls == ["ingest"]
    assert place.left() == []
    assert told == [("ingest", 1)]
    assert run("ingest").reused == ["ingest"]
    assert told == [("ingest", 1)]


def test_a_job_that_outlives_its_worker_is_waited_for(
    place: ScriptedPlace, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.words["ingest"] = ["wait"]
    dies_once(monkeypatch, "submit")
    living = ScriptedBackend.find

    def find(self: ScriptedBackend, job: JobSpec) -> Handle | None:
        found = living(self, job)
        assert self.place.newest("ingest").running
        self.place.newest("ingest").go_on()
        return found

    monkeypatch.setattr(ScriptedBackend, "find", find)
    outcome = run("ingest")
    assert outcome.state == "success", outcome.log
    assert "Reattached to attempt 1" in outcome.log
    assert place.calls == ["ingest"]


def test_a_job_that_was_stopped_while_no_worker_lived_costs_no_try(
    place: ScriptedPlace, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.words["ingest"] = ["wait", "succeed"]
    living = ScriptedBackend.submit
    deaths: list[Backend] = []

    def stop_and_die_once(self: ScriptedBackend, job: JobSpec) -> Handle:
        handle = living(self, job)
        if not deaths:
            deaths.append(self)
            self.cancel(handle)
            until(lambda: not self.poll(handle).running)
            raise RuntimeError("the worker dies here")
        return handle

    monkeypatch.setattr(ScriptedBackend, "submit", stop_and_die_once)
    outcome = run("ingest")
    assert outcome.state == "success", outcome.log
    assert outcome.tries["ingest"] == 2
    assert place.calls == ["ingest", "ingest"]
    assert outcome.results["ingest"]["metrics"]["resumed_from"] == 120
    assert place.left() == []


def test_work_that_another_run_is_at_is_waited_for_and_taken(
    place: ScriptedPlace, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_e2e3d.operators.stage.WAIT_SECONDS", 0.1)
    place.words["ingest"] = ["wait"]
    living = ArtifactStore.claim

    def claim(self: ArtifactStore, stage: StageName, key: str, owner: str, watch: Watch) -> Claim | None:
        if place.jobs:
            place.newest("ingest").go_on()
        elif theirs := living(self, stage, key, "another run", watch):
            params = STAGES[stage].validate({}).model_dump(mode="json")
            version, number = STAGES[stage].version, theirs.attempt
            self.write_request(Request(stage=stage, stage_version=version, key=key, attempt=number, params=params))
            uri = self.request_uri(stage, key, number)
            place.backend().submit(JobSpec(stage=stage, key=key, claim=theirs, request_uri=uri))
        return living(self, stage, key, owner, watch)

    monkeypatch.setattr(ArtifactStore, "claim", claim)
    outcome = run("ingest")
    assert outcome.state == "success", outcome.log
    assert "another run is making it" in outcome.log
    assert outcome.reused == ["ingest"]
    assert place.calls == ["ingest"]


def test_a_job_that_needs_too_much_memory_is_tried_again_with_less(place: ScriptedPlace, run: Run) -> None:
    place.words["train"] = ["out of memory", "succeed"]
    outcome = run("train")
    assert outcome.state == "success", outcome.log
    assert place.calls.count("train") == 2
    manifest = place.store.manifest("train", outcome.results["train"]["key"])
    assert manifest is not None
    assert manifest.degraded_from is not None
    failure = place.store.failure("train", manifest.degraded_from, 1)
    assert failure is not None
    assert failure.code is FailureCode.OUT_OF_MEMORY
    assert place.left() == []


def test_a_capture_that_cannot_work_is_never_tried_again(place: ScriptedPlace, run: Run) -> None:
    place.words["ingest"] = ["unreadable"]
    outcome = run("ingest")
    assert outcome.state == "failed"
    assert outcome.tries["ingest"] == 1
    assert "There are only 2 photos. Take at least 3." in outcome.log
    assert place.left() == []
