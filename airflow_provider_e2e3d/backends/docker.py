"""Stages as containers of a Docker engine."""

from __future__ import annotations

import datetime as dt
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from airflow_provider_e2e3d.backends.base import (
    Backend,
    Cursor,
    Handle,
    JobSpec,
    JobStatus,
    Leftover,
    OperatorSettings,
    log_chunk,
    nanoseconds,
)
from e2e3d_stages.contract import GRACE_SECONDS, Failure, FailureCode, Infrastructure

if TYPE_CHECKING:
    from airflow_provider_e2e3d.backends.docker_engine import Engine

log = logging.getLogger(__name__)

_REAPER = "airflow_provider_e2e3d.backends.docker_reaper"


class DockerSettings(OperatorSettings):
    """A container. Besides the names here, every argument of Airflow's DockerOperator that a stage does not own."""

    operator = ("airflow.providers.docker.operators.docker", "DockerOperator")
    # What a stage decides itself: its command, how its result is read, and its only writable folder.
    owned = frozenset(
        (
            *("command", "entrypoint", "container_name", "skip_on_exit_code"),
            *("xcom_all", "retrieve_output", "retrieve_output_path"),
            *("mount_tmp_dir", "tmp_dir", "host_tmp_dir", "tty"),
        )
    )

    backend: Literal["docker"]
    docker_url: str | None = Field(default=None, description="The engine; DOCKER_HOST, else the local socket.")
    auto_remove: Literal["force", "success", "never"] = Field(
        default="force", description="Whether an ended container is removed: always, when it did its work, or never."
    )
    log_opts_max_size: str = Field(default="10m", description="Size at which the engine begins a new log file.")
    log_opts_max_file: str = Field(default="3", description="How many log files the engine keeps.")


class DockerBackend(Backend):
    """Starts an image's program in a container that outlives the worker.

    The container has a read-only root, one scratch volume, no capabilities, and the rights of the image's own user,
    or of the worker's where the store is a folder that both write to.
    """

    Settings = DockerSettings
    deferrable = True
    own_machine = True
    settings: DockerSettings

    def submit(self, job: JobSpec) -> Handle:
        try:
            self._engine.remove_forgotten()
        except Infrastructure as error:
            # The job does not need it, and what ails the engine is told when the job is started.
            log.warning("Containers that nobody came back for stay for now: %s", error.message)
        return {"container": self._engine.start(job, self.settings.image_of(job), self.environment(job))}

    def find(self, job: JobSpec) -> Handle | None:
        container = self._engine.find(job.name)
        return {"container": container} if container else None

    def poll(self, handle: Handle) -> JobStatus:
        state = self._engine.state(handle["container"])
        if state is None:
            return JobStatus(running=False)
        if state["Status"] in ("created", "running", "paused", "restarting"):
            return JobStatus(running=True)
        return JobStatus(
            running=False,
            exit_code=state["ExitCode"],
            failure=_killed_for_memory(state),
            billable_seconds=(nanoseconds(state["FinishedAt"]) - nanoseconds(state["StartedAt"])) / 1e9,
        )

    def logs(self, handle: Handle, cursor: Cursor) -> tuple[list[str], Cursor]:
        """See `Backend.logs`; the cursor is the last line's time in nanoseconds."""
        # A float cannot hold every nanosecond: begin a little early and skip what was there.
        since = (int(cursor) - 1000) / 1e9 if cursor else None
        with self._engine.log_lines(handle["container"], since) as stream:
            return log_chunk(stream, int(cursor))

    def cancel(self, handle: Handle) -> None:
        self._engine.terminate(handle["container"])
        order = {
            "container": handle["container"],
            "client": self._engine.connection,
            "grace": int(GRACE_SECONDS) + 10,
            "remove": self.settings.auto_remove == "force",
        }
        subprocess.Popen(
            [sys.executable, "-m", _REAPER, json.dumps(order)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def clear_away(self, handle: Handle, *, succeeded: bool) -> None:
        policy = self.settings.auto_remove
        if policy == "force" or (policy == "success" and succeeded):
            self._engine.remove(handle["container"])

    def leftovers(self, store_uri: str) -> Iterator[Leftover]:
        for found in self._engine.containers_to_remove():
            labels = found["Labels"]
            if labels["e2e3d.request"].startswith(f"{store_uri}/artifacts/"):
                yield Leftover(
                    what=f"container {found['Names'][0].lstrip('/')}",
                    handle={"container": found["Id"]},
                    since=dt.datetime.fromtimestamp(found["Created"], dt.timezone.utc),
                    attempt=(labels["e2e3d.stage"], labels["e2e3d.key"], int(labels["e2e3d.attempt"])),
                )

    def discard(self, leftover: Leftover) -> None:
        self._engine.remove(leftover.handle["container"])

    @cached_property
    def _engine(self) -> Engine:
        # Docker's client is not for whoever only reads the profile.
        from airflow_provider_e2e3d.backends.docker_engine import Engine

        return Engine(self.settings)


def _killed_for_memory(state: dict[str, Any]) -> Failure | None:
    if not state["OOMKilled"]:
        return None
    return Failure(
        code=FailureCode.OUT_OF_MEMORY,
        message="The container was killed because it needed more memory than its limit.",
        hint="Raise the stage's mem_limit in the profile, or choose a smaller preset.",
    )
