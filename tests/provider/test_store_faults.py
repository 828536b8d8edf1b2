"""Reconstructions on a bucket that is busy, breaks off, is late or gone for a while: they take longer, and succeed."""

from __future__ import annotations

import hashlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e3d_stages.contract.messages import Manifest
from e2e3d_stages.store import s3
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.opening import open_storage
from tests.airflow_runs import Outcome, run_dag
from tests.clock import FastClock
from tests.conftest import ALWAYS, ROOT
from tests.faulty_store import FaultyStore
from tests.provider.conftest import Script, told_profiles

# How many seconds of an outage, and of the patience with it, go into one.
SPEED = 10


@dataclass
class Place:
    """A profile whose captures and store Airflow and the stage programs reach only through a faulty store.

    :param endpoint: the way around it.
    """

    faulty: FaultyStore
    root: str
    endpoint: str
    run: Callable[..., Outcome]

    def capture(self, name: str) -> None:
        """Upload a few photos, undisturbed."""
        storage = open_storage(f"{self.root}/captures/{name}", {"AWS_ENDPOINT_URL_S3": self.endpoint})
        for number in range(4):
            storage.write(f"{number}.jpg", f"{name} {number}".encode() * 1000)

    @property
    def store(self) -> ArtifactStore:
        """What is there, seen undisturbed."""
        return ArtifactStore.open(f"{self.root}/store", {"AWS_ENDPOINT_URL_S3": self.endpoint})


@pytest.fixture
def place(
    airflow_home: Path,
    s3_root: str,
    s3_endpoint: str,
    script: Script,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Place]:
    file = tmp_path / "profiles.yaml"
    told_profiles(file, tmp_path / "captures", script)
    text = file.read_text().replace((tmp_path / "store").as_uri(), f"{s3_root}/store")
    file.write_text(text.replace((tmp_path / "captures").as_uri(), f"{s3_root}/captures"))
    monkeypatch.setenv("AIRFLOW__E2E3D__PROFILES_FILE", str(file))
    # The stage programs are told to go by it, too.
    clock = FastClock(SPEED)
    clock.rule_s3(monkeypatch.setattr)
    monkeypatch.setenv("E2E3D_TEST_SPEED", str(SPEED))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    faulty = FaultyStore(s3_endpoint, clock)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", faulty.url)
    script["train"] = ["write much"]

    def run(name: str, last: str, **conf: Any) -> Outcome:
        return run_dag("reconstruct", {"capture": f"{s3_root}/captures/{name}", **conf}, capfd, last=last)

    yield Place(faulty, s3_root, s3_endpoint, run)
    faulty.close()


def artifacts(store: ArtifactStore) -> list[Manifest]:
    """Every artifact, each of its files compared with its digest."""
    found = []
    for entry in store.storage.list("artifacts"):
        if entry.path.endswith("/manifest.json"):
            manifest = Manifest.model_validate_json(store.storage.read(entry.path))
            for file in manifest.files:
                data = store.storage.read(store.file_path(manifest, file.path))
                assert (len(data), hashlib.sha256(data).hexdigest()) == (file.size, file.sha256), file
            found.append(manifest)
    return found


def check(place: Place, script: Script, outcomes: list[Outcome]) -> None:
    """Everything succeeded at the first try, ran once, and is what its digest says."""
    for outcome in outcomes:
        assert outcome.state == "success", outcome.log[-5000:]
        assert set(outcome.tries.values()) == {1}, outcome.tries
    assert script.calls == ALWAYS * len(outcomes)
    assert len(artifacts(place.store)) == 6 * len(outcomes)


def runs_with_faults(place: Place, script: Script, scenes: int, outage: float) -> None:
    """Scenes one after another, and in the middle of the first, as its training begins, no store at all for a while."""
    for number in range(scenes):
        place.capture(f"scene-{number}")
    place.faulty.fail(busy=0.05, reset=0.1, late=0.03)
    go_away_in(place, script, ["train"], outage)
    began = place.faulty.clock.monotonic()
    outcomes = [place.run(f"scene-{number}", "publish") for number in range(scenes)]
    print(f"{scenes} scenes in {place.faulty.clock.monotonic() - began:.0f} s: {dict(place.faulty.seen)}")
    place.faulty.fail()
    check(place, script, outcomes)
    assert set(place.faulty.seen) == {"passed on", "busy", "upload broken off", "answer broken off", "late", "away"}
    for number in range(scenes):
        assert place.store.storage.read(f"scenes/scene-{number}/latest.json")


def go_away_in(place: Place, script: Script, stages: list[str], seconds: float) -> None:
    """Let the store be away as each stage's program begins; Airflow and the program want it then."""

    def wait_and_go() -> None:
        for stage in stages:
            while stage not in script.calls or place.faulty.is_away:
                time.sleep(0.02)
            place.faulty.away(seconds)

    threading.Thread(target=wait_and_go, daemon=True).start()


@pytest.mark.slow
def test_a_scene_succeeds_with_correct_digests_though_requests_fail(place: Place, script: Script) -> None:
    runs_with_faults(place, script, scenes=1, outage=4)


@pytest.mark.slow
def test_the_first_task_is_tried_again_when_the_store_stays_away(
    place: Place, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.capture("statue")
    file = tmp_path / "profiles.yaml"
    file.write_text(file.read_text().replace("backend: local,", "backend: local, machine: dear,"))
    monkeypatch.setattr(s3, "PATIENCE_SECONDS", 0)
    place.faulty.away(math.inf)

    def come_back_at_the_second_try() -> None:
        while not place.faulty.seen["away"]:
            time.sleep(0.02)
        place.faulty.away(0)

    threading.Thread(target=come_back_at_the_second_try, daemon=True).start()
    outcome = place.run("statue", "ingest", max_cost=1)
    assert outcome.tries["plan"] == 2
    assert "The store could not be reached" in outcome.log
    assert "there is no price for ingest on dear" in outcome.log


@pytest.mark.soak
def test_ten_scenes_succeed_with_correct_digests_though_requests_fail(place: Place, script: Script) -> None:
    runs_with_faults(place, script, scenes=10, outage=60)


@pytest.mark.soak
def test_a_run_outlives_a_store_that_goes_away_for_60_seconds_three_times(place: Place, script: Script) -> None:
    place.capture("statue")
    began = place.faulty.clock.monotonic()
    place.faulty.away(60)
    go_away_in(place, script, ["ingest", "train"], 60)
    outcome = place.run("statue", "publish")
    took = place.faulty.clock.monotonic() - began
    print(f"{took:.0f} s with three times 60 s without the store: {dict(place.faulty.seen)}")
    check(place, script, [outcome])
    assert took > 180
