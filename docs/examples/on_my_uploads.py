"""Start a DAG of your own for each upload, with the trigger that `reconstruct_on_upload` uses."""

from airflow.sdk import Asset, AssetWatcher, dag, get_current_context, task

from airflow_provider_e2e3d.operators.reconstruction import IngestOperator
from airflow_provider_e2e3d.triggers.capture import CaptureTrigger

watch = CaptureTrigger(profile="local", prefix="/data/captures/drone", marker="_DONE", min_photos=20)
flights = Asset("drone-flights", watchers=[AssetWatcher(name="uploads", trigger=watch)])


@task
def captures() -> list[str]:
    events = get_current_context()["triggering_asset_events"].get(flights, [])
    return [event.extra["payload"]["capture"] for event in events]


@dag(schedule=[flights])
def on_my_uploads() -> None:
    IngestOperator.partial(task_id="ingest").expand(capture=captures())


on_my_uploads()
