"""Stages as pods of a Kubernetes cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

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
)
from airflow_provider_e2e3d.backends.kubernetes_status import MAIN, is_over, job_status, vanished
from e2e3d_stages.contract import InvalidRequest

if TYPE_CHECKING:
    from airflow_provider_e2e3d.backends.kubernetes_cluster import Cluster

# How far the worker's clock and a node's may be apart before log lines are lost.
_CLOCKS_APART = 30


class KubernetesSettings(OperatorSettings):
    """A pod. Besides the names here, every argument of Airflow's KubernetesPodOperator that a stage does not own.

    Values are written as in Kubernetes' own YAML.
    """

    operator = ("airflow.providers.cncf.kubernetes.operators.pod", "KubernetesPodOperator")
    # What a stage decides itself: its program and name, how its result and log are read, how it is waited for.
    owned = frozenset(
        (
            *("cmds", "arguments", "name", "random_name_suffix", "base_container_name"),
            *("do_xcom_push", "skip_on_exit_code", "xcom_sidecar_container_security_context"),
            *("get_logs", "container_logs", "init_container_logs", "logging_interval", "log_formatter"),
            *("log_events_on_failure", "log_events_on_startup", "log_pod_spec_on_failure"),
            *("container_name_log_prefix_enabled", "callbacks", "progress_callback", "trigger_kwargs"),
            *("deferrable", "durable", "reattach_on_restart", "poll_interval", "on_kill_action"),
            *("startup_check_interval_seconds", "base_container_status_polling_interval", "is_delete_operator_pod"),
        )
    )

    backend: Literal["kubernetes"]
    credentials_secret: str | None = Field(
        default=None, description="A Secret of the namespace whose keys become the program's environment."
    )
    on_finish_action: Literal["delete_pod", "delete_succeeded_pod", "keep_pod"] = Field(
        default="delete_pod", description="Whether an ended pod is deleted: always, when it did its work, or never."
    )
    startup_timeout_seconds: int = Field(
        default=1800, gt=0, description="How long a pod on its node may take to start: its image has gigabytes."
    )
    schedule_timeout_seconds: int | None = Field(
        default=None, gt=0, description="How long it may wait for a node; as long as for its start when empty."
    )


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

    def clear_away(self, handle: Handle, *, succeeded: bool) -> None:
        policy = self.settings.on_finish_action
        keep = policy == "keep_pod" or (policy == "delete_succeeded_pod" and not succeeded)
        # One that waits for its image, say, would begin after all.
        if not keep or ((pod := self._cluster.read(handle)) and not is_over(pod)):
            self._cluster.delete(handle)

    def leftovers(self, store_uri: str) -> Iterator[Leftover]:
        for handle, pod in self._cluster.pods_to_delete():
            labels, annotations = pod.metadata.labels, pod.metadata.annotations or {}
            if annotations.get("e2e3d.request", "").startswith(f"{store_uri}/artifacts/"):
                yield Leftover(
                    what=f"pod {handle['namespace']}/{handle['pod']}",
                    handle=handle,
                    since=pod.metadata.creation_timestamp,
                    attempt=(labels["e2e3d.stage"], labels["e2e3d.key"], int(labels["e2e3d.attempt"])),
                )

    def discard(self, leftover: Leftover) -> None:
        self._cluster.delete(leftover.handle)

    @cached_property
    def _cluster(self) -> Cluster:
        # Kubernetes' client takes seconds to import: not for whoever only reads the profile.
        from airflow_provider_e2e3d.backends.kubernetes_cluster import Cluster

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
    store = job.request_uri.partition("/artifacts/")[0]
    for uri in (store, job.capture or ""):
        path = unquote(urlsplit(uri).path)
        if urlsplit(uri).scheme == "file" and not f"{path}/".startswith(tuple(mounts)):
            raise InvalidRequest(
                f"A pod does not see the folder {path}: the profile mounts no volume there.",
                hint="Use an s3:// store, or give the stage `volumes` and `volume_mounts` whose mountPath is that "
                "folder or one above it, on a disk that every node and Airflow share.",
            )
