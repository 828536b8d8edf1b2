"""Runs a shipped DAG for real, in this process, with Airflow's own API behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import fastapi.dependencies.utils
import jsonschema
import pytest
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import DagBag
from airflow.models.xcom import XComModel
from airflow.serialization.serialized_objects import DagSerialization
from airflow.utils.session import create_session
from sqlalchemy import select

from airflow_provider_e2e3d.scenes.outcome import APPROVE
from e2e3d_stages.registry import STAGES
from tests.conftest import ROOT

# What `dag.test()` works out again and again though it stays the same; it takes more than half of a run's time.
_check_schema = jsonschema.Draft202012Validator.check_schema
_read_signature = fastapi.dependencies.utils.get_dependant
_WRITTEN: set[str] = set()
_CHECKED: set[str] = set()
_READ: dict[tuple[Any, ...], Any] = {}


def _check_once(schema: dict[str, Any], *_: object, **__: object) -> None:
    """At each look at a Param, jsonschema checks its schema."""
    text = json.dumps(schema, sort_keys=True)
    if text not in _CHECKED:
        _check_schema(schema)
        _CHECKED.add(text)


def _read_once(**asked: Any) -> Any:
    """At each request to an API with overrides, as Airflow's in this process is, FastAPI reads every signature."""
    key = tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in asked.items())
    if key not in _READ:
        _READ[key] = _read_signature(**asked)
    return _READ[key]


@contextmanager
def _worked_out_once(dag_id: str) -> Iterator[None]:
    with ExitStack() as kept:
        kept.enter_context(patch.object(jsonschema.Draft202012Validator, "check_schema", _check_once))
        kept.enter_context(patch.object(fastapi.dependencies.utils, "get_dependant", _read_once))
        if dag_id in _WRITTEN:
            # Before each run it parses every DAG of the bundle and writes it to the database.
            kept.enter_context(patch.object(DagBundlesManager, "get_all_dag_bundles", return_value=[]))
        yield
    _WRITTEN.add(dag_id)


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
    last: str | None = None,
) -> Outcome:
    """Run a DAG of a folder by `dag.test()`, retries without their delays.

    :param last: the stage after which the others are taken as done, or `plan`; all of them run when it is not given.
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
    stages = ["plan", *STAGES]
    stages.insert(stages.index("train"), APPROVE)
    skipped = stages[stages.index(last) + 1 :] if last else []
    with _worked_out_once(dag_id):
        run = dag.test(run_conf=conf, mark_success_pattern="|".join(skipped) or None)
        # As the API server finds it.
        stored = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    log = capfd.readouterr()
    with create_session() as session:
        found = session.scalars(
            select(XComModel).where(XComModel.run_id == run.run_id, XComModel.key == "return_value")
        ).all()
        results = {row.task_id: XComModel.deserialize_value(row) for row in found}
    instances = run.get_task_instances()
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
