"""What a batch does with each capture: one listing of the captures, one read of the ledger, then no more questions."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Literal, TypeVar

from airflow.sdk.exceptions import ParamValidationError
from pydantic import Field, ValidationError

from airflow_provider_e2e3d.captures.completeness import Completeness
from airflow_provider_e2e3d.captures.listing import Capture
from airflow_provider_e2e3d.pipelines.batch.requested import SceneRequest, requested_scenes
from airflow_provider_e2e3d.pipelines.form import reconstruction_params
from airflow_provider_e2e3d.pipelines.reconstruct import refuse_unknown, resolved
from airflow_provider_e2e3d.profiles.profile import Profile
from airflow_provider_e2e3d.scenes.names import scene_apart, scene_of, valid_scene
from airflow_provider_e2e3d.scenes.outcome import Outcome, Reason
from e2e3d_stages.contract.messages import InvalidRequest, Model, StageError, UnreadableCapture, canonical
from e2e3d_stages.contract.paths import folder_name
from e2e3d_stages.registry import STAGES
from e2e3d_stages.store.base import NotFound, Storage

FOLDER = "batches"
# Tasks of the DAG.
PLAN_TASK, SCENES_TASK, REPORT_TASK, NEXT_TASK = "plan", "reconstruct", "report", "next_page"
OWN_TASKS = (PLAN_TASK, REPORT_TASK, NEXT_TASK)
# Params of `reconstruct` that are no scene's parameters.
OF_A_ROW = ("capture", "scene", "profile")

AnyModel = TypeVar("AnyModel", bound=Model)


class BatchRequest(Model):
    """What a batch is asked: the values of its Params."""

    captures: str
    profile: str
    preset: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    force: Literal["none", "failed", "all"] = "none"
    limit: int | None = None
    marker: str | None = None
    quiet_seconds: float = 60
    min_photos: int = 0
    continues: str | None = None


class State(str, Enum):
    """What becomes of a scene in a batch."""

    RUN = "run"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    REUSED = "reused"
    FAILING = "failing"
    REFUSED = "refused"
    ARRIVING = "arriving"
    WAITING = "waiting"

    @classmethod
    def of(cls, outcome: Outcome) -> State:
        """What a run's end makes of its scene."""
        return cls(outcome.state)

    @property
    def is_failure(self) -> bool:
        """Whether a person must do something about it."""
        return self in (State.FAILED, State.FAILING, State.REFUSED)


class Row(Model):
    """One scene in a batch.

    :param fingerprint: of the capture's listing.
    :param asked: digest of what its run is asked.
    :param parameters: of `reconstruct`, besides the capture, the scene and the profile.
    :param run: of `reconstruct`, for one that this batch starts.
    :param outcome: of this batch's run, or the last batch's that ran it.
    """

    scene: str
    capture: str
    state: State
    photos: int | None = None
    fingerprint: str = ""
    asked: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    run: str | None = None
    outcome: Outcome | None = None


class Record(Model):
    """What the ledger knows of a scene: how its last run ended, on which photos, asked what, in which batch."""

    capture: str
    fingerprint: str
    asked: str
    batch: str
    outcome: Outcome


class Ledger(Model):
    """Every scene that batches of these captures ever ended, by its name."""

    scenes: dict[str, Record] = Field(default_factory=dict)


class Plan(Model):
    """A batch or one page of it.

    :param batch: the first page's run.
    :param limit: how many scenes the batch may still start after this page; None: any number.
    """

    batch: str
    request: BatchRequest
    rows: tuple[Row, ...]
    limit: int | None

    @property
    def started(self) -> list[Row]:
        """Scenes that this page runs."""
        return [row for row in self.rows if row.state is State.RUN]

    @property
    def goes_on(self) -> bool:
        """Whether there is another page."""
        return self.limit != 0 and any(row.state is State.WAITING for row in self.rows)

    @property
    def counts(self) -> dict[str, int]:
        """Scenes by state."""
        found = Counter(row.state.value for row in self.rows)
        return {state.value: found[state.value] for state in State if found[state.value]}


