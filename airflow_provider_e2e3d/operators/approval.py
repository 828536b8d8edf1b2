"""ApproveTrainingOperator: a person's word before the expensive part of a run, where its estimate is above a limit."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.bases.skipmixin import SkipMixin
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.exceptions import AirflowSkipException
from pydantic import AwareDatetime

from airflow_provider_e2e3d.costs.estimate import StageEstimate, is_above, stage_estimates, together
from airflow_provider_e2e3d.costs.history import Measurement, remembered
from airflow_provider_e2e3d.jobs.making import Making
from airflow_provider_e2e3d.jobs.retries import stage_retries
from airflow_provider_e2e3d.operators.stage import owner_of
from airflow_provider_e2e3d.profiles.file import profile_named
from airflow_provider_e2e3d.profiles.profile import CaptureSize, Profile
from airflow_provider_e2e3d.scenes.outcome import APPROVE, STOPPED, Reason, report_failures
from airflow_provider_e2e3d.templates import AuthoredTemplates
from e2e3d_stages.contract.formatting import UNKNOWN, as_count, as_dollars, as_duration, as_moment
from e2e3d_stages.contract.messages import Model, Reference, now
from e2e3d_stages.contract.spec import PRESETS
from e2e3d_stages.registry import STAGES
from e2e3d_stages.store.artifacts import ArtifactStore

if TYPE_CHECKING:
    from airflow.sdk import Context

Choice = Literal["train", "train as draft", "stop"]
TRAIN: Choice = "train"
DRAFT: Choice = "train as draft"
STOP: Choice = "stop"


class Approval(Model):
    """What was answered.

    :param by: who answered, as Airflow calls them; None when the time was up.
    :param train: the parameters of the training.
    """

    choice: Choice
    by: str | None
    at: AwareDatetime
    train: dict[str, Any]

    @property
    def told(self) -> dict[str, Any]:
        """For the run's record."""
        return self.model_dump(mode="json", exclude={"train"})


