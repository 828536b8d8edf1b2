"""Go on from an artifact that somebody else's run makes: wait for its structure from motion, then train."""

from airflow.sdk import Param, dag

from airflow_provider_e2e3d.operators.reconstruction import TrainOperator
from airflow_provider_e2e3d.sensors.artifact import ArtifactSensor


@dag(schedule=None, params={"sfm_key": Param(type="string")})
def train_anew() -> None:
    sfm = ArtifactSensor(task_id="sfm", stage="sfm", key="{{ params.sfm_key }}", timeout=60, poke_interval=1)
    TrainOperator(task_id="train", sfm=sfm.output, parameters={"iterations": 7000})


train_anew()
