"""A DAG run and its tasks as the tabs show them: states from Airflow's database, the rest from the store."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

from airflow.models.dagrun import DagRun
from airflow.models.task_state_store import TaskStateStoreModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from pydantic import ValidationError
from sqlalchemy import Text, and_, cast, func, or_, select
from sqlalchemy.orm import Session

from airflow_provider_e2e3d.operators.stage import ARTIFACT
from airflow_provider_e2e3d.scenes.outcome import DAG_ID, FAILURE, FOLDER, STOPPED
from airflow_provider_e2e3d.ui.gallery import run_record, scene_asked
from airflow_provider_e2e3d.ui.stores import ProfileStore, refuse_link, side_by_side, store_of
from e2e3d_stages.contract.messages import Manifest, StageError
from e2e3d_stages.registry import STAGES
from e2e3d_stages.store.base import NotFound

RESULT, PLAN = "return_value", "plan"
# Letters of what a task may have told: references and reasons have a few thousand.
MOST_TOLD = 200_000
# What a task of these was to make, before it says so.
_OPERATORS = {f"{stage.capitalize()}Operator": stage for stage in STAGES}
_DONE = {"success", "failed", "upstream_failed", "skipped", "removed"}
# A file that a manifest lists is worth a line; more are counted.
MOST_FILES = 200


@dataclass
class Task:
    """A task instance with what it left for others.

    :param artifact: profile, stage, key and attempt, as `StageOperator` remembers them.
    :param told: its XComs by key.
    """

    task_id: str
    map_index: int
    name: str
    state: str | None
    try_number: int
    started: str | None
    ended: str | None
    operator: str | None
    artifact: dict[str, Any] | None = None
    told: dict[str, Any] = field(default_factory=dict)

    @property
    def stage(self) -> str | None:
        """Which stage it makes, if any."""
        if self.artifact:
            return str(self.artifact["stage"])
        return _OPERATORS.get(self.operator or "")


@dataclass
class Run:
    """A DAG run."""

    dag_id: str
    run_id: str
    state: str
    started: str | None
    ended: str | None
    conf: dict[str, Any]
    tasks: list[Task]

    @property
    def ours(self) -> bool:
        """Whether stages are among its tasks."""
        return self.dag_id == DAG_ID or any(task.stage for task in self.tasks)


def read_run(dag_id: str, run_id: str, task_id: str | None = None) -> Run:
    """A run with its tasks, by indexes at every step; what tasks told only of a run with stages, and only of ours.

    :param task_id: only this task of it.
    :raises NotFound: when there is none.
    """
    ti, kept = TaskInstance, TaskStateStoreModel
    # A hybrid property, of which mypy knows only what an instance has.
    display_name: Any = ti.task_display_name
    same_run = and_(ti.dag_id == DagRun.dag_id, ti.run_id == DagRun.run_id)
    if task_id is not None:
        same_run = and_(same_run, ti.task_id == task_id)
    remembered = and_(
        kept.dag_run_id == DagRun.id,
        kept.task_id == ti.task_id,
        kept.map_index == ti.map_index,
        kept.key == ARTIFACT,
    )
    query = (
        select(
            DagRun.id, DagRun.state, DagRun.start_date, DagRun.end_date, DagRun.conf,
            ti.task_id, ti.map_index, display_name, ti.state, ti.try_number,
            ti.start_date, ti.end_date, ti.operator, kept.value,
        )
        .select_from(DagRun)
        .outerjoin(ti, same_run)
        .outerjoin(kept, remembered)
        .where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
    )  # fmt: skip
    with create_session(scoped=False) as session:
        rows = session.execute(query).all()
        if not rows:
            raise NotFound(f"There is no run {run_id} of {dag_id}.")
        number, state, started, ended, conf = rows[0][:5]
        tasks = [
            Task(task, index, name or task, state, tries, _iso(started), _iso(ended), operator, _artifact_of(artifact))
            for _, _, _, _, _, task, index, name, state, tries, started, ended, operator, artifact in rows
            if task is not None
        ]
        found = Run(dag_id, run_id, str(state), _iso(started), _iso(ended), conf or {}, tasks)
        if found.ours:
            _add_told(session, number, found.tasks)
    return found


def _add_told(session: Session, run: int, tasks: list[Task]) -> None:
    """What tasks told: of any task why it failed or stopped the run, of stages and of the plan what they returned."""
    by_place = {(task.task_id, task.map_index): task for task in tasks}
    returned = {task.task_id for task in tasks if task.stage} | {PLAN}
    told = XComModel
    query = select(told.task_id, told.map_index, told.key, told.value).where(
        told.dag_run_id == run,
        told.task_id.in_({task.task_id for task in tasks}),
        or_(told.key.in_((FAILURE, FOLDER, STOPPED)), and_(told.key == RESULT, told.task_id.in_(returned))),
        # Of the site's own operators some return whole tables.
        func.length(cast(told.value, Text)) <= MOST_TOLD,
    )
    for task_id, index, key, value in session.execute(query):
        if task := by_place.get((task_id, index)):
            task.told[key] = value


def _iso(moment: Any) -> str | None:
    return moment.isoformat() if moment is not None else None


def _artifact_of(value: str | None) -> dict[str, Any] | None:
    """What a task remembered; None where a state store of the site's own keeps it elsewhere."""
    with suppress(ValueError, TypeError):
        found = json.loads(value or "")
        if isinstance(found, dict) and {"profile", "stage", "key"} <= set(found) and found["stage"] in STAGES:
            return found
    return None


