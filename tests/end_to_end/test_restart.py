"""While a person is asked, a run is a row in Airflow's database: nothing else is held, and nothing can be lost."""

from __future__ import annotations

import json
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import ALWAYS, until
from tests.end_to_end.conftest import Standalone, is_ready
from tests.provider.conftest import Script

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("airflow")]


def test_a_run_that_waits_for_a_person_holds_nothing_and_outlives_every_component(
    airflow: Standalone, place: Path, script: Script
) -> None:
    script.forget()
    (place / "captures" / "tower").mkdir()
    (place / "captures" / "tower" / "1.jpg").write_bytes(b"a photo of the tower")
    run = airflow.trigger(capture=str(place / "captures" / "tower"), ask_above="0 min")
    until(lambda: airflow.task(run, "approve")["state"] == "awaiting_input")
    waiting = airflow.task(run, "approve")
    assert (waiting["trigger"], waiting["triggerer_job"]) == (None, None)
    until(lambda: not psutil.pid_exists(waiting["pid"]))
    until(lambda: slots_taken(airflow) == 0)

    killed = time.monotonic()
    airflow.restart()
    until(lambda: is_ready(airflow))
    print(f"Killed and back within {time.monotonic() - killed:.0f} s")
    question = f"/dags/reconstruct/dagRuns/{run}/taskInstances/approve/-1/hitlDetails"
    assert airflow.task(run, "approve")["state"] == "awaiting_input"
    assert "10 of 10 photos placed" in airflow.call("GET", question)["body"]
    airflow.call("PATCH", question, {"chosen_options": ["train"], "params_input": {}})
    assert airflow.end_of(run, seconds=400) == "success"
    # Nothing was done twice.
    assert sorted(script.calls) == sorted(ALWAYS)
    record = json.loads((place / "store" / "scenes" / "tower" / "latest.json").read_text())
    assert record["approval"]["choice"] == "train"


def slots_taken(airflow: Standalone) -> int:
    """Of the only pool, by tasks that run, wait for a worker, or are deferred."""
    pool = airflow.call("GET", "/pools/default_pool")
    return int(pool["occupied_slots"] + pool["deferred_slots"])
