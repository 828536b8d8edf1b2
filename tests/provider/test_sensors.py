"""Sensors: what they wait for, what they return, and how they end when it does not come; without and with a worker."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSensorTimeout, TaskDeferred

from airflow_provider_e2e3d.exceptions import StageRefused
from airflow_provider_e2e3d.sensors.artifact import ArtifactSensor
from airflow_provider_e2e3d.sensors.capture import CaptureSensor
from airflow_provider_e2e3d.sensors.store import StoreSensor
from airflow_provider_e2e3d.triggers import polling as look
from e2e3d_stages.contract.messages import Infrastructure, now
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.base import Storage
from e2e3d_stages.store.opening import open_storage
from tests.stages.test_store import KEY, committed


@pytest.fixture
def root(store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """Store and captures of the profile `local`, on a disk and in a bucket."""
    file = tmp_path / "profiles.yaml"
    file.write_text(f"local: {{store: '{store_uri}', captures: ['{store_uri}/captures']}}\n")
    monkeypatch.setenv("AIRFLOW__E2E3D__PROFILES_FILE", str(file))
    return open_storage(store_uri)


def capture_sensor(root: Storage, **options: Any) -> CaptureSensor:
    return CaptureSensor(
        **{
            "task_id": "wait",
            "capture": f"{root.uri}/captures/yard",
            "marker": "_DONE",
            "min_photos": 1,
            "poke_interval": 0.05,
            "timeout": 5,
            **options,
        }
    )


async def first_event(sensor: StoreSensor) -> dict[str, Any]:
    """What the triggerer hands back after the sensor deferred, through JSON as in Airflow's database."""
    with pytest.raises(TaskDeferred) as deferral:
        sensor.execute({})
    classpath, kwargs = deferral.value.trigger.serialize()
    trigger = getattr(look, classpath.rsplit(".", 1)[1])(**json.loads(json.dumps(kwargs)))
    async for event in trigger.run():
        payload: dict[str, Any] = json.loads(json.dumps(event.payload))
        return payload
    raise AssertionError("no event")


def waited(sensor: StoreSensor) -> Any:
    """The sensor's result after a wait in the triggerer."""
    return sensor.resume({}, asyncio.run(first_event(sensor)))


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_complete_capture_is_returned_at_once_as_an_upload_would_be_told(root: Storage, deferrable: bool) -> None:
    root.write("captures/yard/1.jpg", b"a photo")
    root.write("captures/yard/_DONE", b"")
    told = capture_sensor(root, deferrable=deferrable).execute({})
    assert told == {
        "capture": f"{root.uri}/captures/yard",
        "name": "yard",
        "scene": "yard",
        "fingerprint": told["fingerprint"],
        "photos": 1,
        "bytes": 7,
    }


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_capture_is_waited_for_until_its_upload_is_complete(
    root: Storage, deferrable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sensor = capture_sensor(root, deferrable=deferrable)
    really, looks = look.CaptureCompleteTrigger.look, []

    def counted(trigger: look.CaptureCompleteTrigger) -> dict[str, Any]:
        looks.append(1)
        if len(looks) == 2:
            raise Infrastructure("The store does not answer.")
        if len(looks) == 3:
            root.write("captures/yard/1.jpg", b"a photo")
            root.write("captures/yard/_DONE", b"")
        return really(trigger)

    monkeypatch.setattr(look.CaptureCompleteTrigger, "look", counted)
    told = waited(sensor) if deferrable else sensor.execute({})
    assert told["photos"] == 1
    assert len(looks) == 3


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_sensor_that_waited_in_vain_says_what_is_missing(root: Storage, deferrable: bool) -> None:
    def result(**options: Any) -> Any:
        sensor = capture_sensor(root, timeout=0.1, deferrable=deferrable, **options)
        return waited(sensor) if deferrable else sensor.execute({})

    root.write("captures/yard/1.jpg", b"a photo")
    with pytest.raises(AirflowSensorTimeout, match="yard is not complete: it has 1 photos and needs 3"):
        result(min_photos=3)
    with pytest.raises(AirflowSensorTimeout, match=r"There is nothing at .*/captures/barn"):
        result(capture=f"{root.uri}/captures/barn")


def test_values_may_come_from_templates(root: Storage) -> None:
    root.write("captures/yard/1.jpg", b"a photo")
    sensor = capture_sensor(root, marker="", quiet_seconds="0", min_photos="1")
    assert set(sensor.template_fields) == {"profile", "capture", "marker", "quiet_seconds", "min_photos"}
    assert sensor.execute({})["photos"] == 1


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_capture_outside_the_profiles_roots_is_refused_and_never_tried_again(root: Storage, deferrable: bool) -> None:
    with pytest.raises(StageRefused, match="outside the places"):
        capture_sensor(root, capture="/etc", deferrable=deferrable).execute({})


def test_an_artifact_is_waited_for_and_its_reference_returned(root: Storage, tmp_path: Path) -> None:
    sensor = ArtifactSensor(task_id="wait", stage="sfm", key=KEY, deferrable=True, poke_interval=0.05, timeout=0.1)
    with pytest.raises(AirflowSensorTimeout, match=f"There is no artifact sfm {KEY}"):
        waited(sensor)
    store = ArtifactStore(root)
    committed(store, tmp_path / "made")
    reference = store.reference("sfm", KEY)
    assert reference is not None
    assert sensor.execute({}) == {**reference.model_dump(mode="json"), "reused": True}


def test_a_stage_that_there_is_not_is_refused(root: Storage) -> None:
    with pytest.raises(StageRefused, match="no stage 'sfn'"):
        ArtifactSensor(task_id="wait", stage="sfn", key=KEY).execute({})


def test_the_deadline_is_counted_from_the_deferral(root: Storage) -> None:
    sensor = capture_sensor(root, deferrable=True, timeout=3600)
    with pytest.raises(TaskDeferred) as deferral:
        sensor.execute({})
    deadline = dt.datetime.fromisoformat(deferral.value.trigger.serialize()[1]["deadline"])
    assert abs((deadline - now()).total_seconds() - 3600) < 60
