"""One stage as a process, one in a container, and one in a container that no worker sits waiting for."""

from airflow.sdk import Param, dag

from airflow_provider_e2e3d.operators.reconstruction import IngestOperator


@dag(schedule=None, params={"captures": Param(type="string")})
def three_places() -> None:
    for place, profile in (("process", "local"), ("container", "docker"), ("deferred", "docker")):
        capture = f"{{{{ params.captures }}}}/{place}"
        IngestOperator(task_id=place, profile=profile, capture=capture, deferrable=place == "deferred")


three_places()
