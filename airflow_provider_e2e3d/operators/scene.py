"""ReconstructSceneOperator: a whole run of `reconstruct` as one task of another DAG."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.providers.standard.triggers.external_task import DagStateTrigger
from airflow.sdk.exceptions import AirflowException, AirflowFailException

if TYPE_CHECKING:
    from airflow.sdk import Context

POLL_SECONDS = 5


class ReconstructSceneOperator(TriggerDagRunOperator):
    """Starts a run of `reconstruct` and waits for its end without a worker.

    A run of the same id that an earlier try started is waited for: a worker that dies costs no second run.

    :param run_id: of the run; the same over the tries of a task. (templated)
    :param conf: what the run is asked, as in its form. (templated)
    """

    template_fields = ("trigger_run_id", "conf")

    def __init__(self, *, run_id: str, conf: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(
            trigger_dag_id="reconstruct",
            trigger_run_id=run_id,
            conf=conf,
            logical_date=None,
            wait_for_completion=True,
            deferrable=True,
            poke_interval=POLL_SECONDS,
            **kwargs,
        )

    def execute(self, context: Context) -> None:
        run_ids = [str(self.trigger_run_id)]
        if context["ti"].get_dr_count(dag_id=self.trigger_dag_id, run_ids=run_ids):
            self.log.info("Run %s is there already: waiting for it", self.trigger_run_id)
            states = [*self.allowed_states, *self.failed_states]
            trigger = DagStateTrigger(self.trigger_dag_id, states, run_ids, poll_interval=POLL_SECONDS)
            self.defer(trigger=trigger, method_name=self.execute_complete.__name__)
        super().execute(context)

    def execute_complete(self, context: Context, event: tuple[str, dict[str, Any]]) -> None:
        """The run ended; one that failed was tried again by its own tasks, so this task is not."""
        try:
            super().execute_complete(context, event)
        except AirflowException as error:
            raise AirflowFailException(str(error)) from error
