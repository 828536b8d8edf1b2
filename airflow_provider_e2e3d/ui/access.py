"""Who may see what: Airflow's own login and its auth manager's word on the DAG, asked on every request.

Airflow mounts a plugin's app as it is: nothing is checked for it.
"""

from __future__ import annotations

from typing import Any, Literal

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import Depends, HTTPException, Request

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


def _what_may_be_done(request: Request, user: GetUserDep, dag_id: str) -> dict[str, bool]:
    """Whether Airflow's API lets the user start a run of the DAG, and end one."""

    def may(method: Literal["POST", "PUT"]) -> bool:
        try:
            requires_access_dag(method, DagAccessEntity.RUN, param_dag_id=dag_id)(request, user)
        except HTTPException:
            return False
        return True

    return {"start": may("POST"), "cancel": may("PUT")}


of_run: Any = Depends(_of_run)
what_may_be_done: Any = Depends(_what_may_be_done)
of_task: Any = Depends(_of_task)
