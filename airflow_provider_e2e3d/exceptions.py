"""What a failed stage raises, one exception a kind of failure."""

from __future__ import annotations

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from e2e3d_stages.contract.messages import Failure, FailureCode


class StageFailed(AirflowException):
    """A stage program failed; says what happened and what to do next."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(f"{failure.message} {failure.hint}".strip())


class StageRefused(StageFailed, AirflowFailException):
    """What was asked cannot work, or the capture cannot become a scene: never retried."""


class StageCaptureChanged(StageFailed):
    """The capture is no longer what it was when the task began: the retry takes it as it is then."""


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
    FailureCode.CAPTURE_CHANGED: StageCaptureChanged,
    FailureCode.OUT_OF_MEMORY: StageOutOfMemory,
    FailureCode.INFRASTRUCTURE: StageInfrastructureFailed,
    FailureCode.INTERRUPTED: StageInterrupted,
    FailureCode.CRASH: StageCrashed,
}


def stage_failed(failure: Failure) -> StageFailed:
    """The exception for a failure."""
    return _BY_CODE[failure.code](failure)
