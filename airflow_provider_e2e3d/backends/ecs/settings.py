"""What a profile says of a stage that runs as a task of ECS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator
from typing_extensions import Self

from airflow_provider_e2e3d.backends.aws.settings import AwsSettings
from airflow_provider_e2e3d.backends.aws.shapes import Problem, problems, refuse

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
