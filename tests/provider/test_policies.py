"""What docs/operations.md has for whoever runs an Airflow: deadlines, queues and priorities of the shipped DAGs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

EXAMPLE = ROOT / "deploy" / "policies" / "airflow_local_settings.py"
# What DAG processor, API server and scheduler do one after another.
PROGRAM = """
import datetime as dt, json
from airflow._shared.timezones import timezone
from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
from airflow.models import Deadline
from airflow.models.serialized_dag import SerializedDagModel
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType

bag = DagBag("dags/reconstruct.py", collect_dags=False)
bag.collect_dags("dags/reconstruct.py")
with create_session() as session:
    from airflow.models.dagbundle import DagBundleModel
    session.merge(DagBundleModel(name="e2e3d"))
sync_bag_to_db(bag, "e2e3d", None)
with create_session() as session:
    dag = SerializedDagModel.get_dag("reconstruct", session=session)
    run = dag.create_dagrun(
        run_id="r", run_after=timezone.utcnow(), run_type=DagRunType.MANUAL, state=DagRunState.QUEUED,
        conf={"capture": "/x"}, triggered_by=DagRunTriggeredByType.TEST, session=session,
    )
    session.flush()
    deadline = session.query(Deadline).one()
    allowed = deadline.deadline_time - run.queued_at
    deadline.handle_miss(session)
    session.flush()
    train = bag.dags["reconstruct"].get_task("train")
    print(json.dumps({
        "hours": allowed / dt.timedelta(hours=1),
        "state": deadline.callback.state,
        "who": deadline.callback.trigger.kwargs["callback_path"],
        "queue": train.queue, "weight": train.priority_weight,
        "others": sorted({task.queue for task in bag.dags["reconstruct"].tasks if task.task_id != "train"}),
    }, default=str))
"""


def test_the_page_shows_the_example_as_it_is() -> None:
    assert EXAMPLE.read_text() in (ROOT / "docs" / "operations.md").read_text()


@pytest.mark.slow
def test_a_late_run_is_told_to_whoever_is_on_call_and_training_goes_to_gpus_first(
    airflow_home: Path, profiles: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    (home / "config").mkdir(parents=True)
    shutil.copy(airflow_home / "airflow.db", home)
    shutil.copy(EXAMPLE, home / "config")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={
            **os.environ,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["hours"] == 6
    assert found["state"] == "queued"
    assert found["who"] == "airflow.providers.http.notifications.http.HttpNotifier"
    assert (found["queue"], found["weight"], found["others"]) == ("gpu", 100, ["default"])
