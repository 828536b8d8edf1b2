"""When a task is tried again, how often and how soon."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule
from airflow.sdk.definitions.retry_policy import RetryDecision
from airflow.sdk.execution_time.context import NEVER_EXPIRE

from airflow_provider_e2e3d import metrics
from airflow_provider_e2e3d.exceptions import (
    StageCaptureChanged,
    StageCrashed,
    StageFailed,
    StageInfrastructureFailed,
    StageInterrupted,
    StageOutOfMemory,
    StageRefused,
)
from e2e3d_stages.contract.messages import FailureCode

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger(__name__)

# These say nothing about what was asked, so that the same may work another time.
TRANSIENT = frozenset(
    {FailureCode.CAPTURE_CHANGED.value, FailureCode.INFRASTRUCTURE.value, FailureCode.INTERRUPTED.value}
)
# The longest pause before infrastructure that failed is tried again: a store, or instances that are not to be had.
LONGEST_DELAY = timedelta(minutes=30)
# How often a task is tried again after failures of one kind. These cost only time; others may be the stage's own fault.
RETRIES_OF: dict[type[BaseException], int] = {StageInfrastructureFailed: 5, StageInterrupted: 5}
RETRIES_OF_ANY_OTHER = 2
# In all, with those after tries that no failure ended, but a worker or a scheduler that died.
RETRIES = 10
# Such a try asked no retry policy; its job runs on, and the next try should find it soon.
_SOON = timedelta(seconds=10)
# In the task state store: by kind of failure, the tries that ended so.
FAILURES = "e2e3d_failures"


class StageRetryPolicy(ExceptionRetryPolicy):
    """Rules by exception, each kind as often as `RETRIES_OF` says; infrastructure is tried again later each time."""

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """See `RetryPolicy.evaluate`."""
        decision = super().evaluate(exception, try_number, max_tries, context)
        if decision.action is RetryAction.FAIL or context is None:
            return decision
        failures = _count(context, type(exception).__name__, try_number, max_tries)
        if failures > RETRIES_OF.get(type(exception), RETRIES_OF_ANY_OTHER):
            return RetryDecision.fail(f"it failed like this {failures} times")
        if metrics.is_on():
            code = exception.failure.code.value if isinstance(exception, StageFailed) else "unknown"
            metrics.RETRIES.tell(stage=getattr(context["task"], "stage", context["task"].task_id), code=code)
        if isinstance(exception, StageInfrastructureFailed) and decision.retry_delay:
            return replace(decision, retry_delay=min(decision.retry_delay * 2 ** (failures - 1), LONGEST_DELAY))
        return decision


def _count(context: Context, kind: str, try_number: int, max_tries: int) -> int:
    """How many tries failed like this one since the task was triggered or cleared, this one included."""
    kept = context["task_state_store"]
    try:
        told: Any = kept.get(FAILURES)
        failed: dict[str, Any] = told if isinstance(told, dict) else {}
        failed[kind] = sorted({*failed.get(kind, []), try_number})
        kept.set(FAILURES, failed, retention=NEVER_EXPIRE)
    except Exception:
        # Then each try so far counts.
        log.warning("How often this task failed could not be read or noted", exc_info=True)
        return try_number
    # To clear a task raises its `max_tries` by its retries.
    cleared_at = max_tries - (context["task"].retries or 0)
    return sum(number > cleared_at for number in failed[kind])


def retry_policy() -> StageRetryPolicy:
    """Never what cannot work, at once what ended for a passing reason, later what is transient infrastructure."""
    return StageRetryPolicy(
        rules=[
            RetryRule(exception=StageRefused, action=RetryAction.FAIL, reason="what was asked cannot work"),
            RetryRule(
                exception=StageCaptureChanged,
                retry_delay=timedelta(seconds=60),
                reason="the capture changed: making its scene as it is now",
            ),
            RetryRule(
                exception=StageOutOfMemory, retry_delay=timedelta(seconds=5), reason="out of memory: asking for less"
            ),
            RetryRule(
                exception=StageInterrupted, retry_delay=timedelta(seconds=5), reason="going on from the checkpoint"
            ),
            RetryRule(
                exception=StageInfrastructureFailed,
                retry_delay=timedelta(seconds=60),
                reason="transient infrastructure failure",
            ),
            RetryRule(exception=StageCrashed, retry_delay=timedelta(seconds=5), reason="from the newest checkpoint"),
        ]
    )


def stage_retries() -> dict[str, Any]:
    """Of a task that makes an artifact, or plans a run."""
    return {"retries": RETRIES, "retry_delay": _SOON, "retry_policy": retry_policy()}


def batch_retries() -> dict[str, Any]:
    """Of a batch's tasks, on which many scenes depend."""
    return {"retries": 3, "retry_delay": _SOON}


def watch_retries() -> dict[str, Any]:
    """Of tasks that an event starts: it comes once, and a worker that dies must not lose it."""
    return {"retries": 10, "retry_delay": timedelta(seconds=15)}
