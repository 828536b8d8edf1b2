"""What parsing the DAG files costs: no backend's client, whatever the profiles say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_provider_e2e3d.profiles import BACKENDS
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


@pytest.mark.parametrize("backend", BACKENDS)
def test_parsing_the_dag_files_and_choosing_a_backend_imports_no_client(backend: str, tmp_path: Path) -> None:
    profile = {
        "store": "s3://scenes",
        "captures": ["s3://uploads"],
        "stages": {"default": {"backend": backend, **SETTINGS[backend]}},
    }
    (tmp_path / "profiles.yaml").write_text(yaml.safe_dump({"one": profile}))
    program = (
        "import json, pathlib, runpy, sys;"
        f"[runpy.run_path(str(file)) for file in pathlib.Path({str(ROOT / 'dags')!r}).glob('*.py')];"
        "from airflow_provider_e2e3d.profiles import profile_named;"
        "profile_named('one').backend('train');"
        f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    )
    environment = {
        **os.environ,
        "AIRFLOW__E2E3D__PROFILES_FILE": str(tmp_path / "profiles.yaml"),
        "AIRFLOW__E2E3D__WATCH_CAPTURES": "s3://uploads",
    }
    told = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert json.loads(told.splitlines()[-1]) == []
