"""What a profile says of a stage that runs in a container."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from airflow_provider_e2e3d.backends.base import (
    OperatorSettings,
)


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
