"""What jobs leave in their places when nobody comes back for them, and what the clean-up takes of it."""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_provider_e2e3d.jobs.attempt import Attempt
from airflow_provider_e2e3d.pipelines.cleanup import clean
from airflow_provider_e2e3d.profiles.file import profile_named
from airflow_provider_e2e3d.retention import SILENT
from e2e3d_stages.contract.messages import Failure, FailureCode, now
from e2e3d_stages.store import file
from e2e3d_stages.store.base import Entry
from tests.backends.places import DockerPlace, KubernetesPlace, LocalPlace, Place, follow
from tests.conftest import until

DAY = dt.timedelta(days=1)


def removed(place: Place, days: float, *, dry_run: bool = False) -> int:
    """How much the clean-up removes when so many days have passed."""
    place.write()
    profiles = {place.name: profile_named(place.name)}
    done = clean(profiles, at=now() + days * DAY, dry_run=dry_run, attempt_days=7, artifact_days=30)
    return int(done["items"])


@pytest.fixture
def heard_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets an attempt have been heard of at another time than it was: two hours ago, or in days to come."""
    entry_of = file._entry_of

    def go(made: Attempt, moved: dt.timedelta = -2 * SILENT) -> None:
        folder = made.store.attempt_folder(made.state.stage, made.state.key, made.state.claim.attempt)

        def at_another_time(path: str, place: Path) -> Entry:
            found = entry_of(path, place)
            return replace(found, arrived=found.arrived + moved) if path.startswith(f"{folder}/") else found

        monkeypatch.setattr(file, "_entry_of", at_another_time)

    return go


@pytest.mark.slow
@pytest.mark.parametrize("name", ["docker", "kubernetes"])
def test_a_job_that_nobody_comes_back_for_is_removed_and_one_that_runs_is_not(
    make_place: Callable[[str], DockerPlace | KubernetesPlace], heard_of: Callable[..., None], name: str
) -> None:
    place = make_place(name)
    place.script["ingest"] = ["succeed", "wait"]
    ended = place.attempt()
    assert follow(ended) == 0
    assert removed(place, 0) == 0
    heard_of(ended)
    running = place.attempt()
    until(lambda: place.script.calls.count("ingest") == 2)
    assert removed(place, 0, dry_run=True) == 1
    assert removed(place, 0) == 1
    until(lambda: len(place.left()) == 1)
    assert running.backend.poll(running.state.handle).running
    assert removed(place, 0) == 0
    place.profile["store"] = (place.folder / "another").as_uri()
    assert removed(place, 1000) == 0


@pytest.mark.slow
def test_a_container_whose_attempt_was_judged_is_removed_at_once_and_another_when_it_is_old(
    make_place: Callable[[str], DockerPlace], heard_of: Callable[..., None]
) -> None:
    place = make_place("docker")
    place.script["ingest"] = ["crash"]
    made = place.attempt()
    follow(made)
    until(lambda: made.store.failure("ingest", made.state.key, 1))
    folder = made.store.attempt_folder("ingest", made.state.key, 1)
    made.store.storage.delete(f"{folder}/failure.json")
    heard_of(made)
    assert removed(place, 6) == 0
    assert removed(place, 8, dry_run=True) > 0
    failure = Failure(code=FailureCode.CRASH, message="It fell over.", attempt=1)
    made.store.write_failure("ingest", made.state.key, failure)
    assert removed(place, 0) == 1
    assert place.left() == []


@pytest.mark.slow
def test_what_the_profile_says_to_keep_is_kept(
    make_place: Callable[[str], DockerPlace], heard_of: Callable[..., None]
) -> None:
    place = make_place("docker")
    made = place.attempt(auto_remove="never")
    assert follow(made) == 0
    heard_of(made)
    assert removed(place, 20) == 0
    assert len(place.left()) == 1


@pytest.mark.slow
def test_scratch_that_a_killed_program_left_goes_and_a_running_ones_stays(
    make_place: Callable[[str], LocalPlace],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    heard_of: Callable[..., None],
) -> None:
    scratch = tmp_path / "scratch"
    dead = scratch / "e2e3d-train-1-dead"
    dead.mkdir(parents=True)
    (dead / "half").write_bytes(bytes(100))
    (scratch / "e2e3d-tests-mine").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setenv("AIRFLOW__LOGGING__BASE_LOG_FOLDER", str(tmp_path / "logs"))
    place = make_place("local")
    place.script["ingest"] = ["wait"]
    made = place.attempt()
    until(lambda: list(scratch.glob("e2e3d-ingest-*")))
    (ours,) = scratch.glob("e2e3d-ingest-*")
    assert removed(place, 6) == 0
    heard_of(made, 8 * DAY)
    # With the log that the program has not written to for so long.
    assert removed(place, 8, dry_run=True) == 2
    assert removed(place, 8) == 2
    assert sorted(scratch.glob("e2e3d-*")) == [ours, scratch / "e2e3d-tests-mine"]
    made.cancel()
