"""When a task is tried again, how often and how soon."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

from airflow_provider_e2e3d.exceptions import (
    StageCaptureChanged,
    StageCrashed,
    StageInfrastructureFailed,
    StageInterrupted,
    StageOutOfMemory,
    StageRefused,
)
from e2e3d_stages.contract.messages import FailureCode

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.definitions.retry_policy import RetryDecision

# These say nothing about what was asked, so that the same may work another time.
TRANSIENT = frozenset(
    {FailureCode.CAPTURE_CHANGED.value, FailureCode.INFRASTRUCTURE.value, FailureCode.INTERRUPTED.value}
)
# The longest pause before infrastructure that failed is tried again: a store, or instances that are not to be had.
LONGEST_DELAY = timedelta(minutes=30)
# A worker that was killed asks no retry policy; its job runs on, and the next try should find it soon.
_SOON = timedelta(seconds=10)


class StageRetryPolicy(ExceptionRetryPolicy):
    """Rules by exception; infrastructure is tried again later each time."""

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """See `RetryPolicy.evaluate`."""
        decision = super().evaluate(exception, try_number, max_tries, context)
        if isinstance(exception, StageInfrastructureFailed) and decision.retry_delay:
            return replace(decision, retry_delay=min(decision.retry_delay * 2 ** (try_number - 1), LONGEST_DELAY))
        return decision


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
    return {"retries": 2, "retry_delay": _SOON, "retry_policy": retry_policy()}


def batch_retries() -> dict[str, Any]:
    """Of a batch's tasks, on which many scenes depend."""
    return {"retries": 3, "retry_delay": _SOON}


def watch_retries() -> dict[str, Any]:
    """Of tasks that an event starts: it comes once, and a worker that dies must not lose it."""
    return {"retries": 10, "retry_delay": timedelta(seconds=15)}
