"""What only processes on this machine do."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from airflow_provider_e2e3d.backends.local import backend as local
from airflow_provider_e2e3d.backends.local import reaper
from airflow_provider_e2e3d.backends.local.backend import LocalBackend, LocalSettings

DEAF = (
    "import signal, subprocess, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(600)\n"
)


@pytest.fixture
def deaf() -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """A program that hears no SIGTERM, in a session of its own, and its child."""
    with subprocess.Popen(
        [sys.executable, "-c", DEAF], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        yield process, psutil.Process(int(process.stdout.readline()))
        process.kill()


def test_a_cancelled_program_that_does_not_hear_is_killed_with_its_children(
    deaf: tuple[subprocess.Popen[str], psutil.Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    process, child = deaf
    monkeypatch.setattr(local, "GRACE_SECONDS", -9.8)
    started = psutil.Process(process.pid).create_time()
    LocalBackend(LocalSettings(backend="local")).cancel({"pid": process.pid, "started": started, "log": ""})
    assert process.wait(30) == -signal.SIGKILL
    child.wait(10)


def test_a_process_that_has_the_number_of_an_ended_program_is_left_alone(
    deaf: tuple[subprocess.Popen[str], psutil.Process],
) -> None:
    process, _ = deaf
    reaper.main(process.pid, psutil.Process(process.pid).create_time() - 60, 0)
    assert process.poll() is None
