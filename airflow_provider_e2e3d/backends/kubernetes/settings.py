"""What a profile says of a stage that runs in a pod."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field

from airflow_provider_e2e3d.backends.base import (
    JobSpec,
    OperatorSettings,
)
from airflow_provider_e2e3d.backends.kubernetes.status import MAIN
from e2e3d_stages.contract.messages import InvalidRequest


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


def refuse_folders_out_of_reach(job: JobSpec, pod: Any) -> None:
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
