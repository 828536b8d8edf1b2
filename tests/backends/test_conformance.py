"""What every backend does alike, verb by verb, and one whole run: one suite, whatever kind of place runs the stages.

What StageOperator makes of the verbs is in test_stage_operator.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from airflow_provider_e2e3d.backends.local.backend import LocalBackend
from airflow_provider_e2e3d.jobs.attempt import Attempt
from airflow_provider_e2e3d.triggers.job import JobTrigger
from e2e3d_stages.contract.messages import FailureCode, now
from tests.airflow_runs import Outcome
from tests.backends.conftest import PLACES
from tests.backends.places import Place, follow
from tests.conftest import until
from tests.provider.test_waiting import events

pytestmark = pytest.mark.slow

Run = Callable[..., Outcome]


@pytest.fixture(params=list(PLACES))
def place(request: pytest.FixtureRequest, make_place: Callable[[str], Place]) -> Place:
    """Each kind of place in turn."""
    return make_place(request.param)


@pytest.fixture
def waiting(place: Place) -> Attempt:
    """A job of ingest that runs until it is told to go on."""
    place.script["ingest"] = ["wait"]
    made = place.attempt()
    until(lambda: place.script.calls)
    return made


def go_on(place: Place) -> None:
    """Tell it."""
    (place.script.folder / "go on").touch()


# The verbs


def test_a_job_is_submitted_found_followed_and_ends_well(place: Place, waiting: Attempt) -> None:
    assert waiting.backend.find(place.job()) == waiting.state.handle
    assert waiting.backend.poll(waiting.state.handle).running
    go_on(place)
    lines: list[str] = []
    assert follow(waiting, lines) == 0
    assert any("ingest does wait, from step 0" in line for line in lines)
    assert waiting.store.reference("ingest", waiting.state.key) is not None
    # What a worker that died meanwhile finds, where anybody can.
    ended = None if isinstance(waiting.backend, LocalBackend) else waiting.state.handle
    assert waiting.backend.find(place.job()) == ended
    waiting.clean_up(succeeded=True)
    until(lambda: not place.left())
    # Again is no harm.
    waiting.clean_up(succeeded=True)
    waiting.cancel()


def test_nothing_is_found_where_nothing_was_submitted(place: Place) -> None:
    assert place.backend().find(place.job()) is None


def test_another_process_goes_on_with_an_attempt(place: Place, waiting: Attempt) -> None:
    first: list[str] = []
    until(lambda: waiting.follow(first.append) and any("ingest does wait" in line for line in first))
    again = Attempt.deserialize(waiting.serialize())
    go_on(place)
    lines: list[str] = []
    until(lambda: not again.follow(lines.append).running)
    again.follow(lines.append)
    assert again.store.reference("ingest", waiting.state.key) is not None
    assert not any("ingest does wait" in line for line in lines)
    assert place.script.calls == ["ingest"]


def test_a_second_submission_of_the_same_attempt_starts_nothing(place: Place, waiting: Attempt) -> None:
    if isinstance(waiting.backend, LocalBackend):
        pytest.skip("a process has no name that could be taken: StageOperator looks for it first")
    assert waiting.backend.submit(place.job()) == waiting.state.handle
    assert place.script.calls == ["ingest"]


def test_a_long_log_arrives_whole_and_in_order_in_bounded_pieces(place: Place) -> None:
    place.script["ingest"] = ["chatter"]
    made = place.attempt()
    until(lambda: not made.backend.poll(made.state.handle).running)
    lines: list[str] = []
    sizes = []
    cursor = 0
    while True:
        piece, cursor = made.backend.logs(made.state.handle, cursor)
        if not piece:
            break
        sizes.append(sum(map(len, piece)))
        lines += piece
    numbers = [int(line.split()[1]) for line in lines if line.startswith("line ")]
    assert numbers == list(range(15_000))
    assert len(sizes) > 3
    assert max(sizes) < 300_000


def test_a_cancelled_job_saves_and_is_gone(place: Place, waiting: Attempt) -> None:
    started = time.monotonic()
    waiting.cancel()
    assert time.monotonic() - started < 2
    until(lambda: (place.script.folder / "stopped").exists())
    until(lambda: not place.left())
    assert time.monotonic() - started < 15
    assert waiting.failure(waiting.backend.poll(waiting.state.handle)).code is FailureCode.INTERRUPTED
    assert waiting.store.latest_checkpoint("ingest", waiting.state.key, place.folder / "checkpoint")
    # Again is no harm.
    waiting.cancel()


def test_a_person_who_stops_a_deferred_task_stops_its_job(place: Place, waiting: Attempt) -> None:
    event = events(JobTrigger(waiting.serialize()), kill_after=0.2)
    assert "status" in event
    assert (place.script.folder / "stopped").exists()
    until(lambda: not place.left())


def test_a_deadline_passed_while_deferred_stops_the_job(place: Place, waiting: Attempt) -> None:
    event = events(JobTrigger(waiting.serialize(), now().isoformat()))
    assert event["timed_out"]
    until(lambda: (place.script.folder / "stopped").exists())
    until(lambda: not place.left())


def test_a_job_that_vanished_is_told_clearly(place: Place, waiting: Attempt) -> None:
    place.remove(waiting)
    until(lambda: not waiting.follow(lambda _line: None).running)
    failure = waiting.failure(waiting.backend.poll(waiting.state.handle))
    assert failure.code in (FailureCode.INFRASTRUCTURE, FailureCode.CRASH)
    assert failure.message
    assert "checkpoint" in failure.hint
    waiting.clean_up(succeeded=False)


def test_a_job_that_needs_too_much_memory_is_told_so(place: Place) -> None:
    place.limit_memory()
    place.script["ingest"] = [place.out_of_memory]
    made = place.attempt()
    follow(made)
    failure = made.failure(made.backend.poll(made.state.handle))
    assert failure.code is FailureCode.OUT_OF_MEMORY
    assert place.says_of_memory in failure.message
    made.clean_up(succeeded=False)
    until(lambda: not place.left())


def test_what_a_program_says_of_its_failure_is_told(place: Place) -> None:
    place.script["ingest"] = ["unreadable"]
    made = place.attempt()
    assert follow(made) == FailureCode.UNREADABLE_CAPTURE.exit_code
    failure = made.failure(made.backend.poll(made.state.handle))
    assert failure.code is FailureCode.UNREADABLE_CAPTURE
    assert (failure.message, failure.hint) == ("There are only 2 photos.", "Take at least 3.")
    made.clean_up(succeeded=False)
    until(lambda: not place.left())


# Longer than any pause of AWS's own client, which asks twice: then it is ours that is patient.
@pytest.mark.parametrize("seconds", [1.2, pytest.param(60, marks=pytest.mark.soak)])
@pytest.mark.parametrize("kind", ["busy", "away"])
def test_an_api_that_is_busy_or_away_for_a_while_costs_time_only(place: Place, kind: str, seconds: float) -> None:
    place.script["ingest"] = ["wait"]
    submitting = place.disturb(kind, seconds)
    made = place.attempt()
    assert submitting.refused
    until(lambda: place.script.calls)
    following = place.disturb(kind, seconds)
    go_on(place)
    assert "status" in events(JobTrigger(made.serialize()), within=seconds + 60)
    assert following.refused
    assert made.store.reference("ingest", made.state.key) is not None
    assert place.script.calls == ["ingest"]


# A whole run


def test_a_deferred_run_takes_a_killed_job_up_from_its_checkpoint_and_leaves_no_job(
    place: Place, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Here a triggerer sees the processes of local, too.
    monkeypatch.setattr(LocalBackend, "deferrable", True)
    monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", "True")
    place.script["sfm"] = ["die", "succeed"]
    # A capture's files and other stages' artifacts are what jobs read: more stages would be more of the same.
    outcome = run(last="train")
    assert outcome.state == "success", outcome.log
    assert place.script.calls == ["ingest", "sfm", "sfm", "train"]
    assert outcome.results["sfm"]["metrics"]["resumed_from"] == 120
    assert outcome.log.count("DEFERRED") >= 4
    assert "ingest does succeed" in outcome.log
    until(lambda: not place.left())
