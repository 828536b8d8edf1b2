"""ReconstructSceneOperator: a whole run of `reconstruct` as one task of another DAG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseOperatorLink, DagRunState
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, DagRunTriggerException

from airflow_provider_e2e3d.operators.links import run_address
from airflow_provider_e2e3d.scenes.outcome import DAG_ID, outcome_of
from airflow_provider_e2e3d.templates import AuthoredTemplates
from e2e3d_stages.contract.messages import now

if TYPE_CHECKING:
    from airflow.sdk import Context

POLL_SECONDS = 5
ENDS = (DagRunState.SUCCESS, DagRunState.FAILED)
# The XCom with the run's `Outcome`.
OUTCOME = "outcome"


class SceneRunLink(BaseOperatorLink):
    """From the task to the run that it waits for."""

    name = "The scene's run"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """See `BaseOperatorLink.get_link`."""
        return run_address(DAG_ID, str(operator.run_id))


class ReconstructSceneOperator(AuthoredTemplates):
    """Starts a run of `reconstruct` and waits for its end without a worker; fails with the scene's own reason.

    Where a person stopped the scene, it is skipped.

    A run of the same id that an earlier try started is waited for: a worker that dies costs no second run.

    :param run_id: of the run; the same over the tries of a task. (templated)
    :param conf: what the run is asked, as in its form. (templated)
    """

    # Airflow's own TriggerDagRunOperator does much of this, but takes more than a second to import in every task.
    template_fields: Sequence[str] = ("run_id", "conf")
    template_fields_renderers = {"conf": "json"}
    operator_extra_links = (SceneRunLink(),)
    ui_color = "#e8f0fa"

    def __init__(self, *, run_id: str, conf: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run_id = run_id
        self.conf = conf

    def execute(self, context: Context) -> None:
        """Start the run, or find it, and wait."""
        ti = context["ti"]
        ti.xcom_push(key=SceneRunLink().xcom_key, value=SceneRunLink().get_link(self, ti_key=None))
        if ti.get_dr_count(dag_id=DAG_ID, run_ids=[self.run_id]):
            self.log.info("Run %s is there already: waiting for it", self.run_id)
            self._wait()
        raise DagRunTriggerException(
            trigger_dag_id=DAG_ID,
            dag_run_id=self.run_id,
            conf=self.conf,
            reset_dag_run=False,
            skip_when_already_exists=False,
            wait_for_completion=True,
            allowed_states=[DagRunState.SUCCESS],
            failed_states=[DagRunState.FAILED],
            poke_interval=POLL_SECONDS,
            deferrable=True,
        )

    def _wait(self) -> NoReturn:
        from airflow.providers.standard.triggers.external_task import DagStateTrigger

        states: Any = list(ENDS)
        trigger = DagStateTrigger(DAG_ID, states, [self.run_id], poll_interval=POLL_SECONDS)
        self.defer(trigger=trigger, method_name=self.execute_complete.__name__)

    def execute_complete(self, context: Context, event: tuple[str, dict[str, Any]]) -> None:
        """Leave the outcome; a run that failed was tried again by its own tasks, so this task is not."""
        ti = context["ti"]
        if event[1].get(self.run_id) not in ENDS:
            # Somebody cleared it just after it ended.
            self._wait()
        outcome = outcome_of(context, self.run_id, seconds=(now() - ti.start_date).total_seconds())
        ti.xcom_push(key=OUTCOME, value=outcome.model_dump())
        if outcome.state == "stopped":
            raise AirflowSkipException(str(outcome.reason))
        if outcome.reason is not None:
            raise AirflowFailException(str(outcome.reason))
        self.log.info("The scene is at %s", outcome.page)
