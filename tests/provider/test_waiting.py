"""Waiting for a job: with a worker and in the triggerer, and what happens when somebody stops it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException

from airflow_provider_e2e3d.backends.base import JobSpec, JobStatus
from airflow_provider_e2e3d.jobs import attempt as attempts
from airflow_provider_e2e3d.jobs.attempt import Attempt, AttemptState, kept_alive
from airflow_provider_e2e3d.operators.stage import StageOperator
from airflow_provider_e2e3d.profiles.file import profile_named
from airflow_provider_e2e3d.triggers.job import JobTrigger
from e2e3d_stages.contract.messages import FailureCode, InvalidRequest, Overtaken, Request
from e2e3d_stages.registry import STAGES
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.leases import Watch
from tests.conftest import until
from tests.provider.conftest import Script

KEY = "0123456789abcdef" * 2


def job(store: ArtifactStore, **values: Any) -> JobSpec:
    """The first attempt at ingest as a job."""
    claim = store.read_claim("ingest", KEY, 1)
    assert claim is not None
    uri = store.request_uri("ingest", KEY, 1)
    return JobSpec(stage="ingest", key=KEY, claim=claim, request_uri=uri, **values)


@pytest.fixture
def attempt(airflow_home: Path, profiles: Path) -> Iterator[Attempt]:
    """A job of ingest that was just submitted."""
    profile = profile_named("local")
    store = ArtifactStore.open(profile.store)
    claim = store.claim("ingest", KEY, "test", Watch())
    assert claim is not None
    params = STAGES["ingest"].resolve("draft", {}).model_dump(mode="json")
    store.write_request(
        Request(stage="ingest", stage_version=STAGES["ingest"].version, key=KEY, attempt=1, params=params)
    )
    backend = profile.backend("ingest")
    handle = backend.submit(job(store))
    made = Attempt(store, backend, AttemptState(profile="local", stage="ingest", key=KEY, claim=claim, handle=handle))
    yield made
    made.cancel()


def events(trigger: JobTrigger, *, kill_after: float | None = None, within: float = 60) -> dict[str, Any]:
    """What the trigger yields."""

    async def first() -> dict[str, Any]:
        if kill_after is not None:
            await asyncio.sleep(kill_after)
            await trigger.on_kill()
        async for event in trigger.run():
            return dict(event.payload)
        raise AssertionError("no event")

    return asyncio.run(asyncio.wait_for(first(), within))


def test_the_trigger_passes_the_log_on_and_tells_how_the_job_ended(attempt: Attempt, script: Script) -> None:
    event = events(JobTrigger(attempt.serialize()))
    assert event["status"]["exit_code"] == 0
    assert attempt.store.manifest("ingest", KEY) is not None


def test_the_trigger_survives_its_triggerer(attempt: Attempt) -> None:
    path, values = JobTrigger(attempt.serialize(), "2030-01-01T00:00:00+00:00").serialize()
    assert path == f"{JobTrigger.__module__}.{JobTrigger.__name__}"
    again = JobTrigger(**values)
    assert again.serialize() == (path, values)
    assert "status" in events(again)


def test_a_stopped_task_s_job_is_stopped_although_its_triggerer_does_not_wait(
    attempt: Attempt, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cancels `on_kill` itself at its next look, which on a busy machine comes before a profile was read."""
    script["ingest"] = ["wait"]
    until(lambda: script.calls)
    trigger, read, living = JobTrigger(attempt.serialize()), threading.Event(), Attempt.deserialize

    def deserialize(values: dict[str, Any]) -> Attempt:
        assert read.wait(10)
        return living(values)

    monkeypatch.setattr(Attempt, "deserialize", deserialize)

    async def stop() -> None:
        for _ in range(2):
            killed = asyncio.ensure_future(trigger.on_kill())
            await asyncio.sleep(0)
            killed.cancel()
            with pytest.raises(asyncio.CancelledError):
                await killed
        read.set()
        # A triggerer's loop goes on; one that ends takes back what no thread has begun.
        await asyncio.to_thread(until, lambda: not attempt.backend.poll(attempt.state.handle).running)

    asyncio.run(stop())
    failure = attempt.store.failure("ingest", KEY, 1)
    assert failure is not None
    assert failure.code is FailureCode.INTERRUPTED


def test_a_job_is_found_again_without_its_handle_until_it_ends(attempt: Attempt, script: Script) -> None:
    script["ingest"] = ["wait"]
    until(lambda: script.calls)
    found = attempt.backend.find(job(attempt.store))
    assert found is not None
    assert found["pid"] == attempt.state.handle["pid"]
    (script.folder / "go on").touch()
    until(lambda: not attempt.backend.poll(found).running)
    assert attempt.backend.find(job(attempt.store)) is None


