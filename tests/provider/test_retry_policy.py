"""When a failed stage is tried again."""

from __future__ import annotations

import pytest
from airflow.sdk import RetryAction

from airflow_provider_e2e3d.exceptions import stage_failed
from airflow_provider_e2e3d.jobs.retries import retry_policy
from e2e3d_stages.contract.messages import Failure, FailureCode


def delay(code: FailureCode, try_number: int) -> float:
    """Seconds after which a try that failed so is followed by the next."""
    decision = retry_policy().evaluate(stage_failed(Failure(code=code, message="")), try_number, 10)
    assert decision.action is RetryAction.RETRY
    assert decision.retry_delay is not None
    return decision.retry_delay.total_seconds()


def test_what_needs_the_world_to_mend_is_tried_again_later_each_time() -> None:
    delays = [delay(FailureCode.INFRASTRUCTURE, number) for number in range(1, 9)]
    assert delays == [60, 120, 240, 480, 960, 1800, 1800, 1800]


@pytest.mark.parametrize("code", [FailureCode.OUT_OF_MEMORY, FailureCode.INTERRUPTED, FailureCode.CRASH])
def test_what_ended_for_a_passing_reason_is_tried_again_at_once_each_time(code: FailureCode) -> None:
    assert delay(code, 1) == delay(code, 5) == 5


def test_a_capture_that_changed_is_taken_again_after_a_minute() -> None:
    assert delay(FailureCode.CAPTURE_CHANGED, 1) == delay(FailureCode.CAPTURE_CHANGED, 5) == 60


@pytest.mark.parametrize("code", [FailureCode.INVALID_REQUEST, FailureCode.UNREADABLE_CAPTURE])
def test_what_cannot_work_is_never_tried_again(code: FailureCode) -> None:
    decision = retry_policy().evaluate(stage_failed(Failure(code=code, message="")), 1, 10)
    assert decision.action is RetryAction.FAIL
