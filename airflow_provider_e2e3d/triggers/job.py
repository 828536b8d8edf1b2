"""Waiting for a stage without holding a worker: one trigger for every backend."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_e2e3d.jobs.attempt import Attempt
from airflow_provider_e2e3d.triggers.threads import in_thread, pause
from e2e3d_stages.contract.messages import Failure, StageError, now


class JobTrigger(BaseTrigger):
    """Follows a job until it ends, passes its log on, and keeps its claim alive.

    :param attempt: the attempt as `Attempt.serialize` gives it.
    :param deadline: when to cancel the job, ISO 8601: a task's `execution_timeout` does not reach a deferred task.
    """

    def __init__(self, attempt: dict[str, Any], deadline: str | None = None) -> None:
        super().__init__()
        self.attempt = attempt
        self.deadline = deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            "airflow_provider_e2e3d.triggers.job.JobTrigger",
            {"attempt": self.attempt, "deadline": self.deadline},
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        try:
            event = await self._follow()
        except StageError as error:
            self.log.exception("The job cannot be followed")
            event = {"failure": Failure.of(error, 0).model_dump(mode="json")}
        yield TriggerEvent(event)

    async def _follow(self) -> dict[str, Any]:
        """What `StageOperator.resume` is told, once there is something to tell."""
        attempt = await in_thread(self.attempt["profile"], Attempt.deserialize, self.attempt)
        deadline = dt.datetime.fromisoformat(self.deadline) if self.deadline else None
        while (status := await in_thread(self.attempt["profile"], attempt.follow, self.log.info)).running:
            if deadline and now() > deadline:
                await in_thread(self.attempt["profile"], attempt.cancel)
                return {"attempt": attempt.serialize(), "timed_out": True}
            await pause(attempt.backend.settings.poll_seconds)
        return {"attempt": attempt.serialize(), "status": status.model_dump(mode="json")}

    async def on_kill(self) -> None:
        """A person marked the task or cleared it: stop paying for the job."""
        # The triggerer cancels this as well when it looks again, a second later.
        await asyncio.shield(in_thread(self.attempt["profile"], _cancel, self.attempt))


def _cancel(attempt: dict[str, Any]) -> None:
    Attempt.deserialize(attempt).cancel()
