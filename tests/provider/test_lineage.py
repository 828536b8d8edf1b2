"""What stages read and write, as Airflow's own OpenLineage provider tells it; nothing of it where nobody asks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from e2e3d_stages.registry import STAGES
from tests.airflow_runs import Outcome

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).with_name("another_airflow.py")


@pytest.fixture
def events(airflow_home: Path, profiles: Path, captures: Path, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """What a run up to structure from motion sends when a task has ended, by its task."""
    shutil.copy(airflow_home / "airflow.db", tmp_path)
    told = tmp_path / "lineage.json"
    done = subprocess.run(
        [sys.executable, PROGRAM, "90", "sfm", json.dumps({"capture": str(captures / "statue")})],
        env={
            **os.environ,
            "AIRFLOW_HOME": str(tmp_path),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path / 'airflow.db'}",
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps({"type": "file", "log_file_path": str(told), "append": True}),
            # It is as long as telling may take, and here others use the cores.
            "AIRFLOW__OPENLINEAGE__EXECUTION_TIMEOUT": "60",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    sent = [json.loads(line) for line in told.read_text().splitlines()]
    ended = [event for event in sent if event["eventType"] == "COMPLETE"]
    return {event["job"]["name"].removeprefix("reconstruct."): event for event in ended}


def test_a_stage_s_datasets_are_its_artifacts_with_digests_sizes_and_the_stage_s_figures(
    events: dict[str, dict[str, Any]], captures: Path, tmp_path: Path
) -> None:
    ingest, sfm = events["ingest"], events["sfm"]
    assert names(ingest["inputs"]) == [("file", str(captures / "statue"))]
    (made,) = ingest["outputs"]
    key = ingest["run"]["facets"]["e2e3d"]["key"]
    assert names([made]) == [("file", f"{tmp_path}/store/artifacts/ingest/{key}")]
    manifest = json.loads((tmp_path / f"store/artifacts/ingest/{key}/manifest.json").read_text())
    assert made["outputFacets"]["outputStatistics"]["size"] == sum(file["size"] for file in manifest["files"])
    assert made["outputFacets"]["outputStatistics"]["fileCount"] == len(manifest["files"])
    # What one wrote the other read.
    assert names(sfm["inputs"]) == names(ingest["outputs"])
    assert sfm["inputs"][0]["facets"]["version"] == made["facets"]["version"]
    told = sfm["run"]["facets"]["e2e3d"]
    assert (told["stage"], told["attempt"], told["reused"]) == ("sfm", 1, False)
    assert told["figures"]["photos_registered"] == 10
    assert told["params"] == STAGES["sfm"].resolve("draft", {}).model_dump(mode="json")
    assert 0 < told["seconds"] < 600


def names(datasets: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(dataset["namespace"], dataset["name"]) for dataset in datasets]


def test_where_nobody_asks_a_run_imports_nothing_for_it(run: Callable[..., Outcome]) -> None:
    assert run("ingest").state == "success"
    assert {"openlineage", "airflow_provider_e2e3d.lineage"}.isdisjoint(sys.modules)


def test_an_artifact_in_a_bucket_is_named_as_openlineage_names_objects_of_s3() -> None:
    # In a process of its own, since here nobody has asked.
    code = "from airflow_provider_e2e3d.lineage import dataset_name; print(*dataset_name('s3://scenes/a/b/train/5f'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["s3://scenes", "a/b/train/5f"]