class BatchFolder:
    """What batches of the same captures keep in the artifact store, in `batches/<name>/`.

    :param storage: of the artifact store.
    :param captures: address that the profile admitted.
    """

    def __init__(self, storage: Storage, captures: str) -> None:
        self.storage = storage
        name = re.sub(r"[^a-z0-9]+", "-", captures.lower().split("://", 1)[-1]).strip("-")[-40:].strip("-")
        # Two prefixes may read alike.
        self.path = f"{FOLDER}/{name}-{_digest(captures)[:8]}"

    def of_run(self, run: str) -> str:
        """The folder of one run of the DAG."""
        return f"{self.path}/{folder_name(run)}"

    def ledger(self) -> Ledger:
        """What is known of earlier batches."""
        return self._read(f"{self.path}/ledger.json", Ledger) or Ledger()

    def write_ledger(self, ledger: Ledger) -> None:
        """Replace it."""
        self._write(f"{self.path}/ledger.json", ledger)

    def plan(self, run: str) -> Plan:
        """What a run was to do.

        :raises InvalidRequest: when that is gone.
        """
        path = f"{self.of_run(run)}/plan.json"
        found = self._read(path, Plan)
        if found is None:
            raise InvalidRequest(f"{self.storage.uri_of(path)} is gone.", hint="Clear the batch's task `plan`.")
        return found

    def write_plan(self, run: str, plan: Plan) -> None:
        """Keep it for the report."""
        self._write(f"{self.of_run(run)}/plan.json", plan)

    def _read(self, path: str, model: type[AnyModel]) -> AnyModel | None:
        try:
            return model.model_validate_json(self.storage.read(path))
        except NotFound:
            return None
        except ValidationError as error:
            raise InvalidRequest(
                f"{self.storage.uri_of(path)} is not of this version: {error}",
                hint="Remove the file: every scene is run once more, and its artifacts are reused.",
            ) from error

    def _write(self, path: str, model: Model) -> None:
        self.storage.write(path, model.model_dump_json(exclude_defaults=True).encode())


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical(value)).hexdigest()[:16]


def plan_batch(
    request: BatchRequest,
    run: str,
    profile: Profile,
    ledger: Ledger,
    open_at: Callable[[str], Storage],
    *,
    page_size: int,
) -> Plan:
    """Decide what becomes of every scene.

    :param run: of the batch.
    :param open_at: opens a folder of captures.
    :param page_size: most scenes that one run of the batch's DAG starts.
    :raises InvalidRequest: when the whole batch cannot work.
    """
    # The clock first: what comes during the listing is then younger than it.
    at = open_at(profile.admit(request.captures, or_root=True)).clock()
    planner = _Planner(request, run, profile, ledger, at)
    wanted = requested_scenes(request.captures, profile, planner.form, open_at)
    rows = [planner.row(each) for each in planner.named(list(wanted))]
    return planner.page(rows, page_size)


