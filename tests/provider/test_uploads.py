"""What `reconstruct_on_upload` watches, as the configuration says, and which runs its events start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag

from airflow_provider_e2e3d.captures.completeness import Completeness
from airflow_provider_e2e3d.get_provider_info import get_provider_info
from airflow_provider_e2e3d.pipelines import uploads
from airflow_provider_e2e3d.triggers.capture import CaptureTrigger
from e2e3d_stages.contract.messages import InvalidRequest
from tests.airflow_runs import run_dag
from tests.conftest import ROOT


def told(name: str = "Yard", scene: str = "yard", fingerprint: str = "f1") -> dict[str, Any]:
    return {"capture": f"s3://uploads/{name}", "name": name, "scene": scene, "fingerprint": fingerprint, "photos": 9}


def test_an_upload_told_twice_asks_for_the_same_run_and_a_changed_one_for_another() -> None:
    (once,) = uploads.requests([told()], "local")
    assert once["conf"] == {"capture": "s3://uploads/Yard", "scene": "yard", "profile": "local"}
    assert once["run_id"].startswith("upload__yard__")
    assert uploads.requests([told()], "local") == [once]
    assert uploads.requests([told(fingerprint="f2")], "local")[0]["run_id"] != once["run_id"]
    assert uploads.requests([told("yard")], "local")[0]["run_id"] != once["run_id"]


def test_of_a_capture_that_changed_meanwhile_only_the_newest_state_is_asked_for() -> None:
    asked = uploads.requests([told(), told("Barn", "barn"), told(fingerprint="f2")], "local")
    assert asked == uploads.requests([told(fingerprint="f2"), told("Barn", "barn")], "local")


@pytest.fixture
def watching(profiles: Path, captures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything below the captures' root is watched."""
    monkeypatch.setenv("AIRFLOW__E2E3D__WATCH_CAPTURES", str(captures))


def the_dag() -> Any:
    """`reconstruct_on_upload`, parsed anew."""
    bag = DagBag(ROOT / "dags" / "reconstruct_on_upload.py", collect_dags=False)
    bag.collect_dags(ROOT / "dags" / "reconstruct_on_upload.py")
    assert not bag.import_errors, bag.import_errors
    return bag.dags["reconstruct_on_upload"]


def the_trigger() -> CaptureTrigger:
    """What watches the asset that the DAG is scheduled by."""
    (asset,) = the_dag().schedule
    (watcher,) = asset.watchers
    trigger: CaptureTrigger = watcher.trigger
    return trigger


def test_while_no_prefix_is_configured_the_dag_has_no_schedule_and_says_why(profiles: Path) -> None:
    dag = the_dag()
    assert dag.schedule is None
    assert "watch_captures" in dag.doc_md


def test_every_option_reaches_the_trigger(watching: None, captures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"marker": "_DONE", "quiet_seconds": 7.5, "min_photos": 3, "poll_seconds": 2.5, "queue": "https://sqs/q"}
    for name, value in options.items():
        monkeypatch.setenv(f"AIRFLOW__E2E3D__WATCH_{name.upper()}", str(value))
    assert the_trigger().serialize()[1] == {"profile": "local", "prefix": captures.as_uri(), **options}


def test_parsing_again_gives_the_same_trigger_so_that_nothing_starts_anew(watching: None) -> None:
    assert the_trigger().serialize() == the_trigger().serialize()


def test_the_defaults_are_those_that_the_provider_declares(watching: None) -> None:
    declared = get_provider_info()["config"]["e2e3d"]["options"]
    defaults = {name.removeprefix("watch_"): option["default"] for name, option in declared.items()}
    _, kwargs = CaptureTrigger(profile="local", prefix="").serialize()
    asset = uploads.watched_uploads()
    assert asset is not None
    _, watched = asset.watchers[0].trigger.serialize()
    for name in ("marker", "quiet_seconds", "min_photos", "poll_seconds", "queue"):
        assert str(kwargs[name]).removesuffix(".0") == defaults[name]
        assert watched[name] == kwargs[name]
    assert vars(Completeness()) == {name: kwargs[name] for name in ("marker", "quiet_seconds", "min_photos")}


def test_a_prefix_outside_the_profiles_roots_is_refused_when_the_dag_is_parsed(
    profiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__E2E3D__WATCH_CAPTURES", "/etc")
    with pytest.raises(InvalidRequest, match="outside the places"):
        uploads.watched_uploads()


def test_an_event_is_not_lost_to_a_worker_that_dies_or_an_api_server_that_is_busy(watching: None) -> None:
    assert [task.retries for task in the_dag().tasks] == [10, 10]


def test_started_by_hand_it_does_nothing_and_takes_no_conf(
    airflow_home: Path, profiles: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = run_dag("reconstruct_on_upload", {}, capfd)
    assert outcome.states == {"uploads": "success", "reconstruct_scene": "skipped"}
    outcome = run_dag("reconstruct_on_upload", {"capture": "/data/yard"}, capfd)
    assert outcome.states["uploads"] == "failed"
    assert "Trigger `reconstruct` for a capture by hand" in outcome.log
