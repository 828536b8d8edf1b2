"""Airflow's share: wall time of a DAG run less the stages' own wall time, on the sample with tiny parameters.

And what reading the DAG files costs beside loading Airflow, which every task's process does, too.

python bench/orchestration.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from e2e3d_stages.contract.messages import Manifest

ROOT = Path(__file__).resolve().parent.parent
AIRFLOW = Path(sys.executable).with_name("airflow")
TINY = {"ingest_max_size": 640, "train_iterations": 100, "train_max_gaussians": 5000, "train_long_side": 200}

READING = """
import json, pathlib, runpy, time
begun = time.process_time()
from airflow.sdk import DAG, task
loaded = time.process_time()
for file in pathlib.Path("dags").glob("*.py"):
    runpy.run_path(str(file))
print(json.dumps({"loading_airflow": round(loaded - begun, 2), "dag_files": round(time.process_time() - loaded, 2)}))
"""


def main() -> None:
    """Run the DAG twice, the second time with everything reused, and print the figures as JSON."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        environment = {
            **os.environ,
            "AIRFLOW_HOME": name,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__E2E3D__PROFILES_FILE": str(ROOT / "deploy" / "demo" / "profiles.yaml"),
            "E2E3D_SAMPLE": str(ROOT / "sample"),
            "E2E3D_CAPTURES": str(ROOT / "sample"),
        }

        def airflow(*words: str) -> str:
            done = subprocess.run([AIRFLOW, *words], env=environment, check=True, capture_output=True, text=True)
            return done.stdout

        airflow("db", "migrate")
        conf = json.dumps({"capture": str(ROOT / "sample" / "caliterra" / "images"), "preset": "draft", **TINY})
        read = [sys.executable, "-c", READING]
        told = subprocess.run(read, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
        figures: dict[str, Any] = {"cpu_seconds_of_reading": json.loads(told.splitlines()[-1])}
        for what in ("everything made", "everything reused"):
            airflow("dags", "test", "reconstruct", "--conf", conf)
            listing = airflow("dags", "list-runs", "reconstruct", "--output", "json")
            runs = json.loads(listing[listing.index("[{") :])  # log lines come first
            run = max(runs, key=lambda row: row["start_date"])
            wall = datetime.fromisoformat(run["end_date"]) - datetime.fromisoformat(run["start_date"])
            stages = stage_seconds(home / "store") if what == "everything made" else 0.0
            figures[what] = {
                "dag_seconds": round(wall.total_seconds(), 1),
                "stage_seconds": round(stages, 1),
                "airflow_seconds": round(wall.total_seconds() - stages, 1),
            }
        print(json.dumps(figures, indent=1))


def stage_seconds(store: Path) -> float:
    """Wall time of every stage program together."""
    manifests = store.glob("artifacts/*/*/manifest.json")
    return sum(Manifest.model_validate_json(file.read_bytes()).usage.wall_seconds for file in manifests)


if __name__ == "__main__":
    main()
