"""Runs a shipped DAG for real, in this process, with Airflow's own API behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.models.xcom import XComModel
from airflow.serialization.serialized_objects import DagSerialization
from airflow.utils.session import create_session
from sqlalchemy import select

from e2e3d_stages.presets import STAGES
from tests.conftest import ROOT


@dataclass
class Outcome:
    """How a DAG run ended.

    :param links: by task, the addresses of its buttons.
    :param states: by task.
    :param tries: by task, how often it was tried.
    :param results: by task, what it returned.
    :param log: everything that was logged.
    """

    run_id: str
    state: str
    links: dict[str, dict[str, str]]
    states: dict[str, str]
    tries: dict[str, int]
    results: dict[str, Any]
    log: str

    @property
    def reused(self) -> list[str]:
        """Tasks that found their artifact."""
        return [task for task, result in self.results.items() if isinstance(result, dict) and result.get("reused")]


def run_dag(
    dag_id: str,
    conf: dict[str, Any],
    capfd: pytest.CaptureFixture[str],
    *,
    folder: Path = ROOT / "dags",
    last: str = "publish",
) -> Outcome:
    """Run a DAG of a folder by `dag.test()`, retries without their delays.

    :param last: the stage after which the others are taken as done.
    """
    bag = DagBag(folder, collect_dags=False)
    bag.collect_dags(folder)
    assert not bag.import_errors, bag.import_errors
    dag = bag.dags[dag_id]
    for task in dag.tasks:
        for rule in getattr(task.retry_policy, "rules", []):
            object.__setattr__(rule, "retry_delay", None)
        task.retry_delay *= 0
    capfd.readouterr()
    stages = list(STAGES)
    run = dag.test(run_conf=conf, mark_success_pattern="|".join(stages[stages.index(last) + 1 :]) or None)
    log = capfd.readouterr()
    with create_session() as session:
        found = session.scalars(
            select(XComModel).where(XComModel.run_id == run.run_id, XComModel.key == "return_value")
        ).all()
        results = {row.task_id: XComModel.deserialize_value(row) for row in found}
    instances = run.get_task_instances()
    # As the API server finds them.
    stored = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    links = {
        ti.task_id: {name: task.get_extra_links(ti, name) for name in task.extra_links}
        for ti in instances
        if (task := stored.get_task(ti.task_id))
    }
    return Outcome(
        run_id=run.run_id,
        state=str(run.state),
        links=links,
        states={ti.task_id: str(ti.state) for ti in instances},
        tries={ti.task_id: ti.try_number for ti in instances},
        results=results,
        log=log.out + log.err,
    )
