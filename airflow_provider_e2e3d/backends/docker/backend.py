"""Stages as containers of a Docker engine."""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_e2e3d.backends.base import (
    Backend,
    Cursor,
    Handle,
    JobSpec,
    JobStatus,
    Orphan,
    log_chunk,
    nanoseconds,
    start_apart,
)
from airflow_provider_e2e3d.backends.docker.settings import DockerSettings
from e2e3d_stages.contract.messages import GRACE_SECONDS, Failure, FailureCode, Infrastructure

if TYPE_CHECKING:
    from airflow_provider_e2e3d.backends.docker.client import Engine

log = logging.getLogger(__name__)

_REAPER = "airflow_provider_e2e3d.backends.docker.reaper"


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
        start_apart(_REAPER, json.dumps(order))

    def clean_up(self, handle: Handle, *, succeeded: bool) -> None:
        policy = self.settings.auto_remove
        if policy == "force" or (policy == "success" and succeeded):
            self._engine.remove(handle["container"])

    def orphans(self, store_uri: str) -> Iterator[Orphan]:
        for found in self._engine.containers_to_remove():
            labels = found["Labels"]
            if labels["e2e3d.request"].startswith(f"{store_uri}/artifacts/"):
                yield Orphan(
                    what=f"container {found['Names'][0].lstrip('/')}",
                    handle={"container": found["Id"]},
                    since=dt.datetime.fromtimestamp(found["Created"], dt.timezone.utc),
                    attempt=(labels["e2e3d.stage"], labels["e2e3d.key"], int(labels["e2e3d.attempt"])),
                )

    def remove_orphan(self, orphan: Orphan) -> None:
        self._engine.remove(orphan.handle["container"])

    @cached_property
    def _engine(self) -> Engine:
        # Docker's client is not for whoever only reads the profile.
        from airflow_provider_e2e3d.backends.docker.client import Engine

        return Engine(self.settings)


def _killed_for_memory(state: dict[str, Any]) -> Failure | None:
    if not state["OOMKilled"]:
        return None
    return Failure(
        code=FailureCode.OUT_OF_MEMORY,
        message="The container was killed because it needed more memory than its limit.",
        hint="Raise the stage's mem_limit in the profile, or choose a smaller preset.",
    )
