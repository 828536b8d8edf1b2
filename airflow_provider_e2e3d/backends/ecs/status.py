"""What the state of an ECS task means for the stage in it."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

from airflow_provider_e2e3d.backends.base import TRANSIENT, Handle, JobStatus
from airflow_provider_e2e3d.backends.ecs.task import MAIN
from e2e3d_stages.contract.messages import Failure, FailureCode, now

# What ECS calls the end of a task that it or somebody else took away.
_TAKEN_AWAY = {"SpotInterruption", "TerminationNotice", "InfrastructureHealth", "UserInitiated"}
_TAKEN_AWAY |= {"ServiceSchedulerInitiated"}
# Starts that end the same way each time.
_IN_VAIN = re.compile(
    r"not found|manifest unknown|denied|unauthorized|not authorized|forbidden|no basic auth|invalid reference"
    r"|does not contain descriptor|does not exist|ResourceNotFoundException|can't find the specified",
    re.IGNORECASE,
)
# How long ECS may not show a task that it has just started.
_SETTLING = dt.timedelta(seconds=15)
# What Fargate bills at least.
_MINUTE = 60.0


def is_over(task: dict[str, Any]) -> bool:
    """Whether a task has ended and left its machine."""
    return task["lastStatus"] in ("STOPPED", "DELETED")


def vanished(handle: Handle) -> JobStatus:
    """The status of a task that ECS does not know."""
    if now() - dt.datetime.fromisoformat(handle["created"]) < _SETTLING:
        return JobStatus(running=True)
    failure = _failure(
        FailureCode.INFRASTRUCTURE,
        f"ECS does not know the task {handle['task']} any more, and its end was not seen.",
        "ECS forgets tasks an hour after their end. The next try goes on from the newest checkpoint; when none is "
        "left, clear the task.",
    )
    return JobStatus(running=False, failure=failure)


def job_status(task: dict[str, Any]) -> JobStatus:
    """How the stage in a task is.

    :param task: as DescribeTasks tells it.
    """
    if not is_over(task):
        return JobStatus(running=True)
    main: dict[str, Any] = next((each for each in task.get("containers", []) if each["name"] == MAIN), {})
    exit_code = main.get("exitCode")
    return JobStatus(
        running=False,
        exit_code=exit_code,
        failure=None if exit_code == 0 else _why(task, main),
        billable_seconds=_billable_seconds(task),
    )


def _billable_seconds(task: dict[str, Any]) -> float | None:
    """What Fargate bills, from the pull of the image on; on EC2 how long the machine was busy with it."""
    began, ended = task.get("pullStartedAt") or task.get("startedAt"), task.get("stoppedAt")
    if not began or not ended:
        return None
    seconds = float((ended - began).total_seconds())
    return max(seconds, _MINUTE) if task.get("launchType") == "FARGATE" else seconds


def _why(task: dict[str, Any], main: dict[str, Any]) -> Failure | None:
    """Why the task ended, where ECS knows more than an exit status."""
    words = "; ".join(dict.fromkeys(filter(None, [task.get("stoppedReason"), main.get("reason")])))
    if "OutOfMemory" in words:
        return _failure(
            FailureCode.OUT_OF_MEMORY,
            f"The container was killed because it needed more memory than its limit: {words}",
            "Raise memory in the stage's task_definition or container, or choose a smaller preset.",
        )
    if task.get("stopCode") in _TAKEN_AWAY or words.startswith("Host EC2"):
        return _failure(
            FailureCode.INTERRUPTED,
            f"The task was taken away ({task.get('stopCode')}): {words}",
            "The next try goes on from the newest checkpoint. If it happens again and again, use FARGATE instead of "
            "FARGATE_SPOT, or instances that are not reclaimed.",
        )
    return _never_began(words or "no reason is given") if "exitCode" not in main else None


def _never_began(words: str) -> Failure:
    code = FailureCode.INFRASTRUCTURE
    hint = "Check the way from the task's subnets to ECR, S3 and CloudWatch Logs: see docs/ecs.md."
    begun_in_vain = re.search(r"CannotPull|ResourceInitialization", words) and _IN_VAIN.search(words)
    if begun_in_vain and not TRANSIENT.search(words):
        code = FailureCode.INVALID_REQUEST
        hint = "Push the image, correct what the profile names, or give executionRoleArn the right to it."
    elif "capacity" in words.lower() or "RESOURCE:" in words:
        hint = "Try again later, or name more subnets or another capacity provider in the profile."
    return _failure(code, f"The task did not start: {words}", hint)


def _failure(code: FailureCode, message: str, hint: str) -> Failure:
    return Failure(code=code, message=message, hint=hint)
