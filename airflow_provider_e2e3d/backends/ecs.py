"""Stages as tasks of an ECS cluster, on Fargate or on EC2 with GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field, model_validator
from typing_extensions import Self

from airflow_provider_e2e3d.backends.aws import AwsBackend, AwsSettings, console_of, refuse_folders
from airflow_provider_e2e3d.backends.aws_shapes import Problem, problems, refuse
from airflow_provider_e2e3d.backends.base import Cursor, Handle, JobSpec, JobStatus
from airflow_provider_e2e3d.backends.ecs_status import is_over, job_status, vanished
from airflow_provider_e2e3d.backends.ecs_task import definition_of, request_of

if TYPE_CHECKING:
    from airflow_provider_e2e3d.backends.ecs_cluster import Cluster

# What a stage decides itself: its program, its image, its name and how often it runs.
_OWN_OF_RUN = frozenset(
    (
        *("taskDefinition", "startedBy", "clientToken", "count", "referenceId"),
        "overrides.containerOverrides",
    )
)
_OWN_OF_DEFINITION = frozenset(("family", "containerDefinitions"))
_OWN_OF_CONTAINER = frozenset(
    (
        *("name", "image", "command", "entryPoint", "essential", "workingDirectory"),
        *("dependsOn", "links", "volumesFrom", "restartPolicy", "interactive", "pseudoTerminal"),
    )
)


class EcsSettings(AwsSettings):
    """A task. Besides the names here, every field of RunTask that a stage does not own, in ECS's own names."""

    model_config = ConfigDict(extra="allow")

    backend: Literal["ecs"]
    task_definition: dict[str, Any] = Field(
        default_factory=dict, description="Fields of RegisterTaskDefinition, as cpu, memory and executionRoleArn."
    )
    container: dict[str, Any] = Field(
        default_factory=dict, description="Fields of its ContainerDefinition, as resourceRequirements."
    )

    @property
    def request(self) -> dict[str, Any]:
        """What the profile says of RunTask."""
        return self.model_extra or {}

    @property
    def on_fargate(self) -> bool:
        """Whether AWS finds the machines."""
        providers = [str(each.get("capacityProvider")) for each in self.request.get("capacityProviderStrategy", [])]
        return self.request.get("launchType") == "FARGATE" or any(name.startswith("FARGATE") for name in providers)

    @model_validator(mode="after")
    def _ecs_accepts_it(self) -> Self:
        parts = (
            ((), "RunTaskRequest", self.request, _OWN_OF_RUN, type(self).model_fields),
            (("task_definition",), "RegisterTaskDefinitionRequest", self.task_definition, _OWN_OF_DEFINITION, ()),
            (("container",), "ContainerDefinition", self.container, _OWN_OF_CONTAINER, ()),
        )
        found: list[Problem] = [
            ((*group, *place), told)
            for group, shape, values, owned, beside in parts
            for place, told in problems("ecs", shape, values, owned, beside)
        ]
        # What depends on the right shape of it all.
        refuse(type(self), found or self._contradictions())
        return self

    def _contradictions(self) -> Iterator[Problem]:
        """What ECS would refuse only when the first task is started."""
        if "launchType" in self.request and "capacityProviderStrategy" in self.request:
            yield ("launchType",), "goes without capacityProviderStrategy, which says where tasks run, too"
        if not self.on_fargate:
            return
        for name in ("cpu", "memory", "executionRoleArn"):
            if name not in self.task_definition:
                yield ("task_definition",), f"Fargate needs {name}"
        if "networkConfiguration" not in self.request:
            yield (), "Fargate needs networkConfiguration"
        for number, each in enumerate(self.container.get("resourceRequirements", [])):
            if each["type"] == "GPU":
                yield ("container", "resourceRequirements", number), "Fargate has no GPUs: use launchType EC2"


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

    def clear_away(self, handle: Handle, *, succeeded: bool) -> None:
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
        from airflow_provider_e2e3d.backends.ecs_cluster import Cluster

        return Cluster(self.account, handle["cluster"])
