"""What the configuration does to the DAGs."""

from __future__ import annotations

from pathlib import Path

import pytest
from airflow.sdk import DAG

from airflow_provider_e2e3d.pipelines.batch.tasks import batch_params, batch_schedule
from airflow_provider_e2e3d.pipelines.form import reconstruction_params
from airflow_provider_e2e3d.pipelines.reconstruct import reconstruct_capture
from e2e3d_stages.contract.messages import InvalidRequest


def test_training_and_evaluation_share_the_gpus_and_the_rest_the_cores(
    profiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__E2E3D__GPU_POOL", "e2e3d_gpu")
    monkeypatch.setenv("AIRFLOW__E2E3D__CPU_POOL", "e2e3d_cpu")
    with DAG("some_dag", params=reconstruction_params()) as dag:
        reconstruct_capture()
    pools = {task.task_id: task.pool for task in dag.tasks}
    assert {pools.pop(name) for name in ("plan", "approve")} == {"default_pool"}
    gpu = {name for name, pool in pools.items() if pool == "e2e3d_gpu"}
    assert gpu == {"train", "evaluate", "render"}
    assert {pool for name, pool in pools.items() if name not in gpu} == {"e2e3d_cpu"}


def test_a_schedule_needs_captures(profiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert batch_schedule() is None
    monkeypatch.setenv("AIRFLOW__E2E3D__BATCH_SCHEDULE", "0 2 * * *")
    with pytest.raises(InvalidRequest, match="batch_schedule"):
        batch_schedule()
    monkeypatch.setenv("AIRFLOW__E2E3D__BATCH_CAPTURES", "s3://uploads")
    assert batch_schedule() == "0 2 * * *"
    # A DAG with a schedule asks nobody.
    assert batch_params()["captures"].value == "s3://uploads"