class ApproveTrainingOperator(AuthoredTemplates, HITLOperator, SkipMixin):
    """Asks a person before training, where more is estimated for what is ahead than a limit.

    It waits as Airflow's human-in-the-loop operators do: question and answer are in Airflow's database, and neither a
    worker nor a triggerer is held. *stop* skips all that follows. Returns an `Approval`; where nobody is
    asked, it is skipped.

    :param ingest: what `IngestOperator` returned. (templated)
    :param sfm: what `SfmOperator` returned. (templated)
    :param plan: scene, profile, `force` and each stage's parameters, as `plan` of `reconstruct` has them. (templated)
    :param ask_above: as in a profile; the profile's own holds beside it. (templated)
    """

    # Not `subject` and `body`, as in Airflow's own: they are made of data.
    template_fields: Collection[str] = ("ingest", "sfm", "plan", "ask_above")
    template_fields_renderers = {"plan": "json"}
    ui_color = "#faf0e8"

    def __init__(self, *, ingest: Any, sfm: Any, plan: Any, ask_above: Any = None, **kwargs: Any) -> None:
        kwargs = {"task_id": APPROVE, "task_display_name": "Ask before training", **stage_retries(), **kwargs}
        choices: list[str] = [TRAIN, DRAFT, STOP]
        super().__init__(subject="Train this scene?", options=choices, defaults=STOP, **kwargs)
        # Airflow leaves a task that asks no Params of the DAG, and would write a run's conf into the DAG's own.
        self.params = ParamsDict(kwargs.get("params") or {})
        self.ingest = ingest
        self.sfm = sfm
        self.plan = plan
        self.ask_above = ask_above
        # Of each choice what is ahead then, in words; for whoever is told of the question.
        self.choices: dict[str, str] = {}

    @property
    def serialized_params(self) -> dict[str, dict[str, Any]]:
        """Fields of the question's form: a person only chooses."""
        return {}

    def validate_params_input(self, params_input: Mapping[str, Any]) -> None:
        """See `HITLOperator`; what nobody asked for is passed over."""

    def execute(self, context: Context) -> None:
        """Find out whether to ask; ask, and wait."""
        with report_failures(context, self.task_id):
            profile = profile_named(self.plan["profile"])
            limits = [limit for limit in (self.ask_above, profile.ask_above) if limit]
            if not limits:
                raise AirflowSkipException("Nobody wants to be asked.")
            store = profile.open_store()
            history = remembered(store.storage, self.plan["profile"])
            there = self._is_trained(context, profile, store)
            ahead = self._ahead(profile, history, self.plan["train"], trained=there)
            if not any(is_above(limit, ahead) for limit in limits):
                raise AirflowSkipException(f"{_sum(ahead)}: nobody wants to be asked below {' or '.join(limits)}.")
            self.choices = {TRAIN: _sum(ahead)}
            if not there and (draft := as_draft(self.plan["train"])) != self.plan["train"]:
                self.choices[DRAFT] = _sum(self._ahead(profile, history, draft))
            self.choices[STOP] = "nothing; what was made so far is kept"
            self.options = list(self.choices)
            self.response_timeout = dt.timedelta(hours=profile.ask_hours)
            self.subject = f"Train the scene {self.plan['scene']}?"
            self.body = self._body(until=now() + self.response_timeout)
            self.log.info("%s\n%s", self.subject, self.body)
        super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Go on as was answered."""
        answer = super().execute_complete(context, event)
        (choice,) = answer["chosen_options"]
        user = answer["responded_by_user"]
        approval = Approval(
            choice=choice,
            by=user and user["name"],
            at=answer["responded_at"],
            train=as_draft(self.plan["train"]) if choice == DRAFT else self.plan["train"],
        )
        self.log.info("%s: %s", approval.by or "Nobody answered in time", choice)
        if choice == STOP:
            who = f"{approval.by} stopped it" if approval.by else "Nobody answered in time, so it stopped"
            reason = Reason(
                stage=self.task_id,
                code=STOPPED,
                message=f"{who} before training.",
                hint=f"To train it after all, clear this run's task {self.task_id} and those after it, and answer.",
            )
            context["ti"].xcom_push(key=STOPPED, value=reason.model_dump())
            # All of them, for some go on without what was skipped. It raises, as Airflow wants it.
            self.skip(ti=context["ti"], tasks=context["task"].get_flat_relatives(upstream=False))
        return approval.model_dump(mode="json")

    def _ahead(
        self, profile: Profile, history: Sequence[Measurement], train: dict[str, Any], *, trained: bool = False
    ) -> tuple[StageEstimate, ...]:
        """What the stages after this one will take.

        :param train: the training's parameters.
        :param trained: whether its artifact is there.
        """
        stages = list(STAGES)[list(STAGES).index("sfm") + 1 :]
        size = CaptureSize.of(Reference.model_validate(self.ingest).metrics)
        wanted = [name for name in stages if not (trained and name == "train")]
        return stage_estimates(profile, {**self.plan, "train": train}, size, history, wanted)

    def _is_trained(self, context: Context, profile: Profile, store: ArtifactStore) -> bool:
        """Whether training has nothing to do."""
        if "train" in self.plan["force"]:
            return False
        making = Making(
            store=store,
            environment={},
            profile=profile,
            profile_name=self.plan["profile"],
            stage="train",
            owner=owner_of(context),
            log=self.log,
        )
        request = making.request(parameters=self.plan["train"], inputs={"sfm": self.sfm}, capture=None, force=())
        return store.reference("train", request.key) is not None

    def _body(self, until: dt.datetime) -> str:
        """What a person should know, as Markdown of numbers alone: whatever a name said would be mark-up."""
        made = {"ingest": self.ingest, "sfm": self.sfm}
        metrics = {name: Reference.model_validate(each).metrics for name, each in made.items()}
        error, points = metrics["sfm"].get("reprojection_error_px"), metrics["sfm"].get("points")
        found = [
            STAGES["sfm"].result_text(metrics),
            f"reprojection error {UNKNOWN if error is None else f'{error:.2f} px'}",
            f"{UNKNOWN if points is None else as_count(points)} points",
        ]
        return "\n".join(
            [
                f"Camera poses: {', '.join(filter(None, found))}.",
                "",
                "Still ahead, by the estimate:",
                "",
                *(f"- **{choice}**: {ahead}" for choice, ahead in self.choices.items()),
                "",
                f"Without an answer it stops on {as_moment(until)}.",
            ]
        )


def as_draft(params: dict[str, Any]) -> dict[str, Any]:
    """A training's parameters with the draft preset's for all that presets decide."""
    spec = STAGES["train"]
    decided = {name for preset in PRESETS for name in spec.presets[preset]}
    draft = spec.resolve("draft", {}).model_dump(mode="json")
    return {**params, **{name: draft[name] for name in decided}}


def _sum(ahead: Sequence[StageEstimate]) -> str:
    seconds, price = together(ahead)
    return f"{as_duration(seconds)}, {'cost unknown' if price is None else as_dollars(price)}"
