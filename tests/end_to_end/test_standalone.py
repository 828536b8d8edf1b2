"""The scheduler's side of the promises: dead workers, people who stop tasks, and what REST refuses."""

from __future__ import annotations

import datetime as dt
import os
import signal
import statistics
import time
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import docker
import psutil
import pytest

from airflow_provider_e2e3d.scenes.names import scene_of
from e2e3d_stages.store.artifacts import ArtifactStore
from tests.collector import Collector, check_job
from tests.conftest import until
from tests.end_to_end.conftest import ENDS, Airflow, Standalone
from tests.provider.conftest import Script
from tests.web import Web

# One Airflow serves both modules when one worker of pytest runs them.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("airflow")]


def task_process(place: Path, stage: str) -> psutil.Process:
    """Airflow's process that waits for a stage: the parent of the stage program."""
    for process in psutil.process_iter():
        try:
            if f"{place.name}/store/artifacts/{stage}/" in " ".join(process.cmdline()):
                parent = process.parent()
                assert parent is not None
                return parent
        except psutil.Error:
            continue
    raise AssertionError(f"no {stage} program runs")


@dataclass
class Watched:
    """A run with only the capture given, looked at while its training waited.

    :param links: addresses of the training's buttons at that time.
    """

    run: str
    links: dict[str, str | None]
    state: str


@pytest.fixture(scope="module")
def watched(airflow: Airflow, place: Path, script: Script) -> Watched:
    """The one run of every stage."""
    script.forget()
    script["train"] = ["wait"]
    run = airflow.trigger(capture=str(place / "captures" / "statue"))
    until(lambda: "train" in script.calls)
    links = airflow.call("GET", f"/dags/reconstruct/dagRuns/{run}/taskInstances/train/links")["extra_links"]
    (script.folder / "go on").touch()
    script["train"] = ["succeed"]
    return Watched(run, links, airflow.end_of(run))


def test_a_run_with_only_the_capture_given_ends_well(watched: Watched, place: Path) -> None:
    assert watched.state == "success"
    assert (place / "store" / "scenes" / "statue" / "latest.json").exists()


def test_the_buttons_work_while_the_task_runs_and_the_end_is_told_once(
    watched: Watched, airflow: Airflow, place: Path, told: Web
) -> None:
    run = watched.run
    artifact = f"{airflow.url}/dags/reconstruct/runs/{quote(run)}/tasks/train/plugin/artifact"
    assert watched.links == {"Artifact": artifact, "Job": None}
    until(lambda: [news for news in told.sent_to("/hook") if news["run"] == run])
    (news,) = [news for news in told.sent_to("/hook") if news["run"] == run]
    assert (news["state"], news["name"]) == ("succeeded", "statue")
    assert news["page"].startswith(f"{airflow.url}/e2e3d/scenes/statue/")
    until(lambda: "Told by webhook: The scene statue is ready." in airflow.log(place, run, "publish", 1))
    links = airflow.call("GET", f"/dags/reconstruct/dagRuns/{run}/taskInstances/publish/links")["extra_links"]
    assert links["Open scene"] == news["page"]


def test_a_refused_run_is_told_with_the_reason_and_what_to_do(airflow: Airflow, place: Path, told: Web) -> None:
    run = airflow.trigger(capture="/etc/church")
    until(lambda: [news for news in told.sent_to("/hook") if news["run"] == run])
    (news,) = [news for news in told.sent_to("/hook") if news["run"] == run]
    assert (news["state"], news["name"], news["reason"]["code"]) == ("failed", "church", "invalid_request")
    assert news["airflow"].startswith(f"{airflow.url}/dags/reconstruct/runs/")
    log = airflow.log(place, run, "plan", 1)
    assert f"{news['reason']['message']} {news['reason']['hint']}" in log