@lru_cache(512)
def _manifest(source: ProfileStore, stage: str, key: str) -> Manifest:
    """A manifest never changes, so it is read once.

    :raises NotFound: while there is none; that is asked again.
    """
    found = source.store.manifest(stage, key)
    if found is None:
        raise NotFound(key)
    return found


def manifest_of(source: ProfileStore, stage: str, key: str) -> Manifest | None:
    """A stage's manifest, or None while there is none or after it was removed."""
    try:
        return _manifest(source, stage, key)
    except NotFound:
        return None


def run_view(run: Run) -> dict[str, Any]:
    """Everything that the *Scene* tab shows."""
    stages = sorted((task for task in run.tasks if task.stage), key=_order)
    views = side_by_side(*(partial(_stage_view, task) for task in stages))
    planned = next((task.told[RESULT] for task in run.tasks if task.task_id == PLAN and RESULT in task.told), None)
    plan: dict[str, Any] = planned if isinstance(planned, dict) else {}
    failed = [task for task in run.tasks if task.state == "failed"]
    return {
        "ours": run.ours,
        "dag_id": run.dag_id,
        "run_id": run.run_id,
        "state": run.state,
        "started": run.started,
        "ended": run.ended,
        "conf": run.conf,
        "scene": plan.get("scene") or scene_asked(run.conf),
        "estimate": plan.get("estimate"),
        "stages": views,
        "failures": [_reason(task) for task in failed],
        # What waits for a person, in whichever task.
        "questions": [
            {"task_id": task.task_id, "name": task.name} for task in run.tasks if task.state == "awaiting_input"
        ],
        "stopped": next((_reason(task, STOPPED) for task in run.tasks if STOPPED in task.told), None),
        "training": next(filter(None, map(_training, stages)), None),
        "result": _result(run.tasks),
    }


def _order(task: Task) -> tuple[int, str, int]:
    return list(STAGES).index(str(task.stage)), task.task_id, task.map_index


