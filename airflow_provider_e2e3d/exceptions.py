"""What a failed stage raises, one exception a kind of failure, and when a retry makes sense."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from e2e3d_stages.contract import Failure, FailureCode

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.definitions.retry_policy import RetryDecision

# The longest pause before infrastructure that failed is tried again: a store, or instances that are not to be had.
LONGEST_DELAY = timedelta(minutes=30)


class StageFailed(AirflowException):
    """A stage program failed; says what happened and what to do next."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(f"{failure.message} {failure.hint}".strip())


class StageRefused(StageFailed, AirflowFailException):
    """What was asked cannot work, or the capture cannot become a scene: never retried."""


class StageOutOfMemory(StageFailed):
    """Memory ran out: the retry asks for less and says so in the manifest."""


class StageInterrupted(StageFailed):
    """The stage was stopped: the retry goes on from the newest checkpoint."""


class StageInfrastructureFailed(StageFailed):
    """Store, network or disk failed: the retry asks for the same."""


class StageCrashed(StageFailed):
    """The stage program failed in a way of its own."""


class QualityGateFailed(AirflowFailException):
    """The stage did its work, but the result is too poor to spend more on: never retried."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = message
        self.hint = hint
        super().__init__(f"{message}\n{hint}".strip())


_BY_CODE: dict[FailureCode, type[StageFailed]] = {
    FailureCode.INVALID_REQUEST: StageRefused,
    FailureCode.UNREADABLE_CAPTURE: StageRefused,
    FailureCode.OUT_OF_MEMORY: StageOutOfMemory,
    FailureCode.INFRASTRUCTURE: StageInfrastructureFailed,
    FailureCode.INTERRUPTED: StageInterrupted,
    FailureCode.CRASH: StageCrashed,
}


def stage_failed(failure: Failure) -> StageFailed:
    """The exception for a failure."""
    return _BY_CODE[failure.code](failure)


class StageRetryPolicy(ExceptionRetryPolicy):
    """Rules by exception; what needs the world to mend is tried again later each time."""

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """See `RetryPolicy.evaluate`."""
        decision = super().evaluate(exception, try_number, max_tries, context)
        if isinstance(exception, StageInfrastructureFailed) and decision.retry_delay:
            return replace(decision, retry_delay=min(decision.retry_delay * 2 ** (try_number - 1), LONGEST_DELAY))
        return decision


def retry_policy() -> StageRetryPolicy:
    """Retry at once what ended for a passing reason, later what needs the world to mend, never what cannot work."""
    return StageRetryPolicy(
        rules=[
            RetryRule(exception=StageRefused, action=RetryAction.FAIL, reason="what was asked cannot work"),
            RetryRule(
                exception=StageOutOfMemory, retry_delay=timedelta(seconds=5), reason="out of memory: asking for less"
            ),
            RetryRule(
                exception=StageInterrupted, retry_delay=timedelta(seconds=5), reason="going on from the checkpoint"
            ),
            RetryRule(
                exception=StageInfrastructureFailed, retry_delay=timedelta(seconds=60), reason="the world may mend"
            ),
            RetryRule(exception=StageCrashed, retry_delay=timedelta(seconds=5), reason="from the newest checkpoint"),
        ]
    )
