"""One stage alone: how many photos of a capture could be used, and how sharp they are."""

from airflow.sdk import Param, dag

from airflow_provider_e2e3d.operators.reconstruction import IngestOperator


@dag(schedule=None, params={"capture": Param(type="string")})
def check_photos() -> None:
    IngestOperator(task_id="ingest", capture="{{ params.capture }}", parameters={"max_size": 1600})


check_photos()
