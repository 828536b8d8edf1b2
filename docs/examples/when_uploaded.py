"""Wait until a person has uploaded a capture, then go on."""

from airflow.sdk import Param, dag

from airflow_provider_e2e3d.operators.reconstruction import IngestOperator
from airflow_provider_e2e3d.sensors.capture import CaptureSensor


@dag(schedule=None, params={"capture": Param(type="string")})
def when_uploaded() -> None:
    upload = CaptureSensor(task_id="upload", capture="{{ params.capture }}", quiet_seconds=1, min_photos=3, timeout=60)
    IngestOperator(task_id="ingest", capture=upload.output["capture"])


when_uploaded()
