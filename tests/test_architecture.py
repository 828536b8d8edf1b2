"""The import contracts in pyproject.toml, which `make lint` checks, can be broken."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The sources by themselves, for a test to add an import to."""
    folder = tmp_path_factory.mktemp("architecture")
    ignored = shutil.ignore_patterns("__pycache__", "pages", "viewer", "templates")
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copytree(ROOT / "airflow_provider_e2e3d", folder / "airflow_provider_e2e3d", ignore=ignored)
    shutil.copytree(ROOT / "containers" / "e2e3d_stages", folder / "e2e3d_stages", ignore=ignored)
    return folder


def broken_contracts(folder):
    """The names of the contracts that the sources there break."""
    linted = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert "Contracts: " in linted.stdout, linted.stdout + linted.stderr
    return re.findall(r"^(.*) BROKEN\b", linted.stdout, re.MULTILINE)


def test_the_sources_as_they_are_keep_every_contract(copy):
    assert broken_contracts(copy) == []


@pytest.mark.parametrize(
    ("module", "imported", "contract"),
    [
        ("airflow_provider_e2e3d/costs/estimate.py", "e2e3d_stages.train.stage", "Airflow's world imports"),
        ("airflow_provider_e2e3d/ui/files.py", "e2e3d_stages.splats.sog", "Airflow's world imports"),
        ("e2e3d_stages/train/stage.py", "airflow.sdk", "The stages' world knows nothing"),
        ("e2e3d_stages/contract/messages.py", "airflow_provider_e2e3d.exceptions", "The stages' world knows nothing"),
        ("e2e3d_stages/evaluate/stage.py", "e2e3d_stages.train.model", "Stages are independent"),
        ("e2e3d_stages/splats/quality.py", "e2e3d_stages.train.loss", "Stages are independent"),
        ("e2e3d_stages/train/stage.py", "e2e3d_stages.registry", "Stages are independent"),
        ("e2e3d_stages/store/base.py", "e2e3d_stages.runtime.context", "The stages' world is built"),
        ("e2e3d_stages/contract/paths.py", "e2e3d_stages.store.base", "The stages' world is built"),
        ("airflow_provider_e2e3d/backends/local/backend.py", "airflow_provider_e2e3d.backends.ecs.client", "Backends"),
        ("airflow_provider_e2e3d/backends/docker/client.py", "airflow_provider_e2e3d.backends.aws.client", "Backends"),
        ("airflow_provider_e2e3d/backends/base.py", "airflow_provider_e2e3d.backends.local.backend", "Backends"),
        ("airflow_provider_e2e3d/profiles/profile.py", "airflow_provider_e2e3d.ui.stores", "Airflow's world is built"),
        ("airflow_provider_e2e3d/costs/history.py", "airflow_provider_e2e3d.scenes.names", "Airflow's world is built"),
        ("airflow_provider_e2e3d/exceptions.py", "airflow_provider_e2e3d.scenes.outcome", "No packages"),
    ],
)
def test_an_import_across_a_border_breaks_its_contract(copy, module, imported, contract):
    source = copy / module
    kept = source.read_text()
    source.write_text(f"{kept}\nimport {imported}\n")
    try:
        assert any(name.startswith(contract) for name in broken_contracts(copy))
    finally:
        source.write_text(kept)