def _stage_view(task: Task) -> dict[str, Any]:
    told = task.told.get(RESULT)
    view: dict[str, Any] = {
        "task_id": task.task_id,
        "map_index": task.map_index,
        "name": task.name,
        "stage": task.stage,
        "state": task.state,
        "try_number": task.try_number,
        "started": task.started,
        "ended": task.ended,
        "reused": bool(isinstance(told, dict) and told.get("reused")),
        "failure": _reason(task) if FAILURE in task.told or task.state == "failed" else None,
        "progress": None,
        "problem": "",
    }
    if task.artifact is None or task.state in ("upstream_failed", "skipped", "removed", None):
        return view
    try:
        return {**view, **_stored(task)}
    except (StageError, NotFound, ValidationError) as error:
        # The store is away, or another version's: what Airflow knows is shown all the same.
        return {**view, "problem": str(error)}


def _stored(task: Task) -> dict[str, Any]:
    """What the store tells of a stage: its figures when it is done, how far it is before."""
    assert task.artifact is not None
    source, stage, key = store_of(task.artifact["profile"]), task.artifact["stage"], task.artifact["key"]
    manifest = manifest_of(source, stage, key) if task.state in _DONE else None
    if manifest is not None:
        return {
            "seconds": manifest.usage.wall_seconds,
            "result": STAGES[stage].result_text(_metrics(source, manifest)) if stage in STAGES else "",
            "size": manifest.total_bytes,
            "warnings": [warning.model_dump() for warning in manifest.warnings],
        }
    attempt = task.artifact["attempt"] or source.store.last_attempt(stage, key)
    if not attempt or task.state in _DONE:
        return {}
    progress = source.store.progress(stage, key, attempt)
    return {
        "attempt": attempt,
        "waits_for_another": task.artifact["attempt"] is None,
        "progress": progress and progress.model_dump(mode="json"),
    }


def _metrics(source: ProfileStore, manifest: Manifest) -> dict[str, Any]:
    """An artifact's metrics and its inputs', by stage."""
    inputs = {name: manifest_of(source, name, each.key) for name, each in manifest.inputs.items()}
    return {manifest.stage: manifest.metrics} | {name: made.metrics for name, made in inputs.items() if made}


def _reason(task: Task, key: str = FAILURE) -> dict[str, Any]:
    """Why a task failed, or stopped the run, as it told; what to do where it told nothing."""
    told = task.told.get(key)
    word = told if isinstance(told, dict) else {}
    return {
        "task_id": task.task_id,
        "map_index": task.map_index,
        "name": task.name,
        "code": word.get("code", "unknown"),
        "message": word.get("message", "It stopped, and told no reason."),
        "hint": word.get("hint", "" if word else "Open the task's log: its last lines say more. Then clear the task."),
    }


def _training(task: Task) -> dict[str, Any] | None:
    """How training goes: its curve, and a mark of its newest preview."""
    if task.stage != "train" or task.artifact is None or task.state is None:
        return None
    try:
        source, folder = _attempt_folder(task)
        curve, preview = side_by_side(partial(_curve, source, folder), partial(_tag, source, f"{folder}/preview.jpg"))
    except (StageError, NotFound, ValueError):
        return None
    if not curve and not preview:
        return None
    return {"task_id": task.task_id, "map_index": task.map_index, "curve": curve, "preview": preview}


def _attempt_folder(task: Task) -> tuple[ProfileStore, str]:
    if task.artifact is None:
        raise NotFound(f"{task.task_id} has no artifact.")
    source, stage, key = store_of(task.artifact["profile"]), task.artifact["stage"], task.artifact["key"]
    attempt = task.artifact["attempt"] or source.store.last_attempt(stage, key)
    return source, source.store.attempt_folder(stage, key, attempt)


def _curve(source: ProfileStore, folder: str) -> list[dict[str, Any]]:
    with suppress(NotFound, ValueError):
        found: list[dict[str, Any]] = json.loads(source.store.storage.read(f"{folder}/curve.json"))
        return found
    return []


def _tag(source: ProfileStore, path: str) -> str | None:
    refuse_link(source.store, path)
    entry = next(iter(source.store.storage.list(path)), None)
    return entry.tag if entry and entry.path == path else None


