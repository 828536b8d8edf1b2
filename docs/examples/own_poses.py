"""Own poses instead of structure from motion: the capture has a COLMAP model of its photos in `sparse/0`."""

from airflow.sdk import Param, dag

from airflow_provider_e2e3d.operators.reconstruction import IngestOperator, SfmOperator, TrainOperator


@dag(schedule=None, params={"capture": Param(type="string")})
def train_from_own_poses() -> None:
    ingest = IngestOperator(task_id="ingest", capture="{{ params.capture }}", parameters={"poses": "sparse/0"})
    sfm = SfmOperator(task_id="sfm", ingest=ingest.output)
    TrainOperator(task_id="train", sfm=sfm.output, parameters={"iterations": 7000})


train_from_own_poses()