class ThreePlaces:
    """Ingest as a process, in a container, and in a container that no worker waits for, until it is told to go on."""

    def __init__(self, airflow: Airflow, place: Path, script: Script, name: str) -> None:
        self.airflow, self.place, self.script = airflow, place, script
        captures = place / "captures" / name
        for where in ("process", "container", "deferred"):
            (captures / where).mkdir(parents=True)
            # What is alike is made once, and two would wait for the one.
            (captures / where / "1.jpg").write_text(f"{name} {where}")
        script.forget()
        for word in ("go on", "stopped"):
            (script.folder / word).unlink(missing_ok=True)
        script["ingest"] = ["wait"]
        self.run = airflow.trigger("three_places", captures=str(captures))
        until(lambda: script.calls == ["ingest"] * 3)

    def task(self, name: str) -> dict[str, Any]:
        """One of the three tasks."""
        return self.airflow.task(self.run, name, "three_places")

    def go_on(self) -> str:
        """Let the programs that wait end; how the run did."""
        (self.script.folder / "go on").touch()
        self.script["ingest"] = ["succeed"]
        return self.airflow.end_of(self.run, "three_places")


@pytest.fixture
def three_places(airflow: Airflow, place: Path, script: Script, told_image: str) -> Callable[[str], ThreePlaces]:
    """Starts three ingests."""
    return partial(ThreePlaces, airflow, place, script)


def test_progress_is_seen_within_five_seconds_of_a_process_a_container_and_a_deferred_task_and_all_are_in_the_trace(
    airflow: Airflow, three_places: Callable[[str], ThreePlaces], collector: Collector
) -> None:
    started = three_places("looked at")

    def look() -> dict[str, dict[str, Any]]:
        path = f"/run?dag_id=three_places&run_id={quote(started.run)}"
        return {each["task_id"]: each for each in airflow.call("GET", path, api="/e2e3d/api")["stages"]}

    until(lambda: sum(bool(each["progress"]) for each in look().values()) == 3)
    until(lambda: look()["deferred"]["state"] == "deferred")
    late: dict[str, list[float]] = {}
    for _ in range(12):
        for name, each in look().items():
            late.setdefault(name, []).append(time.time() - each["progress"]["figures"]["at"])
        time.sleep(0.5)
    assert started.go_on() == "success"
    print({name: f"{statistics.median(each):.1f} s, at most {max(each):.1f} s" for name, each in late.items()})
    # The page itself looks every two seconds.
    assert all(statistics.median(each) < 3 for each in late.values()), late
    backends = {"process": "local", "container": "docker", "deferred": "docker"}
    spans = collector.trace_of(started.run, backends)
    for task, backend in backends.items():
        check_job(spans, task, "ingest", backend)


def test_a_process_and_a_container_outlive_their_killed_workers_and_the_next_try_takes_them_over(
    place: Path, three_places: Callable[[str], ThreePlaces], airflow: Airflow, engine: docker.APIClient
) -> None:
    started = three_places("orphaned")
    for name in ("process", "container"):
        os.kill(started.task(name)["pid"], signal.SIGKILL)

    def logs() -> list[str]:
        tries = [airflow.log(place, started.run, name, 2, "three_places") for name in ("process", "container")]
        return [log for log in tries if "Reattached to attempt 1" in log]

    until(lambda: len(logs()) == 2)
    assert [started.task(name)["try_number"] for name in ("process", "container")] == [2, 2]
    assert started.go_on() == "success"
    assert started.script.calls == ["ingest"] * 3
    assert containers(engine, started.run) == []


def test_a_person_who_fails_tasks_ends_their_process_and_container_within_fifteen_seconds_and_checkpoints_stay(
    place: Path, three_places: Callable[[str], ThreePlaces], airflow: Airflow, engine: docker.APIClient
) -> None:
    started = three_places("given up")
    assert len(containers(engine, started.run)) == 2
    worker = task_process(place, "ingest")
    (program,) = worker.children()
    asked = time.monotonic()
    for name in ("process", "container"):
        path = f"/dags/three_places/dagRuns/{started.run}/taskInstances/{name}"
        airflow.call("PATCH", path, {"new_state": "failed"})
    until(lambda: not is_alive(program) and len(containers(engine, started.run)) == 1, 30)
    assert time.monotonic() - asked < 15
    assert (started.script.folder / "stopped").exists()
    until(lambda: not is_alive(worker), 30)
    assert started.go_on() == "failed"
    states = [started.task(name)["state"] for name in ("process", "container", "deferred")]
    assert states == ["failed", "failed", "success"]
    for store in ("store", "container store"):
        listed = ArtifactStore.open((place / store).as_uri()).storage.list("artifacts/ingest")
        assert [entry.path for entry in listed if entry.path.endswith("checkpoint.json")]


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def containers(engine: docker.APIClient, run: str) -> list[str]:
    """Containers of a run, also ended ones."""
    found = engine.containers(all=True, filters={"label": "e2e3d.owner"})
    return [one["Id"] for one in found if f"/{run}/" in one["Labels"]["e2e3d.owner"]]


