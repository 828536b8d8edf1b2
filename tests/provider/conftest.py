"""An Airflow of its own for the tests, and stage programs that do what a test says."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk._shared.observability.metrics import stats

from tests.airflow_runs import Outcome, run_dag
from tests.conftest import ROOT
from tests.statsd_exporter import StatsdExporter


class Script:
    """Tells the stage programs what to do, and counts what ran."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def __setitem__(self, stage: str, words: list[str]) -> None:
        (self.folder / f"{stage}.json").write_text(json.dumps(words))

    @property
    def calls(self) -> list[str]:
        """Stages in the order in which their programs were started."""
        file = self.folder / "calls"
        return file.read_text().split() if file.exists() else []

    @property
    def scenes(self) -> list[str]:
        """The same with the captures' names: `statue/ingest`."""
        file = self.folder / "scenes"
        return file.read_text().splitlines() if file.exists() else []

    def forget(self) -> None:
        """Start counting anew."""
        for name in ("calls", "scenes"):
            (self.folder / name).unlink(missing_ok=True)


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """What the stage programs are told."""
    return Script(tmp_path / "script")


@pytest.fixture
def captures(tmp_path: Path) -> Path:
    """The one root that captures may come from, with one capture in it."""
    folder = tmp_path / "captures"
    (folder / "statue").mkdir(parents=True)
    (folder / "statue" / "1.jpg").write_bytes(b"a photo")
    return folder


def told_container(script: Script) -> dict[str, Any]:
    """What brings the script into a container of the image that does what it is told."""
    folder = str(script.folder)
    # Containers on an s3:// store run as the image's own user.
    script.folder.chmod(0o777)
    return {
        "environment": {"E2E3D_TEST_SCRIPT": folder},
        "mounts": [{"source": folder, "target": folder, "type": "bind"}],
    }


def told_pods(script: Script, kubeconfig: Path, *folders: Path) -> dict[str, Any]:
    """What brings the script, and folders of this machine, into pods of that image."""
    # The store is a folder of whoever runs the tests.
    user = os.getuid()
    script.folder.chmod(0o777)
    shared = [script.folder, *folders]
    return {
        "config_file": str(kubeconfig),
        "namespace": "splats",
        "env_vars": {"E2E3D_TEST_SCRIPT": str(script.folder)},
        "volumes": [{"name": place.name, "hostPath": {"path": str(place)}} for place in shared],
        "volume_mounts": [{"name": place.name, "mountPath": str(place)} for place in shared],
        "security_context": {"runAsUser": user, "runAsGroup": os.getgid(), "runAsNonRoot": user != 0},
    }


def told_profiles(file: Path, captures: Path, script: Script) -> None:
    """Write a profile file whose local backend runs programs that do what they are told; its store lies beside it."""
    python = file.with_name("python")
    program = Path(__file__).with_name("program.py")
    # The interpreter is asked for `-m e2e3d_stages run URI`; the program takes the last argument.
    python.write_text(f'#!/bin/sh\nE2E3D_TEST_SCRIPT="{script.folder}" exec "{sys.executable}" "{program}" "$@"\n')
    python.chmod(0o755)
    file.write_text(
        "local:\n"
        f"  store: {(file.parent / 'store').as_uri()}\n"
        f"  captures: ['{captures.as_uri()}']\n"
        "  preset: draft\n"
        "  stages:\n"
        f"    default: {{backend: local, poll_seconds: 0.05, python: '{python}'}}\n"
    )


@pytest.fixture
def profiles(tmp_path: Path, captures: Path, script: Script, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A profile file whose programs do what a test says."""
    file = tmp_path / "profiles.yaml"
    told_profiles(file, captures, script)
    monkeypatch.setenv("AIRFLOW__E2E3D__PROFILES_FILE", str(file))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    return file


@pytest.fixture
def run(
    airflow_home: Path, profiles: Path, captures: Path, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Runs the reconstruct DAG with a conf, up to a stage, and tells how it ended."""

    def go(last: str, **conf: Any) -> Outcome:
        return run_dag("reconstruct", {"capture": str(captures / "statue"), **conf}, capfd, last=last)

    return go


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[StatsdExporter]:
    """What Prometheus would scrape; Airflow tells its metrics to it."""
    exporter = StatsdExporter(ROOT / "deploy" / "monitoring" / "statsd.yml")
    settings = {"STATSD_ON": "True", "STATSD_INFLUXDB_ENABLED": "True", "STATSD_HOST": "127.0.0.1"}
    for name, value in {**settings, "STATSD_PORT": str(exporter.statsd_port), "LEGACY_NAMES_ON": "False"}.items():
        monkeypatch.setenv(f"AIRFLOW__METRICS__{name}", value)
    for name in ("_factory", "_backend"):
        monkeypatch.setattr(stats, name, None)
    yield exporter
    exporter.close()
