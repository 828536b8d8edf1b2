"""StageOperator: makes one artifact, once, wherever the profile says."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import uuid4

from airflow.sdk import TaskInstanceState, TriggerRule
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowException, AirflowSkipException, AirflowTaskTimeout
from airflow.sdk.execution_time.context import NEVER_EXPIRE

from airflow_provider_e2e3d import metrics
from airflow_provider_e2e3d.backends.base import JobStatus
from airflow_provider_e2e3d.exceptions import stage_failed
from airflow_provider_e2e3d.jobs.attempt import Attempt
from airflow_provider_e2e3d.jobs.making import Making
from airflow_provider_e2e3d.jobs.retries import stage_retries
from airflow_provider_e2e3d.operators.links import ArtifactLink, JobLink, PushedLink, artifact_address
from airflow_provider_e2e3d.profiles.file import profile_named
from airflow_provider_e2e3d.scenes.outcome import report_failures
from airflow_provider_e2e3d.templates import AuthoredTemplates
from airflow_provider_e2e3d.triggers.job import JobTrigger
from e2e3d_stages.contract.messages import (
    Failure,
    Infrastructure,
    Manifest,
    Reference,
    StageName,
    now,
)
from e2e3d_stages.registry import stage_named
from e2e3d_stages.store.artifacts import ArtifactStore

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Context

log = logging.getLogger(__name__)

WAIT_SECONDS = 5.0
# How soon a stopped task sees that it was.
GLANCE_SECONDS = 0.5
# What a task is after a person marked or cleared it, or when no try is left: nobody else will look after its job.
GIVEN_UP = frozenset(
    {
        TaskInstanceState.SUCCESS,
        TaskInstanceState.FAILED,
        TaskInstanceState.SKIPPED,
        TaskInstanceState.UPSTREAM_FAILED,
        TaskInstanceState.REMOVED,
        TaskInstanceState.RESTARTING,
    }
)
# In the task state store: which artifact this task makes or waits for, as the UI reads it.
ARTIFACT = "e2e3d_artifact"


class StageOperator(AuthoredTemplates):
    """Makes a stage's artifact, or finds that it is there.

    Looks for the artifact, else for a job that is making it, else submits one; waits, with a worker or without; then
    judges the manifest and returns a small reference to it.

    :param stage: a stage of the registry; the task is called like it where no `task_id` is given.
    :param parameters: the stage's parameters; names not given keep the stage's defaults. (templated)
    :param inputs: by stage name, what the operators of those stages returned; None for an optional one that the DAG
        does not have. (templated)
    :param capture: `ingest` only: where the photos are. (templated)
    :param profile: name of the profile that says where the stage runs. (templated)
    :param force: stages to re-run although their artifacts are there; concerns this one when named. (templated)
    :param deferrable: wait in the triggerer where the backend allows it; Airflow's default when not given.
    """

    template_fields: Sequence[str] = ("parameters", "inputs", "capture", "profile", "force")
    template_fields_renderers = {"parameters": "json", "inputs": "json"}
    operator_extra_links: tuple[PushedLink, ...] = (ArtifactLink(), JobLink())
    ui_color = "#e8f0fa"

    def __init__(
        self,
        *,
        stage: StageName,
        parameters: dict[str, Any] | None = None,
        inputs: dict[str, Any] | None = None,
        capture: str | None = None,
        profile: str = "local",
        force: Sequence[str] = (),
        deferrable: bool | None = None,
        **kwargs: Any,
    ) -> None:
        spec = stage_named(stage)
        if "task_id" not in kwargs:
            kwargs |= {"task_id": stage, "task_display_name": spec.work}
        kwargs.setdefault("doc_md", spec.about)
        for name, value in stage_retries().items():
            kwargs.setdefault(name, value)
        # A stage that nobody asked for is skipped, and stops none of those that would have read what it makes.
        if any((inputs or {}).get(name) is not None for name in spec.optional_inputs):
            kwargs.setdefault("trigger_rule", TriggerRule.NONE_FAILED)
        super().__init__(**kwargs)
        self.stage = stage
        self.parameters = parameters
        self.inputs = inputs
        self.capture = capture
        self.profile = profile
        self.force = force
        self.deferrable = deferrable
        self._killed = False
        # What this process has collected, for lineage.
        self._made: tuple[Manifest, Reference] | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Reuse, reattach or submit; wait; collect."""
        with report_failures(context, self.stage):
            if not stage_named(self.stage).validate(self.parameters or {}).wanted:
                raise AirflowSkipException(f"No {self.stage} was asked for.")
            self.log.info("::group::(1/4) Look for the artifact")
            making = self._making(context)
            store = making.store
            request = making.request(
                parameters=self.parameters or {}, inputs=self.given, capture=self.capture, force=self.force
            )
            reference = store.use(self.stage, request.key)
            folder = store.folder(self.stage, request.key)
            self.log.info("%s %s", self.stage, store.storage.uri_of(folder))
            ArtifactLink().push(context, artifact_address(context["ti"], store.storage, folder))
            remember_artifact(context, self.profile, self.stage, request.key, attempt=None)
            if reference is not None and (attempt := making.left_behind(request, reference)) is not None:
                self.log.info("Attempt %d made it, and its end is not told yet", attempt.state.claim.attempt)
                # It has ended, or will in a moment: not worth a triggerer's time.
                return self._wait(context, attempt)
            self.log.info("::endgroup::")
            while reference is None:
                self.log.info("::group::(2/4) Start the %s program", self.stage)
                attempt = making.start(request)
                self.log.info("::endgroup::")
                if attempt is not None:
                    JobLink().push(context, attempt.backend.job_url(attempt.state.handle))
                    remember_artifact(
                        context, self.profile, self.stage, request.key, attempt=attempt.state.claim.attempt
                    )
                    return self._follow(context, attempt)
                self._wait_for_another(store, request.key)
                reference = store.use(self.stage, request.key)
            return self._collect(context, store, reference)

    def resume(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Go on after the trigger saw the job end."""
        with report_failures(context, self.stage):
            if "failure" in event:
                raise stage_failed(Failure.model_validate(event["failure"]))
            attempt = Attempt.deserialize(event["attempt"])
            if event.get("timed_out"):
                metrics.TRIES.tell(stage=self.stage, backend=attempt.backend.settings.backend, result="timed_out")
                raise AirflowException(
                    f"The {self.stage} job took longer than {self.execution_timeout}; it was stopped."
                )
            return self._finish(context, attempt, JobStatus.model_validate(event["status"]))

    @property
    def given(self) -> dict[str, Any]:
        """What the stages before made; one that was not asked for made nothing."""
        return {name: made for name, made in (self.inputs or {}).items() if made is not None}

    def on_kill(self) -> None:
        """Only say so: the waiting loop sees it at once, and may take its time to learn who wants the end."""
        self._killed = True

    def _making(self, context: Context) -> Making:
        profile = profile_named(self.profile)
        environment = profile.environment()
        return Making(
            store=ArtifactStore.open(profile.store, environment),
            environment=environment,
            profile=profile,
            profile_name=self.profile,
            stage=self.stage,
            owner=owner_of(context),
            log=self.log,
        )

    # The wait

    def _wait_for_another(self, store: ArtifactStore, key: str) -> None:
        """Pause while another run's attempt is alive, and say how far it is."""
        last = store.last_attempt(self.stage, key)
        claim, progress = store.read_claim(self.stage, key, last), store.progress(self.stage, key, last)
        self.log.info("Waiting: %s is making it. %s", claim.owner if claim else "another run", progress or "")
        self._pause(WAIT_SECONDS)
        if self._killed:
            raise AirflowException("The task was stopped while it waited for another run.")

    def _pause(self, seconds: float) -> None:
        """Sleep, but not after the task was stopped."""
        until = time.monotonic() + seconds
        while not self._killed and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, GLANCE_SECONDS))

    def _follow(self, context: Context, attempt: Attempt) -> dict[str, Any]:
        """Wait for the job, with this worker or in the triggerer."""
        self.log.info("::group::(3/4) Wait for the %s program", self.stage)
        deferrable = self.deferrable
        if deferrable is None:
            deferrable = conf.getboolean("operators", "default_deferrable", fallback=False)
        if deferrable and attempt.backend.deferrable:
            deadline = now() + self.execution_timeout if self.execution_timeout else None
            self.defer(
                trigger=JobTrigger(attempt.serialize(), deadline.isoformat() if deadline else None),
                method_name=self.resume.__name__,
            )
        return self._wait(context, attempt)

    def _wait(self, context: Context, attempt: Attempt) -> dict[str, Any]:
        """Wait for the job with this worker."""
        try:
            while (status := attempt.follow(self.log.info)).running:
                if self._killed:
                    self._end(context, attempt)
                self._pause(attempt.backend.settings.poll_seconds)
        except (AirflowTaskTimeout, KeyboardInterrupt):
            attempt.cancel()
            raise
        self.log.info("::endgroup::")
        return self._finish(context, attempt, status)

    def _end(self, context: Context, attempt: Attempt) -> NoReturn:
        """Stop the job when a person stopped the task; else leave it to the next try, which may have it already."""
        ti = context["ti"]
        states = ti.get_task_states(
            dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=ti.map_index
        ).get(ti.run_id, {})
        if states and GIVEN_UP.isdisjoint(states.values()):
            raise AirflowException(
                f"The worker is stopping; the {self.stage} job runs on, and the next try takes it over."
            )
        attempt.cancel()
        raise AirflowException(f"The task was stopped, and its {self.stage} job with it.")

    # The result

    def _finish(self, context: Context, attempt: Attempt, status: JobStatus) -> dict[str, Any]:
        """The artifact that the job left, or the reason why there is none."""
        reference = attempt.store.reference(self.stage, attempt.state.key)
        failure = attempt.failure(status) if reference is None else None
        measured = reference.metrics if reference else {}
        record = attempt.record(profile_named(attempt.state.profile), status, measured)
        if record.price:
            self.log.info("About %.2f USD for %.0f s on %s", record.price, record.billable_seconds, record.machine)
        manifest = attempt.store.manifest(self.stage, reference.key) if reference else None
        # Not every kind of task instance has one.
        attempt.tell(getattr(context["ti"], "context_carrier", None), manifest, failure, record)
        attempt.clean_up(succeeded=failure is None)
        if reference is None:
            assert failure is not None
            raise stage_failed(failure)
        if manifest is not None:
            attempt.remember(manifest, record)
        return self._collect(context, attempt.store, reference)

    def _collect(self, context: Context, store: ArtifactStore, reference: Reference) -> dict[str, Any]:
        """Judge the manifest and return a reference to it."""
        self.log.info("::group::(4/4) Collect the result")
        manifest = store.manifest(self.stage, reference.key, digest=reference.digest)
        if manifest is None:
            raise Infrastructure(f"{reference.uri} vanished.", hint="Clear this task, and it is made again.")
        claim = store.read_claim(self.stage, reference.key, manifest.attempt)
        reused = claim is None or claim.owner != owner_of(context)
        if reused:
            metrics.TRIES.tell(stage=self.stage, backend="none", result="reused")
            self.log.info("Reused: made before by %s, nothing ran", claim.owner if claim else "another run")
        for warning in manifest.warnings:
            self.log.warning("%s %s", warning.message, warning.advice)
        for name, value in manifest.metrics.items():
            self.log.info("%s = %s", name, value)
        self.log.info("::endgroup::")
        result = reference.model_copy(update={"reused": reused})
        self._made = manifest, result
        self.after_collect(context, store, manifest, result)
        return result.model_dump(mode="json")

    def after_collect(self, context: Context, store: ArtifactStore, manifest: Manifest, reference: Reference) -> None:
        """What a subclass does with an artifact, made or reused, before it is handed on; thresholds are in no key.

        :raises QualityGateFailed: when it is too poor to spend more on; then nothing follows.
        """

    def get_openlineage_facets_on_complete(self, _task_instance: Any) -> OperatorLineage[Any, Any]:
        """What was read and written, for Airflow's OpenLineage provider, which asks when the task has ended."""
        from airflow_provider_e2e3d.lineage import lineage_of

        return lineage_of(self.given, self._made)


def owner_of(context: Context) -> str:
    """Who claims: one task of one run, the same over its tries and after a clear.

    Another Airflow on the same store may have a task of the same names, as scheduled runs do; the mark that is kept
    with this one it has not.
    """
    ti, kept = context["ti"], context["task_state_store"]
    mark = kept.get("e2e3d_owner")
    if mark is None:
        mark = uuid4().hex[:8]
        kept.set("e2e3d_owner", mark, retention=NEVER_EXPIRE)
    return f"{ti.dag_id}/{ti.run_id}/{ti.task_id}/{ti.map_index}/{mark}"


def remember_artifact(context: Context, profile: str, stage: str, key: str, *, attempt: int | None) -> None:
    """Leave word where the artifact is, for whoever looks at the run.

    :param attempt: the one that this task claimed; None while it has none.
    """
    place: dict[str, Any] = {"profile": profile, "stage": stage, "key": key, "attempt": attempt}
    try:
        context["task_state_store"].set(ARTIFACT, place, retention=NEVER_EXPIRE)
    except Exception:
        # The work goes on; only the page that shows it knows less.
        log.warning("Where the artifact is could not be left for others", exc_info=True)
