"""When a failed stage is tried again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import RetryAction
from airflow.sdk.definitions.retry_policy import RetryDecision

from airflow_provider_e2e3d.exceptions import stage_failed
from airflow_provider_e2e3d.jobs.retries import RETRIES, retry_policy
from e2e3d_stages.contract.messages import Failure, FailureCode


class Kept(dict[str, Any]):
    """A task state store."""

    def set(self, key: str, value: Any, **_: Any) -> None:
        self[key] = value


class Task:
    """A task whose tries end as they are told.

    :param kept: its state store.
    """

    def __init__(self, kept: Any = None) -> None:
        self.number, self.max_tries = 0, RETRIES
        self.context: Any = {
            "task_state_store": Kept() if kept is None else kept,
            "task": SimpleNamespace(retries=RETRIES),
        }

    def lose(self, tries: int) -> None:
        """Tries that no exception ends: a worker or a scheduler died."""
        self.number += tries

    def fail(self, code: FailureCode | None) -> RetryDecision:
        """A try that ends with a failure, or with an exception of no stage."""
        self.number += 1
        error = RuntimeError() if code is None else stage_failed(Failure(code=code, message=""))
        return retry_policy().evaluate(error, self.number, self.max_tries, self.context)

    def clear(self) -> None:
        """As a person does."""
        self.max_tries = self.number + RETRIES

    def delays(self, code: FailureCode) -> list[float]:
        """Seconds before each next try, as long as there is one."""
        found: list[float] = []
        while (decision := self.fail(code)).action is RetryAction.RETRY:
            assert decision.retry_delay is not None
            found.append(decision.retry_delay.total_seconds())
        assert decision.action is RetryAction.FAIL
        return found


def test_what_needs_the_world_to_mend_is_tried_again_later_each_time() -> None:
    assert Task().delays(FailureCode.INFRASTRUCTURE) == [60, 120, 240, 480, 960]


def test_an_instance_that_is_taken_away_again_and_again_costs_five_tries_at_once() -> None:
    assert Task().delays(FailureCode.INTERRUPTED) == [5] * 5


@pytest.mark.parametrize("code", [FailureCode.OUT_OF_MEMORY, FailureCode.CRASH])
def test_what_may_be_the_stages_own_fault_is_tried_again_twice_at_once(code: FailureCode) -> None:
    assert Task().delays(code) == [5, 5]


def test_a_capture_that_changed_is_taken_again_after_a_minute() -> None:
    assert Task().delays(FailureCode.CAPTURE_CHANGED) == [60, 60]


def test_an_exception_of_no_stage_ends_the_third_try() -> None:
    task = Task()
    assert [task.fail(None).action for _ in range(3)] == [RetryAction.DEFAULT, RetryAction.DEFAULT, RetryAction.FAIL]


@pytest.mark.parametrize("code", [FailureCode.INVALID_REQUEST, FailureCode.UNREADABLE_CAPTURE])
def test_what_cannot_work_is_never_tried_again(code: FailureCode) -> None:
    assert Task().fail(code).action is RetryAction.FAIL


def test_tries_that_were_lost_and_other_failures_count_against_no_kind() -> None:
    task = Task()
    task.lose(3)
    assert task.fail(FailureCode.INFRASTRUCTURE).retry_delay
    assert task.delays(FailureCode.CRASH) == [5, 5]


def test_a_task_that_is_cleared_has_all_its_tries_again() -> None:
    task = Task()
    for _ in range(3):
        assert task.delays(FailureCode.CRASH) == [5, 5]
        task.clear()


def test_without_an_answer_from_airflow_every_try_counts() -> None:
    class Away:
        def get(self, key: str) -> Any:
            raise ConnectionError

    task = Task(Away())
    task.lose(1)
    assert task.delays(FailureCode.CRASH) == [5]