def preview_path(run: Run, map_index: int) -> tuple[ProfileStore, str]:
    """Where the newest preview of a training is.

    :raises NotFound: when the task has none.
    """
    for task in run.tasks:
        if task.map_index == map_index:
            source, folder = _attempt_folder(task)
            return source, f"{folder}/preview.jpg"
    raise NotFound("There is no such task.")


def _result(tasks: list[Task]) -> dict[str, Any] | None:
    """The record of what the run laid out for people."""
    for task in tasks:
        folder = task.told.get(FOLDER)
        if task.state == "success" and isinstance(folder, str) and task.artifact is not None:
            _, scene, run = folder.split("/")
            with suppress(NotFound, StageError):
                return run_record(store_of(task.artifact["profile"]), scene, run)
    return None


def task_view(run: Run, task_id: str, map_index: int) -> dict[str, Any]:
    """Everything that the *Artifact* tab shows.

    :raises NotFound: when the run has no such task.
    """
    task = next((each for each in run.tasks if (each.task_id, each.map_index) == (task_id, map_index)), None)
    if task is None:
        raise NotFound(f"There is no task {task_id} in this run.")
    view = {**_stage_view(task), "ours": task.stage is not None, "dag_id": run.dag_id, "run_id": run.run_id}
    if task.artifact is None or view["problem"]:
        return view
    return {**view, **_artifact_view(task.artifact)}


def _artifact_view(artifact: dict[str, Any]) -> dict[str, Any]:
    """What an artifact is made of, and every attempt at it."""
    source, stage, key = store_of(artifact["profile"]), artifact["stage"], artifact["key"]
    store = source.store
    last = store.last_attempt(stage, key)
    manifest = manifest_of(source, stage, key)
    attempts = side_by_side(*(partial(_attempt, source, stage, key, number) for number in range(1, last + 1)))
    request = store.read_request(f"{store.attempt_folder(stage, key, last)}/request.json") if last else None
    asked = manifest or request
    inputs = asked.inputs if asked else {}
    return {
        "artifact": {**artifact, "uri": store.storage.uri_of(store.folder(stage, key))},
        "capture": asked.capture if asked else None,
        "params": asked.params if asked else None,
        "degraded_from": asked.degraded_from if asked else None,
        "inputs": side_by_side(*(partial(_input, source, name, each.key) for name, each in inputs.items())),
        "written": manifest and _written(source, manifest),
        "attempts": attempts,
    }


def _attempt(source: ProfileStore, stage: str, key: str, number: int) -> dict[str, Any]:
    claim = source.store.read_claim(stage, key, number)
    failure, job = source.store.failure(stage, key, number), source.store.job(stage, key, number)
    return {
        "attempt": number,
        "owner": claim.owner if claim else None,
        "claimed": claim and claim.claimed.isoformat(),
        "failure": failure and failure.model_dump(mode="json", include={"code", "message", "hint"}),
        "job": job and job.model_dump(mode="json", exclude={"handle"}),
    }


def _input(source: ProfileStore, stage: str, key: str) -> dict[str, Any]:
    manifest = manifest_of(source, stage, key)
    return {
        "stage": stage,
        "key": key,
        "files": len(manifest.files) if manifest else None,
        "size": manifest.total_bytes if manifest else None,
    }


def _written(source: ProfileStore, manifest: Manifest) -> dict[str, Any]:
    claim = source.store.read_claim(manifest.stage, manifest.key, manifest.attempt)
    return {
        "attempt": manifest.attempt,
        "by": claim.owner if claim else None,
        "size": manifest.total_bytes,
        "count": len(manifest.files),
        "files": [{"path": file.path, "size": file.size} for file in manifest.files[:MOST_FILES]],
        "usage": manifest.usage.model_dump(mode="json"),
        "program": manifest.program.model_dump(mode="json", include={"version", "image", "platform", "python"}),
    }
