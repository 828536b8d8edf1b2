"""Rows of Airflow's database as the scheduler leaves them, without a scheduler."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from dataclasses import dataclass, field
from typing import Any

from airflow.models.dagrun import DagRun
from airflow.models.task_state_store import TaskStateStoreModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import delete, insert

STARTED = dt.datetime(2026, 11, 20, 12, tzinfo=dt.timezone.utc)


@dataclass
class Row:
    """A task instance.

    :param artifact: what `StageOperator` remembered.
    :param told: its XComs.
    """

    task_id: str
    state: str | None
    operator: str | None = None
    artifact: dict[str, Any] | None = None
    told: dict[str, Any] = field(default_factory=dict)


def put_run(
    run_id: str,
    state: str,
    *tasks: Row,
    dag_id: str = "reconstruct",
    conf: dict[str, Any] | None = None,
    started: dt.datetime = STARTED,
) -> None:
    """A DAG run and its tasks."""
    names = {"dag_id": dag_id, "run_id": run_id}
    with create_session() as session:
        run = session.execute(
            insert(DagRun.__table__)
            .values(
                **names,
                state=state,
                conf=conf or {},
                run_type="manual",
                start_date=started,
                queued_at=started,
                run_after=started,
                clear_number=0,
                span_status="not_started",
            )
            .returning(DagRun.__table__.c.id)
        ).scalar_one()
        for task in tasks:
            of_task = {**names, "dag_run_id": run, "task_id": task.task_id, "map_index": -1}
            session.execute(
                insert(TaskInstance.__table__).values(
                    **names,
                    id=uuid.uuid4(),
                    task_id=task.task_id,
                    map_index=-1,
                    state=task.state,
                    operator=task.operator,
                    try_number=1,
                    max_tries=2,
                    pool="default_pool",
                    pool_slots=1,
                    priority_weight=1,
                    span_status="not_started",
                    start_date=started,
                )
            )
            if task.artifact:
                kept = {"key": "e2e3d_artifact", "value": json.dumps(task.artifact), "updated_at": started}
                session.execute(insert(TaskStateStoreModel.__table__).values(**of_task, **kept))
            for key, value in task.told.items():
                row = {"key": key, "value": value, "timestamp": started}
                session.execute(insert(XComModel.__table__).values(**of_task, **row))


def remove_runs() -> None:
    """All of them."""
    with create_session() as session:
        for table in (XComModel, TaskStateStoreModel, TaskInstance, DagRun):
            session.execute(delete(table))
