"""Word of a batch: once for all its scenes, whose own runs tell nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from airflow_provider_e2e3d.notifications.channels import Notification
from airflow_provider_e2e3d.notifications.notifiers import EndNotifier, reason_of, run_on_the_web
from airflow_provider_e2e3d.pipelines.batch.plan import NEXT_TASK, OWN_TASKS, REPORT_TASK, State
from airflow_provider_e2e3d.pipelines.batch.report import WORDS
from airflow_provider_e2e3d.scenes.outcome import FAILURE, Reason

if TYPE_CHECKING:
    from airflow.sdk import Context


class BatchEnded(EndNotifier):
    """Callback of the task that judges a batch.

    :param state: of the batch.
    """

    def __init__(self, state: Literal["succeeded", "failed"]) -> None:
        super().__init__()
        self.state = state

    def notification(self, context: Context) -> Notification | None:
        """How many scenes ended how; nothing while another page goes on, nor when nothing was new."""
        ti, run, captures = context["ti"], context["run_id"], context["params"]["captures"]
        states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[run]).get(run, {})
        told = ti.xcom_pull(task_ids=REPORT_TASK) or {}
        counts = told.get("counts", {})
        if states.get(NEXT_TASK) == "success" or (self.state == "succeeded" and not counts.get(State.SUCCEEDED.value)):
            return None
        lines = {WORDS[State(state)].capitalize(): str(number) for state, number in counts.items()}
        summary = ", ".join(f"{number} {WORDS[State(state)]}" for state, number in counts.items())
        return Notification(
            what="batch",
            state=self.state,
            name=captures,
            run=run,
            headline=f"Batch of {captures}: {summary or 'it went wrong before any scene'}",
            page=told.get("page"),
            airflow=run_on_the_web(context),
            figures=counts,
            reason=self._reason(context) if self.state == "failed" else None,
            lines=lines,
        )

    def _reason(self, context: Context) -> Reason:
        """What broke the batch itself, else which scenes failed."""
        for task in OWN_TASKS:
            words = context["ti"].xcom_pull(task_ids=task, key=FAILURE)
            if words:
                return Reason.model_validate(words)
        return reason_of(context)
