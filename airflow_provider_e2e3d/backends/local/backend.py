"""Stages as processes on this machine."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Literal

import psutil
from airflow.sdk.configuration import conf
from pydantic import Field

from airflow_provider_e2e3d.backends.base import (
    LOG_CHUNK,
    Backend,
    BackendSettings,
    Cursor,
    Handle,
    JobSpec,
    JobStatus,
    Orphan,
    start_apart,
)
from airflow_provider_e2e3d.backends.local import reaper
from e2e3d_stages.contract.messages import GRACE_SECONDS
from e2e3d_stages.registry import STAGES


class LocalSettings(BackendSettings):
    """A process on the worker."""

    backend: Literal["local"]
    poll_seconds: float = Field(default=0.5, gt=0, description="Pause between two looks at the process.")
    python: str = Field(default=sys.executable, description="Interpreter that has the stage's libraries.")


class LocalBackend(Backend):
    """Starts `python -m e2e3d_stages` in a session of its own, so that it outlives a dying worker.

    Its handle is the process and its start time: a process number alone may be somebody else's by now. It is never
    deferrable, since a triggerer may live on another host.
    """

    Settings = LocalSettings
    deferrable = False
    own_machine = True
    settings: LocalSettings

    def submit(self, job: JobSpec) -> Handle:
        log_file = _log_file(job.name)
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("ab") as output:
            # A child that held the task's own output would keep Airflow's supervisor waiting for it.
            process = subprocess.Popen(
                [self.settings.python, "-m", "e2e3d_stages", "run", job.request_uri],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # The worker's environment without Airflow's own settings and secrets.
                env={
                    **{name: value for name, value in os.environ.items() if "AIRFLOW" not in name.upper()},
                    **self.environment(job),
                },
            )
        return _handle(psutil.Process(process.pid), log_file)

    def find(self, job: JobSpec) -> Handle | None:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.cmdline()[-2:] == ["run", job.request_uri] and process.status() != psutil.STATUS_ZOMBIE:
                    return _handle(process, _log_file(job.name))
        return None

    def poll(self, handle: Handle) -> JobStatus:
        process = _process(handle)
        if process is None:
            return JobStatus(running=False)
        with contextlib.suppress(ChildProcessError, psutil.Error):
            ended, status = os.waitpid(process.pid, os.WNOHANG)
            if ended:
                return JobStatus(running=False, exit_code=os.waitstatus_to_exitcode(status))
        return JobStatus(running=True)

    def logs(self, handle: Handle, cursor: Cursor) -> tuple[list[str], Cursor]:
        try:
            with Path(handle["log"]).open("rb") as file:
                file.seek(int(cursor))
                data = file.read(LOG_CHUNK)
        except FileNotFoundError:
            return [], cursor
        whole = data[: data.rfind(b"\n") + 1]
        return whole.decode(errors="replace").splitlines(), int(cursor) + len(whole)

    def cancel(self, handle: Handle) -> None:
        process = _process(handle)
        if process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)
        start_apart(reaper.__name__, *map(str, (handle["pid"], handle["started"], GRACE_SECONDS + 10)))

    def orphans(self, store_uri: str) -> Iterator[Orphan]:
        """Scratch and logs on this machine that no running program writes to, whichever store it was for."""
        scratch = (Path(tempfile.gettempdir()).glob(f"e2e3d-{stage}-*-*") for stage in STAGES)
        for path in chain(*scratch, _log_file("").parent.glob("*.log")):
            with contextlib.suppress(OSError):
                inside = [path.stat(), *(each.lstat() for each in path.rglob("*"))]
                if inside[0].st_uid == os.getuid() and not (path.is_dir() and _is_program(path.name.split("-")[2])):
                    changed = max(told.st_mtime for told in inside)
                    yield Orphan(
                        what=f"scratch {path}",
                        handle={"path": str(path)},
                        since=dt.datetime.fromtimestamp(changed, dt.timezone.utc),
                        size=sum(told.st_size for told in inside),
                    )

    def remove_orphan(self, orphan: Orphan) -> None:
        path = Path(orphan.handle["path"])
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_program(number: str) -> bool:
    """Whether a stage program runs as the process of that number."""
    try:
        return psutil.Process(int(number)).cmdline()[-3:-1] == ["e2e3d_stages", "run"]
    except (ValueError, psutil.Error):
        return False


def _log_file(name: str) -> Path:
    return Path(conf.get("logging", "base_log_folder")) / "e2e3d" / f"{name}.log"


def _handle(process: psutil.Process, log_file: Path) -> Handle:
    return {
        "pid": process.pid,
        "started": process.create_time(),
        "log": str(log_file),
    }


def _process(handle: Handle) -> psutil.Process | None:
    """The job's process, or None when it is gone (or waits as a zombie for a parent that is not us)."""
    try:
        process = psutil.Process(handle["pid"])
        # Times are derived from the clock and may differ by a tick between two readings.
        same = abs(process.create_time() - handle["started"]) < 1
        zombie_of_another = process.status() == psutil.STATUS_ZOMBIE and process.ppid() != os.getpid()
        return process if same and not zombie_of_another else None
    except psutil.NoSuchProcess:
        return None
