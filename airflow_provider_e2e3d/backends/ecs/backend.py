"""Stages as tasks of an ECS cluster, on Fargate or on EC2 with GPUs."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_e2e3d.backends.aws.backend import AwsBackend, refuse_folders
from airflow_provider_e2e3d.backends.aws.console import console_of
from airflow_provider_e2e3d.backends.base import Cursor, Handle, JobSpec, JobStatus
from airflow_provider_e2e3d.backends.ecs.settings import EcsSettings
from airflow_provider_e2e3d.backends.ecs.status import is_over, job_status, vanished
from airflow_provider_e2e3d.backends.ecs.task import definition_of, request_of

if TYPE_CHECKING:
    from airflow_provider_e2e3d.backends.ecs.client import Cluster


class EcsBackend(AwsBackend):
    """Starts an image's program as a task that outlives the worker.

    The task definition is registered once for all jobs alike; a job is a request to run it. The container has a
    read-only root, one scratch volume, no capabilities and the rights of the image's own user, unless the profile
    says otherwise, and reaches the store by the task's role.
    """

    Settings = EcsSettings
    settings: EcsSettings

    def submit(self, job: JobSpec) -> Handle:
        refuse_folders(job)
        definition = self._definition(job)
        arn = self._cluster.register(definition)
        request = request_of(self.settings, job, arn, self.environment(job))
        return self._handle(self._cluster.run(request), definition)

    def find(self, job: JobSpec) -> Handle | None:
        task = self._cluster.find(job.name)
        return self._handle(task, self._definition(job)) if task else None

    def poll(self, handle: Handle) -> JobStatus:
        task = self._cluster_of(handle).describe(handle["task"])
        return job_status(task) if task else vanished(handle)

    def logs(self, handle: Handle, cursor: Cursor) -> tuple[list[str], Cursor]:
        """See `Backend.logs`; there are none where the profile sends them elsewhere than to CloudWatch."""
        if handle["log"] is None:
            return [], cursor
        group, stream = handle["log"]
        return self.account.log_lines(group, stream, cursor)

    def cancel(self, handle: Handle) -> None:
        """Stop the task: ECS sends SIGTERM, and SIGKILL when the container's stopTimeout is over."""
        self._cluster_of(handle).stop(handle["task"])

    def job_url(self, handle: Handle) -> str:
        """See `Backend.job_url`: ECS's console, which has the log, too."""
        # arn:aws:ecs:<region>:<account>:task/<cluster>/<id>
        region = handle["task"].split(":")[3]
        cluster, task = (handle[name].rpartition("/")[2] for name in ("cluster", "task"))
        page = f"{console_of(region)}/ecs/v2/clusters/{cluster}/tasks/{task}?region={region}"
        return super().job_url(handle) or page

    def clean_up(self, handle: Handle, *, succeeded: bool) -> None:
        task = self._cluster_of(handle).describe(handle["task"])
        # One that waits for its image, say, would begin after all. ECS forgets ended ones by itself.
        if task and not is_over(task):
            self.cancel(handle)

    def environment(self, job: JobSpec) -> dict[str, str]:
        """See `AwsBackend.environment`; and the region: from a closed subnet only that region's S3 is reached."""
        return {"AWS_DEFAULT_REGION": self.account.region, **super().environment(job)}

    def _definition(self, job: JobSpec) -> dict[str, Any]:
        return definition_of(self.settings, job, self.account.region)

    def _handle(self, task: dict[str, Any], definition: dict[str, Any]) -> Handle:
        """A task with its log's group and stream, as the profile has them now."""
        (container,) = definition["containerDefinitions"]
        log = container["logConfiguration"]
        options = log.get("options", {})
        stream = f"{options.get('awslogs-stream-prefix')}/{container['name']}/{task['taskArn'].rpartition('/')[2]}"
        return {
            "cluster": task["clusterArn"],
            "task": task["taskArn"],
            "created": task["createdAt"].isoformat(),
            "log": [options.get("awslogs-group"), stream] if log["logDriver"] == "awslogs" else None,
        }

    @cached_property
    def _cluster(self) -> Cluster:
        return self._cluster_of({"cluster": self.settings.request.get("cluster", "default")})

    def _cluster_of(self, handle: Handle) -> Cluster:
        """Where a task is, whatever the profile says by now."""
        # boto3 is not for whoever only reads the profile.
        from airflow_provider_e2e3d.backends.ecs.client import Cluster

        return Cluster(self.account, handle["cluster"])
