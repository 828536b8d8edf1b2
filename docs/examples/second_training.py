"""A second training from one structure from motion: photos and poses are made once, both trainings start from them."""

from airflow.sdk import Param, dag

from airflow_provider_e2e3d.operators.reconstruction import IngestOperator, SfmOperator, TrainOperator


@dag(schedule=None, params={"capture": Param(type="string")})
def compare_trainings() -> None:
    ingest = IngestOperator(task_id="ingest", capture="{{ params.capture }}")
    sfm = SfmOperator(task_id="sfm", ingest=ingest.output)
    TrainOperator(task_id="train_short", sfm=sfm.output, parameters={"iterations": 1000})
    TrainOperator(task_id="train_long", sfm=sfm.output, parameters={"iterations": 7000})


compare_trainings()