class _Planner:
    """The rules, and what they look at."""

    def __init__(self, request: BatchRequest, run: str, profile: Profile, ledger: Ledger, at: dt.datetime) -> None:
        self.request, self.run, self.profile, self.ledger, self.at = request, run, profile, ledger, at
        self.batch = request.continues or run
        self.form = reconstruction_params()
        self.common = {**request.parameters, **({"preset": request.preset} if request.preset else {})}
        self.defaults = {name: param.value for name, param in self.form.items() if name not in OF_A_ROW}
        refuse_unknown(self.common, self.defaults)
        self.versions = {stage.name: stage.version for stage in STAGES.values()}
        self.digests: dict[bytes, str] = {}
        self._digest_of(self.common)
        self.complete = Completeness(request.marker or "", request.quiet_seconds, request.min_photos)

    def named(self, wanted: list[SceneRequest]) -> Iterable[tuple[str, SceneRequest]]:
        """Every scene with a name of its own, the same in every batch."""
        before = {record.capture: scene for scene, record in self.ledger.scenes.items()}
        taken = {scene: record.capture for scene, record in self.ledger.scenes.items()}
        taken |= {each.scene: each.address for each in wanted if each.scene}
        for each in wanted:
            name = each.scene or before.get(each.address) or scene_of(each.address)
            if not each.scene and taken.setdefault(name, each.address) != each.address:
                # Another capture has that name already.
                name = scene_apart(name, each.address)
            yield name, each

    def row(self, named: tuple[str, SceneRequest]) -> Row:
        """What becomes of one scene, before anything limits how many are run."""
        scene, wanted = named
        row = Row(
            scene=scene,
            capture=wanted.address,
            state=State.RUN,
            photos=wanted.capture.photos if wanted.capture and wanted.capture.counted else None,
            parameters={**self.common, **wanted.parameters},
        )
        try:
            if wanted.problem is not None:
                raise wanted.problem
            asked = self._asked(row)
        except StageError as error:
            return self._refused(row, error)
        if wanted.capture is None:
            return self._refused(row, _nothing_there(wanted.address))
        fingerprint = wanted.capture.fingerprint
        state, outcome = self._judged(row, wanted.capture, asked)
        return row.model_copy(update={"asked": asked, "fingerprint": fingerprint, "state": state, "outcome": outcome})

    def _asked(self, row: Row) -> str:
        """Digest of everything that its run is asked.

        :raises InvalidRequest: when that cannot work.
        """
        return _digest([row.capture, valid_scene(row.scene), self._digest_of(row.parameters)])

    def _digest_of(self, parameters: dict[str, Any]) -> str:
        """The same for what most scenes have in common, looked at once.

        :raises InvalidRequest: for a value that Airflow would refuse when the run is started, or a stage would.
        """
        known = canonical(parameters)
        if known not in self.digests:
            for name, value in parameters.items():
                try:
                    self.form[name].resolve(value)
                except ParamValidationError as error:
                    told = str(error).splitlines()[0]
                    raise InvalidRequest(f"{name} cannot be {value!r}: {told}.", hint="Correct the value.") from None
            anything = {
                "capture": f"{self.profile.captures[0].rstrip('/')}/any",
                "scene": "any",
                "profile": self.request.profile,
            }
            asked = resolved({**self.defaults, **parameters, **anything}, self.profile)
            stages = {name: asked[name] for name in STAGES}
            self.digests[known] = _digest([parameters, stages, self.versions])
        return self.digests[known]

    def _refused(self, row: Row, error: StageError) -> Row:
        outcome = Outcome(run="", state="failed", reason=Reason.of("", error))
        return row.model_copy(update={"state": State.REFUSED, "outcome": outcome})

    def _judged(self, row: Row, capture: Capture, asked: str) -> tuple[State, Outcome | None]:
        record = self.ledger.scenes.get(row.scene)
        if record is not None and record.batch == self.batch:
            return State.of(record.outcome), record.outcome
        if not self.complete.holds(capture, self.at):
            return State.ARRIVING, None
        known = (row.capture, capture.fingerprint, asked)
        if record is None or known != (record.capture, record.fingerprint, record.asked) or self.request.force == "all":
            return State.RUN, None
        if record.outcome.reason is None:
            return State.REUSED, record.outcome
        if record.outcome.reason.may_pass or self.request.force == "failed":
            return State.RUN, None
        return (State.STOPPED if record.outcome.state == "stopped" else State.FAILING), record.outcome

    def page(self, rows: list[Row], page_size: int) -> Plan:
        """As many runs as one page and the limit allow; what never failed goes first, so that all have their turn."""
        rows = list(self._once_each(rows))
        to_run = [row for row in rows if row.state is State.RUN]
        to_run.sort(key=lambda row: row.scene in self.ledger.scenes and self._failed_before(row.scene))
        limit = self.request.limit
        now_run = {row.scene for row in to_run[: page_size if limit is None else min(limit, page_size)]}
        return Plan(
            batch=self.batch,
            request=self.request,
            rows=tuple(self._placed(row, row.scene in now_run) if row.state is State.RUN else row for row in rows),
            limit=None if limit is None else limit - len(now_run),
        )

    def _failed_before(self, scene: str) -> bool:
        return self.ledger.scenes[scene].outcome.reason is not None

    def _once_each(self, rows: list[Row]) -> Iterable[Row]:
        """A scene that two rows of a manifest name is made from the first."""
        seen: set[str] = set()
        for row in rows:
            if row.scene in seen and row.state is not State.REFUSED:
                twice = InvalidRequest(f"Another row is called {row.scene}, too.", hint="Give each scene its own name.")
                row = self._refused(row, twice)
            seen.add(row.scene)
            yield row

    def _placed(self, row: Row, runs_now: bool) -> Row:
        if not runs_now:
            return row.model_copy(update={"state": State.WAITING})
        # Airflow reads a meaning into how an id begins, so the batch's own comes last.
        return row.model_copy(update={"run": f"{row.scene}__{self.run}"})


def _nothing_there(address: str) -> StageError:
    return UnreadableCapture(
        f"There is no capture at {address}.", hint="Check the address, and that the photos were uploaded."
    )


def conf_of(row: Row, profile: str) -> dict[str, Any]:
    """What a scene's run is asked; the batch tells of it, so the run itself does not."""
    return {"capture": row.capture, "scene": row.scene, "profile": profile, "notify": False, **row.parameters}