def test_rest_refuses_a_wrong_value_at_the_trigger(airflow: Airflow) -> None:
    for conf in ({}, {"capture": "/x", "train_iterations": -1}, {"capture": "/x", "scene": "No Slug"}):
        with pytest.raises(urllib.error.HTTPError) as refusal:
            airflow.trigger(**conf)
        assert refusal.value.code == 400


def test_the_form_asks_for_the_capture_only_and_explains_every_field(airflow: Airflow) -> None:
    params = airflow.call("GET", "/dags/reconstruct/details")["params"]
    required = [name for name, param in params.items() if param["value"] is None and "null" not in _types(param)]
    assert required == ["capture"]
    assert all(param["schema"].get("title") and param["description"] for param in params.values())


def _types(param: dict[str, dict[str, object]]) -> object:
    return param["schema"]["type"]


def test_no_dag_has_an_import_error(airflow: Airflow) -> None:
    assert airflow.call("GET", "/importErrors")["total_entries"] == 0


@pytest.mark.parametrize("pause", [0.15, pytest.param(1.0, marks=pytest.mark.soak)])
def test_an_upload_starts_one_run_after_its_last_photo_though_the_triggerer_is_killed_during_it(
    airflow: Standalone, place: Path, script: Script, pause: float
) -> None:
    folder = place / "captures" / "uploads" / f"Barn {pause}"
    folder.mkdir(parents=True)
    until(lambda: "are taken as known" in airflow.output.read_text(), 300)
    for number in range(40):
        if number == 20:
            airflow.kill("triggerer")
            airflow.start("triggerer")
        (folder / f"{number}.jpg").write_bytes(b"a photo")
        time.sleep(pause)
    # What the example of docs/own-dags.md waits for.
    (folder / "_DONE").touch()
    ended = dt.datetime.now(dt.timezone.utc)
    scene = scene_of(folder.name)
    until(lambda: scene_tasks(airflow, scene) and scene_tasks(airflow, scene)[0] in ENDS, 300, pause=0.5)
    assert scene_tasks(airflow, scene) == ["success"]
    (run,) = uploads(airflow, scene)
    assert run["state"] == "success"
    assert dt.datetime.fromisoformat(run["queued_at"]) > ended
    assert run["conf"] == {"capture": folder.as_uri(), "scene": scene, "profile": "local"}
    assert (place / "store" / "scenes" / scene / "latest.json").exists()
    until(lambda: "success" in airflow.runs("on_my_uploads").values(), 120, pause=0.5)
    own = airflow.call("GET", "/dags/on_my_uploads/dagRuns/~/taskInstances?task_id=ingest")["task_instances"]
    assert [task["state"] for task in own] == ["success"]


def scene_tasks(airflow: Airflow, scene: str) -> list[str]:
    """States of the tasks that reconstruct an uploaded scene, which the UI calls by its name."""
    tasks = airflow.call("GET", "/dags/reconstruct_on_upload/dagRuns/~/taskInstances")["task_instances"]
    return [task["state"] for task in tasks if task["rendered_map_index"] == scene]


def uploads(airflow: Airflow, scene: str) -> list[dict[str, Any]]:
    """Runs that an upload of a scene started."""
    runs = airflow.call("GET", "/dags/reconstruct/dagRuns")["dag_runs"]
    return [run for run in runs if run["dag_run_id"].startswith(f"upload__{scene}__")]
