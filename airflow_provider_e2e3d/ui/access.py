"""Who may see what: Airflow's own login and its auth manager's word on the DAG, asked on every request.

Airflow mounts a plugin's app as it is: nothing is checked for it.
"""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import Depends, Request

from airflow_provider_e2e3d.scenes.outcome import DAG_ID

# Scenes are results of runs of the DAG `reconstruct`, whichever DAG made them.
of_scenes: Any = Depends(requires_access_dag("GET", DagAccessEntity.RUN, param_dag_id=DAG_ID))
# The pages' own files hold nothing of a store: whoever may see any DAG may have them.
of_any_dag: Any = Depends(requires_access_dag("GET"))


def _of_run(request: Request, user: GetUserDep, dag_id: str) -> None:
    """The runs of the DAG that the request asks for."""
    requires_access_dag("GET", DagAccessEntity.RUN, param_dag_id=dag_id)(request, user)


def _of_task(request: Request, user: GetUserDep, dag_id: str) -> None:
    """The task instances, and with them what they told, of the DAG that the request asks for."""
    requires_access_dag("GET", DagAccessEntity.TASK_INSTANCE, param_dag_id=dag_id)(request, user)
    requires_access_dag("GET", DagAccessEntity.XCOM, param_dag_id=dag_id)(request, user)


of_run: Any = Depends(_of_run)
of_task: Any = Depends(_of_task)
