"""What parsing the DAG files loads: Airflow, this project, and no client of a backend, whatever the profiles say.

How long it takes, `make bench` says.
"""

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
import json, pathlib, runpy, sys
from airflow.sdk import DAG, task
seen, found = set(sys.modules), {}
for file in pathlib.Path("dags").glob("*.py"):
    runpy.run_path(str(file))
from airflow_provider_e2e3d.profiles.file import load_profiles
for name, profile in {"": None, **load_profiles()}.items():
    if profile:
        profile.backend("train")
    found[name] = sorted(set(sys.modules) - seen)
    seen |= set(sys.modules)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The modules that a process with Airflow loads: for all DAGs, under no name, and then for each backend."""
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
    found: dict[str, list[str]] = json.loads(output.splitlines()[-1])
    return found


def test_a_dag_file_loads_no_library_that_airflow_does_not_use_itself(loaded: dict[str, list[str]]) -> None:
    ours = {"airflow", "airflow_provider_e2e3d", "e2e3d_stages"}
    packages = {module.partition(".")[0] for module in loaded[""]}
    # botocore, with urllib3, describes what a profile for AWS may say; its clients stay away. asgiref comes with
    # Airflow's human-in-the-loop.
    assert packages - ours - sys.stdlib_module_names <= {"asgiref", "croniter", "pydantic", "botocore", "urllib3"}


def test_parsing_the_dag_files_imports_no_client(loaded: dict[str, list[str]]) -> None:
    assert "airflow_provider_e2e3d.pipelines.reconstruct" in loaded[""]
    assert not set(HEAVY) & set(loaded[""])


@pytest.mark.parametrize("backend", BACKENDS)
def test_choosing_a_backend_imports_no_client(backend: str, loaded: dict[str, list[str]]) -> None:
    assert not set(HEAVY) & set(loaded[backend])
