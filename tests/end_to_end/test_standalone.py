"""The scheduler's side of the promises: dead workers, people who stop tasks, and what REST refuses."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import signal
import statistics
import time
import urllib.error
from pathlib import Path
from typing import Any
from urllib.parse import quote

import docker
import psutil
import pytest

from airflow_provider_e2e3d.captures import scene_of
from e2e3d_stages.store import ArtifactStore
from tests.conftest import until
from tests.end_to_end.conftest import Airflow, Standalone
from tests.provider.conftest import Script
from tests.web import Web

pytestmark = pytest.mark.slow


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


def test_a_run_with_only_the_capture_given_ends_well(airflow: Airflow, place: Path, script: Script) -> None:
    run = airflow.trigger(capture=str(place / "captures" / "statue"))
    until(lambda: airflow.state(run) in ("success", "failed"))
    assert airflow.state(run) == "success"
    assert (place / "store" / "scenes" / "statue" / "latest.json").exists()


def test_a_job_outlives_its_killed_worker_and_the_next_try_takes_it_over(
    airflow: Airflow, place: Path, script: Script
) -> None:
    script.forget()
    script["train"] = ["wait"]
    run = airflow.trigger(capture=str(place / "captures" / "statue"), train_iterations=1001)
    until(lambda: "train" in script.calls)
    task_process(place, "train").send_signal(signal.SIGKILL)
    until(lambda: "Reattached to attempt 1" in airflow.log(place, run, "train", 2))
    (script.folder / "go on").touch()
    until(lambda: airflow.state(run) in ("success", "failed"))
    assert airflow.state(run) == "success"
    assert script.calls.count("train") == 1


def test_the_buttons_work_while_the_task_runs_and_the_end_is_told_once(
    airflow: Airflow, place: Path, script: Script, told: Web
) -> None:
    script.forget()
    (script.folder / "go on").unlink(missing_ok=True)
    script["train"] = ["wait"]
    run = airflow.trigger(capture=str(place / "captures" / "statue"), train_iterations=1004)
    until(lambda: "train" in script.calls)
    place_of = f"/dags/reconstruct/dagRuns/{run}/taskInstances"
    links = airflow.call("GET", f"{place_of}/train/links")["extra_links"]
    assert links["Artifact"] == f"{airflow.url}/dags/reconstruct/runs/{quote(run)}/tasks/train/plugin/artifact"
    assert links["Job"] is None
    (script.folder / "go on").touch()
    until(lambda: airflow.state(run) in ("success", "failed"))
    until(lambda: [news for news in told.sent_to("/hook") if news["run"] == run])
    (news,) = [news for news in told.sent_to("/hook") if news["run"] == run]
    assert (news["state"], news["name"]) == ("succeeded", "statue")
    assert news["page"].startswith(f"{airflow.url}/e2e3d/scenes/statue/")
    assert "Told by webhook: The scene statue is ready." in airflow.log(place, run, "publish", 1)
    assert airflow.call("GET", f"{place_of}/publish/links")["extra_links"]["Open scene"] == news["page"]


def test_a_refused_run_is_told_with_the_reason_and_what_to_do(airflow: Airflow, place: Path, told: Web) -> None:
    run = airflow.trigger(capture="/etc/church")
    until(lambda: [news for news in told.sent_to("/hook") if news["run"] == run])
    (news,) = [news for news in told.sent_to("/hook") if news["run"] == run]
    assert (news["state"], news["name"], news["reason"]["code"]) == ("failed", "church", "invalid_request")
    assert news["airflow"].startswith(f"{airflow.url}/dags/reconstruct/runs/")
    log = airflow.log(place, run, "plan", 1)
    assert f"{news['reason']['message']} {news['reason']['hint']}" in log


def test_progress_is_seen_within_five_seconds_of_a_process_a_container_and_a_deferred_task(
    airflow: Airflow, place: Path, script: Script, told_image: str
) -> None:
    for name in ("process", "container", "deferred"):
        shutil.copytree(place / "captures" / "statue", place / "captures" / name)
        # What is alike is made once, and two would wait for the one.
        (place / "captures" / name / "1.jpg").write_text(name)
    (script.folder / "go on").unlink(missing_ok=True)
    script["ingest"] = ["wait"]
    run = airflow.trigger("three_places", captures=str(place / "captures"))

    def look() -> dict[str, dict[str, Any]]:
        found = airflow.call("GET", f"/run?dag_id=three_places&run_id={quote(run)}", api="/e2e3d/api")["stages"]
        return {each["task_id"]: each for each in found}

    until(lambda: sum(bool(each["progress"]) for each in look().values()) == 3)
    until(lambda: look()["deferred"]["state"] == "deferred")
    late: dict[str, list[float]] = {}
    for _ in range(12):
        for name, each in look().items():
            late.setdefault(name, []).append(time.time() - each["progress"]["figures"]["at"])
        time.sleep(0.5)
    (script.folder / "go on").touch()
    script["ingest"] = ["succeed"]
    until(lambda: airflow.state(run, "three_places") in ("success", "failed"))
    assert airflow.state(run, "three_places") == "success"
    print({name: f"{statistics.median(each):.1f} s, at most {max(each):.1f} s" for name, each in late.items()})
    # The page itself looks every two seconds.
    assert all(statistics.median(each) < 3 for each in late.values()), late


def test_a_person_who_fails_a_task_ends_its_job_and_the_task_is_no_success(
    airflow: Airflow, place: Path, script: Script
) -> None:
    script.forget()
    (script.folder / "go on").unlink(missing_ok=True)
    script["train"] = ["wait"]
    run = airflow.trigger(capture=str(place / "captures" / "statue"), train_iterations=1002)
    until(lambda: "train" in script.calls)
    worker = task_process(place, "train")
    airflow.call("PATCH", f"/dags/reconstruct/dagRuns/{run}/taskInstances/train", {"new_state": "failed"})
    until(lambda: (script.folder / "stopped").exists(), 60)
    until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, 30)
    time.sleep(1)
    assert airflow.task(run, "train")["state"] == "failed"
    assert airflow.state(run) == "failed"


def test_a_container_outlives_its_killed_worker_and_is_the_only_one_ever_started(
    airflow: Airflow, place: Path, script: Script, told_image: str, engine: docker.APIClient
) -> None:
    script.forget()
    script["train"] = ["wait"]
    (script.folder / "go on").unlink(missing_ok=True)
    run = airflow.trigger(capture=str(place / "captures" / "statue"), profile="docker")
    until(lambda: "train" in script.calls)
    os.kill(airflow.task(run, "train")["pid"], signal.SIGKILL)
    until(lambda: airflow.task(run, "train")["try_number"] == 2)
    until(lambda: "Reattached to attempt 1" in airflow.log(place, run, "train", 2))
    (script.folder / "go on").touch()
    until(lambda: airflow.state(run) in ("success", "failed"))
    assert airflow.state(run) == "success"
    assert script.calls.count("train") == 1
    assert containers(engine, run) == []


def test_a_person_who_fails_a_task_ends_its_container_within_fifteen_seconds_and_a_checkpoint_stays(
    airflow: Airflow, place: Path, script: Script, told_image: str, engine: docker.APIClient
) -> None:
    script.forget()
    for name in ("go on", "stopped"):
        (script.folder / name).unlink(missing_ok=True)
    script["train"] = ["wait"]
    run = airflow.trigger(capture=str(place / "captures" / "statue"), profile="docker", train_iterations=1003)
    until(lambda: "train" in script.calls)
    assert len(containers(engine, run)) == 1
    asked = time.monotonic()
    airflow.call("PATCH", f"/dags/reconstruct/dagRuns/{run}/taskInstances/train", {"new_state": "failed"})
    until(lambda: not containers(engine, run), 30)
    assert time.monotonic() - asked < 15
    assert airflow.task(run, "train")["state"] == "failed"
    store = ArtifactStore.open((place / "container store").as_uri())
    assert [entry.path for entry in store.storage.list("artifacts/train") if entry.path.endswith("checkpoint.json")]


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
    until(lambda: uploads(airflow, scene), 300)
    until(lambda: uploads(airflow, scene)[0]["state"] in ("success", "failed"), 300)
    until(lambda: scene_tasks(airflow, scene) == ["success"])
    (run,) = uploads(airflow, scene)
    assert run["state"] == "success"
    assert dt.datetime.fromisoformat(run["queued_at"]) > ended
    assert run["conf"] == {"capture": folder.as_uri(), "scene": scene, "profile": "local"}
    assert (place / "store" / "scenes" / scene / "latest.json").exists()
    until(lambda: "success" in airflow.runs("on_my_uploads").values(), 120)
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