def test_no_secret_reaches_a_request_a_handle_or_a_log(attempt: Attempt) -> None:
    secret = job(attempt.store, environment={"AWS_SECRET_ACCESS_KEY": "hush"})
    assert "hush" not in repr(secret)
    until(lambda: not attempt.backend.poll(attempt.state.handle).running)
    attempt.backend.submit(secret)
    written = [entry.path for entry in attempt.store.storage.list()]
    assert not any(b"hush" in attempt.store.storage.read(path) for path in written)
    assert "hush" not in str(attempt.serialize())


def test_a_long_submission_keeps_its_claim(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_e2e3d.jobs.attempt.HEARTBEAT_SECONDS", 0.05)
    claim = attempt.state.claim

    def beats() -> int:
        found = attempt.store.read_claim("ingest", KEY, claim.attempt)
        assert found is not None
        return found.beats

    with kept_alive(attempt.store, "ingest", KEY, claim):
        until(lambda: beats() > 2)
    last = beats()
    time.sleep(0.2)
    assert beats() == last


def test_an_owner_that_finds_itself_overtaken_stops_its_job(attempt: Attempt, script: Script) -> None:
    script["ingest"] = ["wait"]
    until(lambda: script.calls)
    assert attempt.follow(lambda _line: None).running
    assert attempt.store.claim("ingest", KEY, "somebody else", Watch(0))
    attempt._next_heartbeat = 0
    with pytest.raises(Overtaken, match="Attempt 2 has taken over from attempt 1"):
        attempt.follow(lambda _line: None)
    until(lambda: not attempt.backend.poll(attempt.state.handle).running)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("states", "stops"),
    [
        ({"ingest": "failed"}, True),
        ({"ingest": "success"}, True),
        ({"ingest": "restarting"}, True),
        # The run was deleted.
        ({}, True),
        ({"ingest": "running"}, False),
        # Airflow gave the worker up, and the next try is to come; it may be there.
        ({"ingest": "up_for_retry"}, False),
        ({"ingest": "queued"}, False),
        ({"ingest": None}, False),
    ],
)
def test_a_stopped_task_takes_its_job_along_only_where_no_other_try_will_have_it(
    states: dict[str, str | None], stops: bool, attempt: Attempt, script: Script
) -> None:
    script["ingest"] = ["wait"]
    until(lambda: script.calls)
    task = StageOperator(stage="ingest", capture="anywhere", deferrable=False)
    ti = SimpleNamespace(
        dag_id="reconstruct",
        task_id="ingest",
        run_id="manual__1",
        map_index=-1,
        get_task_states=lambda **_: {"manual__1": states} if states else {},
    )
    task.on_kill()
    with pytest.raises(AirflowException, match="was stopped, and its" if stops else "the next try takes it over"):
        task._follow({"ti": ti}, attempt)  # type: ignore[typeddict-item]
    if stops:
        until(lambda: not attempt.backend.poll(attempt.state.handle).running)
    else:
        assert attempt.backend.poll(attempt.state.handle).running
        (script.folder / "go on").touch()
        until(lambda: attempt.store.manifest("ingest", KEY) is not None)


def test_a_job_that_cannot_be_followed_is_stopped(
    attempt: Attempt, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    script["ingest"] = ["wait"]
    until(lambda: script.calls)

    def refuse(*_: object) -> None:
        raise InvalidRequest("Airflow may not read the log.")

    monkeypatch.setattr(attempt.backend, "logs", refuse)
    with pytest.raises(InvalidRequest):
        attempt.follow(lambda _line: None)
    until(lambda: not attempt.backend.poll(attempt.state.handle).running)
    failure = attempt.store.failure("ingest", KEY, 1)
    assert failure is not None
    assert failure.code is FailureCode.INTERRUPTED


def test_what_a_trigger_cannot_follow_is_told_as_a_failure(attempt: Attempt, profiles: Path) -> None:
    profiles.write_text("somewhere-else: {}")
    event = events(JobTrigger(attempt.serialize()))
    assert event["failure"]["code"] == FailureCode.INVALID_REQUEST
    assert "profiles.yaml" in event["failure"]["message"]


class Chatty:
    """A backend whose job has more to say than is read at one look."""

    def __init__(self, running: bool) -> None:
        self.running = running

    def poll(self, _handle: object) -> JobStatus:
        return JobStatus(running=self.running)

    def logs(self, _handle: object, cursor: int) -> tuple[list[str], int]:
        return ([], cursor) if cursor == 100 else ([f"line {cursor}"], cursor + 1)


@pytest.mark.parametrize(("running", "lines"), [(True, attempts.CHUNKS_A_LOOK), (False, 100)])
def test_a_look_at_a_running_job_ends_and_the_log_of_an_ended_one_is_read_out(
    attempt: Attempt, running: bool, lines: int
) -> None:
    told: list[str] = []
    Attempt(attempt.store, Chatty(running), attempt.state).follow(told.append)
    assert told == [f"line {number}" for number in range(lines)]
