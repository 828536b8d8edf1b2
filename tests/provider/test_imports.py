"""What parsing the DAG files costs: little time, and no backend's client, whatever the profiles say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import yaml

from airflow_provider_e2e3d.profiles.profile import BACKENDS
from tests.conftest import ROOT

HEAVY = ("boto3", "docker", "kubernetes", "kubernetes_asyncio", "pycolmap", "torch")
ROLE = "arn:aws:iam::123456789012:role/stages"
SETTINGS: dict[str, dict[str, Any]] = {
    "local": {},
    "docker": {"mem_limit": "8g", "device_requests": [{"count": -1, "capabilities": [["gpu"]]}]},
    "kubernetes": {"in_cluster": True, "tolerations": [{"operator": "Exists"}]},
    "sagemaker": {"RoleArn": ROLE, "ResourceConfig": {"InstanceType": "ml.g5.xlarge"}},
    "ecs": {"cluster": "splats", "launchType": "EC2", "task_definition": {"cpu": "4096", "memory": "16384"}},
}


PROGRAM = """
import json, pathlib, runpy, sys, time
begun = time.process_time()
from airflow.sdk import DAG, task
started = time.process_time()
runpy.run_path("dags/reconstruct_batch.py")
share = (time.process_time() - started) / (started - begun)
for file in pathlib.Path("dags").glob("*.py"):
    runpy.run_path(str(file))
from airflow_provider_e2e3d.profiles.file import load_profiles
seen, found = set(), {"": []}
for name, profile in {"": None, **load_profiles()}.items():
    if profile:
        profile.backend("train")
    found[name] = sorted(set(sys.modules) - seen)
    seen |= set(sys.modules)
print(json.dumps([share, found]))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[float, dict[str, list[str]]]:
    """How long a process reads the batch DAG, as a share of the time that it loads Airflow; and which modules it loads.

    For all DAGs they stand under no name, and then for each backend.
    """
    profiles = {
        backend: {
            "store": "s3://scenes",
            "captures": ["s3://uploads"],
            "stages": {"default": {"backend": backend, **SETTINGS[backend]}},
        }
        for backend in BACKENDS
    }
    file = tmp_path_factory.mktemp("imports") / "profiles.yaml"
    file.write_text(yaml.safe_dump(profiles))
    environment = {
        **os.environ,
        "AIRFLOW__E2E3D__PROFILES_FILE": str(file),
        "AIRFLOW__E2E3D__WATCH_CAPTURES": "s3://uploads",
    }
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    ).stdout
    share, loaded = json.loads(output.splitlines()[-1])
    return share, loaded


@pytest.fixture
def loaded(told: tuple[float, dict[str, list[str]]]) -> dict[str, list[str]]:
    """The modules."""
    return told[1]


def test_reading_the_batch_dag_takes_little_beside_loading_airflow(told: tuple[float, dict[str, list[str]]]) -> None:
    # A tenth, whatever the machine and whoever else it works for.
    assert told[0] < 0.25


def test_parsing_the_dag_files_imports_no_client(loaded: dict[str, list[str]]) -> None:
    assert "airflow_provider_e2e3d.pipelines.reconstruct" in loaded[""]
    assert not set(HEAVY) & set(loaded[""])


@pytest.mark.parametrize("backend", BACKENDS)
def test_choosing_a_backend_imports_no_client(backend: str, loaded: dict[str, list[str]]) -> None:
    assert not set(HEAVY) & set(loaded[backend])
