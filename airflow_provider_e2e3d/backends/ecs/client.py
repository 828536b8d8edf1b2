"""ECS's API as a stage uses it."""

from __future__ import annotations

import re
from typing import Any

from airflow.providers.amazon.aws.hooks.ecs import EcsHook
from botocore.exceptions import ClientError

from airflow_provider_e2e3d.backends.aws.client import Account, said
from airflow_provider_e2e3d.backends.base import Unavailable, unanswered
from e2e3d_stages.contract.messages import InvalidRequest, StageError

Task = dict[str, Any]

# What passes: machines that are full or not there yet, an agent that restarts, a quota that others use.
_FULL = re.compile(
    r"RESOURCE:|^AGENT|capacity is unavailable|EMPTY CAPACITY PROVIDER|No (Container|Active) Instances"
    r"|limit on the number|try again",
    re.IGNORECASE,
)
# What passes, too: others who change the same thing, and a role that the account is only being given.
_UNSETTLED = re.compile("concurrent|service.linked role|TaskDefinition (is inactive|not found)", re.IGNORECASE)
# What is not there any more.
_GONE = {"InvalidParameterException", "ClusterNotFoundException"}


class Cluster:
    """A cluster and the task definitions of its account.

    :param account: AWS, as the profile reaches it.
    :param name: of the cluster, or its ARN.
    """

    def __init__(self, account: Account, name: str) -> None:
        self._account = account
        self._name = name

    def register(self, definition: dict[str, Any]) -> str:
        """The ARN of a task definition, which is registered if it is not there.

        Two who do it at once leave two revisions alike.
        """
        try:
            found = self._call("describe_task_definition", taskDefinition=definition["family"])
        except ClientError:
            found = self._register(definition)
        return str(found["taskDefinition"]["taskDefinitionArn"])

    def run(self, request: dict[str, Any]) -> Task:
        """Start a task, or find the one that the same request has started.

        :raises Unavailable: when the cluster has no room for now.
        :raises InvalidRequest: when it will never have.
        """
        try:
            answer = self._call("run_task", **request)
        except ClientError as error:
            # The profile has changed since a dead worker started the same attempt.
            if _is_conflict(error) and (found := self.find(request["startedBy"])):
                return found
            raise _refusal_of(error) from error
        if answer["tasks"]:
            return dict(answer["tasks"][0])
        # One for each instance that was tried.
        reasons = {": ".join(filter(None, [each.get("reason"), each.get("detail")])) for each in answer["failures"]}
        raise _refusal(", ".join(sorted(reasons)))

    def find(self, started_by: str) -> Task | None:
        """The task that was started under a name; ended ones are known for about an hour."""
        for status in ("RUNNING", "STOPPED"):
            found = self._ask("list_tasks", cluster=self._name, startedBy=started_by, desiredStatus=status)
            if found["taskArns"] and (task := self.describe(found["taskArns"][0])):
                return task
        return None

    def describe(self, task: str) -> Task | None:
        """A task as it is, or nothing when ECS does not know it."""
        found = self._ask("describe_tasks", cluster=self._name, tasks=[task])["tasks"]
        return dict(found[0]) if found else None

    def stop(self, task: str) -> None:
        """Ask a task to end; one that has is let be."""
        try:
            self._call("stop_task", cluster=self._name, task=task, reason="Airflow's task was stopped")
        except ClientError as error:
            if error.response["Error"]["Code"] not in _GONE:
                raise unanswered("ECS", said(error)) from error

    def _call(self, operation: str, **values: Any) -> Any:
        return self._account.call("ecs", operation, hook=self._account.hook(EcsHook), **values)

    def _register(self, definition: dict[str, Any]) -> Any:
        try:
            return self._call("register_task_definition", **definition)
        except ClientError as error:
            raise _refusal_of(error) from error

    def _ask(self, operation: str, **values: Any) -> Any:
        try:
            return self._call(operation, **values)
        except ClientError as error:
            raise unanswered("ECS", said(error)) from error


def _is_conflict(error: ClientError) -> bool:
    return bool(error.response["Error"]["Code"] == "ConflictException")


def _refusal_of(error: ClientError) -> StageError:
    return unanswered("ECS", said(error)) if _is_conflict(error) else _refusal(said(error))


def _refusal(words: str) -> StageError:
    """What ECS's refusal of a task or of its definition means."""
    if _FULL.search(words):
        return Unavailable(
            f"ECS has no room for the task: {words}",
            hint="Try again later. If it stays so, add instances that fit (their number, size and GPUs), name more "
            "subnets or another capacity provider in the profile, or ask AWS for a higher quota.",
        )
    if _UNSETTLED.search(words):
        return unanswered("ECS", words)
    return InvalidRequest(
        f"ECS refused the stage: {words}", hint="Correct the stage's settings in the profile; see docs/ecs.md."
    )
