"""What whoever runs an Airflow settles for DAGs that others wrote: $AIRFLOW_HOME/config/airflow_local_settings.py."""

from __future__ import annotations

import datetime as dt

from airflow.sdk import DAG, BaseOperator
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

LATE = DeadlineAlert(
    name="a scene takes long",
    reference=DeadlineReference.DAGRUN_QUEUED_AT,
    interval=dt.timedelta(hours=6),
    # Any notifier that can be awaited; what it says may name the run and the deadline.
    callback=AsyncCallback(
        "airflow.providers.http.notifications.http.HttpNotifier",
        kwargs={
            "http_conn_id": "on_call",
            "endpoint": "late",
            "json": {"text": "{{ dag_run.dag_run_id }} should have ended by {{ deadline.deadline_time }}"},
        },
    ),
)


def dag_policy(dag: DAG) -> None:
    """Somebody is told when a run is not over after six hours; it runs on."""
    if dag.dag_id == "reconstruct":
        dag.deadline = [LATE]


def task_policy(task: BaseOperator) -> None:
    """Training goes to workers of the queue `gpu`, and before whatever else waits for a slot."""
    if task.dag_id.startswith("reconstruct") and task.task_id == "train":
        task.queue = "gpu"
        task.priority_weight = 100
