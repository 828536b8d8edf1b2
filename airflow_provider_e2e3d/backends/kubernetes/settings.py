"""What a profile says of a stage that runs in a pod."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from airflow_provider_e2e3d.backends.base import (
    OperatorSettings,
)


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
