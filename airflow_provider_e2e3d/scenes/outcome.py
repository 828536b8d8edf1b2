"""How a scene's run ended: told by the task that knows why, read by whoever started the run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import DagRunState
from pydantic import Field

from airflow_provider_e2e3d.exceptions import QualityGateFailed, StageFailed, stage_failed
from airflow_provider_e2e3d.jobs.retries import TRANSIENT
from e2e3d_stages.contract.messages import Failure, Model, StageError

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger(__name__)

DAG_ID = "reconstruct"
# XComs of a run's tasks: why one failed; where the page is, and the film of a scene that has one, the figures of
# `key_metrics`, and the folder below the store's root that the results lie in.
FAILURE, PAGE, FILM, METRICS, FOLDER = "failure", "page", "film", "metrics", "folder"
# The task that asks a person, and its XCom, a `Reason`, when nothing was to follow.
APPROVE, STOPPED = "approve", "stopped"
QUALITY_GATE, UNKNOWN = "quality_gate", "unknown"
# A quality gate names every photo that was left out.
LONGEST_MESSAGE = 2000


class Reason(Model):
    """Why a run left no scene.

    :param stage: the task that ended it.
    :param code: a `FailureCode`, `quality_gate`, `stopped` by a person, or `unknown` when nobody told.
    """

    stage: str
    code: str
    message: str
    hint: str = ""

    @property
    def may_pass(self) -> bool:
        """Whether it says nothing about the capture, so that the same may work another time."""
        return self.code == UNKNOWN or self.code in TRANSIENT

    @property
    def advice(self) -> str:
        """What to do, and whose failure of which kind it is."""
        where = f"{self.stage}, {self.code}" if self.stage else self.code
        return f"{self.hint} ({where})".strip()

    def __str__(self) -> str:
        return f"{self.message} {self.advice}"

    @classmethod
    def of(cls, stage: str, error: StageFailed | QualityGateFailed | StageError) -> Reason:
        """What an exception tells."""
        told = error.failure if isinstance(error, StageFailed) else error
        code = QUALITY_GATE if isinstance(told, QualityGateFailed) else told.code.value
        return cls(stage=stage, code=code, message=told.message[:LONGEST_MESSAGE], hint=told.hint)


class Outcome(Model):
    """How a scene's run ended.

    :param run: of the DAG `reconstruct`.
    :param seconds: from the run's start to its end, as whoever waited for it saw it.
    """

    run: str
    state: Literal["succeeded", "failed", "stopped"]
    seconds: float | None = None
    page: str | None = Field(default=None, description="Where a person opens the scene.")
    metrics: dict[str, Any] = Field(default_factory=dict)
    reason: Reason | None = None


@contextmanager
def report_failures(context: Context, stage: str) -> Iterator[None]:
    """Raise what Airflow's side finds out as if a stage program had told it, and leave the reason of any failure."""
    try:
        yield
    except StageError as error:
        _tell(context, Reason.of(stage, error))
        raise stage_failed(Failure.of(error, 0)) from error
    except (StageFailed, QualityGateFailed) as error:
        _tell(context, Reason.of(stage, error))
        raise


def _tell(context: Context, reason: Reason) -> None:
    ti = context["ti"]
    try:
        ti.xcom_push(key=FAILURE, value=reason.model_dump())
    except Exception:
        # The failure itself must come through whatever becomes of the word about it.
        log.warning("The reason could not be left for others", exc_info=True)


def outcome_of(context: Context, run: str, *, seconds: float | None = None) -> Outcome:
    """How a run of `reconstruct` ended, as its tasks told it."""
    ti = context["ti"]
    there = ti.get_dr_count(dag_id=DAG_ID, run_ids=[run])
    state = DagRunState(ti.get_dagrun_state(dag_id=DAG_ID, run_id=run)).value if there else "not there"

    def told(task: str, key: str) -> Any:
        return ti.xcom_pull(dag_id=DAG_ID, run_id=run, task_ids=task, key=key, map_indexes=-1)

    stopped = told(APPROVE, STOPPED) if state == "success" else None
    if stopped is not None:
        return Outcome(run=run, state="stopped", seconds=seconds, reason=Reason.model_validate(stopped))
    if state == "success":
        return Outcome(
            run=run,
            state="succeeded",
            seconds=seconds,
            page=told("publish", PAGE),
            metrics=told("publish", METRICS) or {},
        )
    states = ti.get_task_states(dag_id=DAG_ID, run_ids=[run]).get(run, {}) if there else {}
    failed = next((task for task, how in states.items() if how == "failed"), "")
    word = told(failed, FAILURE) if failed else None
    if word is None:
        word = {
            "stage": failed,
            "code": UNKNOWN,
            "message": f"The run {run} is {state}, and none of its tasks told why.",
            "hint": f"Read the end of the log of its task {failed}." if failed else "See what became of it in Airflow.",
        }
    return Outcome(run=run, state="failed", seconds=seconds, reason=Reason.model_validate(word))
