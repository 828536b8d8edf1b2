"""Stages as pods of a Kubernetes cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from airflow_provider_e2e3d.backends.base import (
    Backend,
    Cursor,
    Handle,
    JobSpec,
    JobStatus,
    Orphan,
    log_chunk,
)
from airflow_provider_e2e3d.backends.kubernetes.settings import KubernetesSettings
from airflow_provider_e2e3d.backends.kubernetes.status import MAIN, is_over, job_status, vanished
from e2e3d_stages.contract.messages import InvalidRequest

if TYPE_CHECKING:
    from airflow_provider_e2e3d.backends.kubernetes.client import Cluster

# How far the worker's clock and a node's may be apart before log lines are lost.
_CLOCKS_APART = 30


class KubernetesBackend(Backend):
    """Starts an image's program in a pod that outlives the worker.

    The container runs as the image's own user with a read-only root, one scratch volume and no capabilities, unless
    the profile says otherwise. Credentials of a connection go into a Secret that the pod owns and takes along.
    """

    Settings = KubernetesSettings
    deferrable = True
    settings: KubernetesSettings

    def submit(self, job: JobSpec) -> Handle:
        credentials = {} if self.settings.credentials_secret else job.environment
        pod = self._cluster.pod_of(job, self.settings.image_of(job), secret=job.name if credentials else None)
        _refuse_folders_out_of_reach(job, pod)
        handle = self._cluster.create(pod)
        # The pod first, so that the Secret is its property from the beginning and is never left behind.
        if credentials:
            self._cluster.create_secret(handle, credentials)
        return handle

    def find(self, job: JobSpec) -> Handle | None:
        return self._cluster.find(self._cluster.pod_of(job, self.settings.image_of(job)))

    def poll(self, handle: Handle) -> JobStatus:
        pod = self._cluster.read(handle)
        if pod is None:
            return vanished(handle["pod"])
        return job_status(
            pod,
            schedule_seconds=self.settings.schedule_timeout_seconds or self.settings.startup_timeout_seconds,
            startup_seconds=self.settings.startup_timeout_seconds,
            last_warning=lambda: self._cluster.last_warning(handle),
        )

    def logs(self, handle: Handle, cursor: Cursor) -> tuple[list[str], Cursor]:
        """See `Backend.logs`; the cursor is the last line's time in nanoseconds."""
        # The API knows whole seconds before now only: begin early and skip what was there.
        since = max(1, int(time.time() - int(cursor) / 1e9) + _CLOCKS_APART) if cursor else None
        with self._cluster.log_lines(handle, since) as stream:
            return log_chunk(stream, int(cursor))

    def cancel(self, handle: Handle) -> None:
        """Delete the pod: its node sends SIGTERM, and SIGKILL when the grace period is over."""
        self._cluster.delete(handle)

    def clean_up(self, handle: Handle, *, succeeded: bool) -> None:
        policy = self.settings.on_finish_action
        keep = policy == "keep_pod" or (policy == "delete_succeeded_pod" and not succeeded)
        # One that waits for its image, say, would begin after all.
        if not keep or ((pod := self._cluster.read(handle)) and not is_over(pod)):
            self._cluster.delete(handle)

    def orphans(self, store_uri: str) -> Iterator[Orphan]:
        for handle, pod in self._cluster.pods_to_delete():
            labels, annotations = pod.metadata.labels, pod.metadata.annotations or {}
            if annotations.get("e2e3d.request", "").startswith(f"{store_uri}/artifacts/"):
                yield Orphan(
                    what=f"pod {handle['namespace']}/{handle['pod']}",
                    handle=handle,
                    since=pod.metadata.creation_timestamp,
                    attempt=(labels["e2e3d.stage"], labels["e2e3d.key"], int(labels["e2e3d.attempt"])),
                )

    def remove_orphan(self, orphan: Orphan) -> None:
        self._cluster.delete(orphan.handle)

    @cached_property
    def _cluster(self) -> Cluster:
        # Kubernetes' client takes seconds to import: not for whoever only reads the profile.
        from airflow_provider_e2e3d.backends.kubernetes.client import Cluster

        return Cluster(self.settings)


def _refuse_folders_out_of_reach(job: JobSpec, pod: Any) -> None:
    """A pod may run on any node: it sees a folder only through a volume."""
    fleeting = {volume.name for volume in pod.spec.volumes or [] if volume.empty_dir or volume.ephemeral}
    mounts = [
        f"{mount.mount_path.rstrip('/')}/"
        for container in pod.spec.containers
        if container.name == MAIN
        for mount in container.volume_mounts or []
        if mount.name not in fleeting
    ]
    for uri in (job.store_uri, job.capture or ""):
        path = unquote(urlsplit(uri).path)
        if urlsplit(uri).scheme == "file" and not f"{path}/".startswith(tuple(mounts)):
            raise InvalidRequest(
                f"A pod does not see the folder {path}: the profile mounts no volume there.",
                hint="Use an s3:// store, or give the stage `volumes` and `volume_mounts` whose mountPath is that "
                "folder or one above it, on a disk that every node and Airflow share.",
            )
