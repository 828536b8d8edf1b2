"""A batch as a DAG's tasks: plan, one run of `reconstruct` a scene, report, the next page, the verdict."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from airflow.sdk import Asset, Param, get_current_context, task
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, DagRunTriggerException

from airflow_provider_e2e3d.jobs.retries import batch_retries, retry_policy
from airflow_provider_e2e3d.operators.scene import OUTCOME, ReconstructSceneOperator
from airflow_provider_e2e3d.pipelines.batch.notifier import BatchEnded
from airflow_provider_e2e3d.pipelines.batch.plan import (
    NEXT_TASK,
    OWN_TASKS,
    PLAN_TASK,
    REPORT_TASK,
    SCENES_TASK,
    BatchFolder,
    BatchRequest,
    conf_of,
    plan_batch,
)
from airflow_provider_e2e3d.pipelines.batch.report import ended, failed_scenes, recorded, write_report
from airflow_provider_e2e3d.pipelines.form import reconstruction_params
from airflow_provider_e2e3d.pipelines.reconstruct import refuse_unknown
from airflow_provider_e2e3d.profiles.file import profile_named
from airflow_provider_e2e3d.profiles.profile import Profile
from airflow_provider_e2e3d.scenes.outcome import Outcome, outcome_of, report_failures
from e2e3d_stages.contract.messages import InvalidRequest
from e2e3d_stages.store.base import Storage
from e2e3d_stages.store.opening import open_storage

log = logging.getLogger(__name__)

DAG_ID = "reconstruct_batch"
# An event for every batch that ended, with its counts.
BATCH_ENDED = Asset(name="e2e3d_batch")


def batch_schedule() -> str | None:
    """When batches start by themselves: `[e2e3d] batch_schedule`, a cron expression.

    :raises InvalidRequest: when nobody says which captures.
    """
    schedule = conf.get("e2e3d", "batch_schedule", fallback="")
    if schedule and not _configured_captures():
        raise InvalidRequest("[e2e3d] batch_schedule needs captures.", hint="Set [e2e3d] batch_captures, too.")
    return schedule or None


def _configured_captures() -> str:
    return str(conf.get("e2e3d", "batch_captures", fallback=""))


def batch_params() -> dict[str, Param]:
    """The trigger form of a batch."""
    form = reconstruction_params()
    return {
        "captures": _captures_param(),
        "profile": form["profile"],
        "preset": form["preset"],
        "parameters": Param(
            {},
            type="object",
            title="Parameters of every scene",
            description='As in a run of `reconstruct`: {"train_iterations": 5000}. A manifest\'s row goes before.',
        ),
        "force": Param(
            "none",
            type="string",
            enum=["none", "failed", "all"],
            values_display={
                "none": "new and changed scenes only",
                "failed": "also those that failed before",
                "all": "also those that are there",
            },
            title="Run again",
            description="Unchanged scenes are told from the last batch and not run, except for a store, a network or "
            "a machine that failed.",
        ),
        "limit": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            title="Limit",
            description="Most scenes that this batch starts, at least 1; the others wait for the next. Empty: all.",
        ),
        "marker": Param(
            None,
            type=["null", "string"],
            title="Marker",
            description="Name of a file that an uploader writes last. Empty: nothing came for a while.",
            section="When a capture is complete",
        ),
        "quiet_seconds": Param(
            60,
            type="number",
            minimum=0,
            title="Quiet seconds",
            description="Seconds in which nothing came, where there is no marker. At least 0.",
            section="When a capture is complete",
        ),
        "min_photos": Param(
            0,
            type="integer",
            minimum=0,
            title="Least photos",
            description="A folder with fewer photos is still arriving. At least 0.",
            section="When a capture is complete",
        ),
        "continues": Param(
            None,
            type=["null", "string"],
            title="Continues",
            description="Run of this DAG whose scenes count as done. Filled in where a batch has several pages.",
            section="Pages",
        ),
    }


def _captures_param() -> Param:
    """Where the captures are; asked for where no configuration says it."""
    schema: dict[str, Any] = {
        "type": "string",
        "minLength": 1,
        "title": "Captures",
        "description": "A folder or an s3:// prefix with one folder or zip a scene; or a manifest, a .csv or .json "
        "file with the columns `capture`, `scene` and any parameter of a scene's run.",
    }
    configured = _configured_captures()
    return Param(configured, **schema) if configured else Param(**schema)


def _request() -> BatchRequest:
    """What the run is asked.

    :raises InvalidRequest: for a name that is no Param.
    """
    context = get_current_context()
    # The context's params hold whatever the conf named, too.
    refuse_unknown(context["dag_run"].conf or {}, batch_params())
    return BatchRequest.model_validate(dict(context["params"]))


def _opener(profile: Profile) -> Callable[[str], Storage]:
    """Opens places with the profile's credentials, which are asked for once."""
    environment = cache(profile.environment)
    return lambda uri: open_storage(uri, environment())


def _folder(request: BatchRequest, profile: Profile) -> BatchFolder:
    return BatchFolder(_opener(profile)(profile.store), profile.admit(request.captures, or_root=True))


@task(task_id=PLAN_TASK, task_display_name="List the captures", retry_policy=retry_policy(), **batch_retries())
def plan_task() -> list[dict[str, Any]]:
    """Decide what becomes of every scene; the runs to start."""
    context = get_current_context()
    run = context["dag_run"].run_id
    with report_failures(context, PLAN_TASK):
        request = _request()
        profile = profile_named(request.profile)
        folder = _folder(request, profile)
        page_size = conf.getint("core", "max_map_length", fallback=1024)
        plan = plan_batch(request, run, profile, folder.ledger(), _opener(profile), page_size=page_size)
        folder.write_plan(run, plan)
    log.info("%d scenes: %s", len(plan.rows), plan.counts)
    return [{"run_id": row.run, "conf": conf_of(row, request.profile)} for row in plan.started]


@task(
    task_id=REPORT_TASK,
    task_display_name="Write the batch's page",
    trigger_rule="all_done",
    outlets=[BATCH_ENDED],
    retry_policy=retry_policy(),
    **batch_retries(),
)
def report_task() -> dict[str, Any]:
    """Tell what became of every scene."""
    context = get_current_context()
    ti, run = context["ti"], context["dag_run"].run_id
    with report_failures(context, REPORT_TASK):
        request = _request()
        profile = profile_named(request.profile)
        folder = _folder(request, profile)
        plan = folder.plan(run)
        left = ti.xcom_pull(task_ids=[SCENES_TASK], key=OUTCOME)
        outcomes = {told["run"]: Outcome.model_validate(told) for told in left if told}
        result = ended(plan, outcomes, lambda scene_run: outcome_of(context, scene_run))
        folder.write_ledger(recorded(folder.ledger(), plan.started, result))
        root = profile.address(profile.store.rstrip("/"))
        page = write_report(folder, run, result, lambda address: address.replace(f"{root}/", "../../../", 1))
    page = profile.address(page)
    told: dict[str, Any] = {"page": page, "counts": result.counts, "failed": failed_scenes(result)}
    log.info("%d scenes: %s", len(result.rows), result.counts)
    log.info("The batch's page is at %s", page)
    context["outlet_events"][BATCH_ENDED].extra = {**told, "run": run}
    return told


@task(task_id=NEXT_TASK, task_display_name="Go on with the next page", **batch_retries())
def next_page_task() -> None:
    """One run starts no more scenes than `[core] max_map_length`; another one goes on."""
    run = get_current_context()["dag_run"].run_id
    request = _request()
    plan = _folder(request, profile_named(request.profile)).plan(run)
    if not plan.goes_on:
        raise AirflowSkipException("This is the last page.")
    page_before = re.match(r"page-(\d+)__", run)
    number = int(page_before[1]) + 1 if page_before else 2
    raise DagRunTriggerException(
        trigger_dag_id=DAG_ID,
        dag_run_id=f"page-{number}__{plan.batch}",
        conf={**request.model_dump(), "limit": plan.limit, "continues": plan.batch},
        reset_dag_run=False,
        skip_when_already_exists=True,
        wait_for_completion=False,
        allowed_states=[],
        failed_states=[],
        poke_interval=0,
        deferrable=False,
    )


@task(
    task_id="judge",
    task_display_name="Judge the batch",
    trigger_rule="all_done",
    on_success_callback=BatchEnded("succeeded"),
    on_failure_callback=BatchEnded("failed"),
    **batch_retries(),
)
def judge_task() -> None:
    """The batch is as good as its scenes, and no better than its own tasks."""
    context = get_current_context()
    ti, run = context["ti"], context["dag_run"].run_id
    states = ti.get_task_states(dag_id=DAG_ID, run_ids=[run]).get(run, {})
    broken = [name for name in OWN_TASKS if states.get(name) in ("failed", "upstream_failed")]
    if broken:
        raise AirflowFailException(f"The batch itself went wrong: see the log of its task {broken[0]}.")
    told = ti.xcom_pull(task_ids=REPORT_TASK, map_indexes=-1)
    failed = told["failed"]
    if failed:
        names = ", ".join(failed[:20]) + (", …" if len(failed) > 20 else "")
        raise AirflowFailException(f"{len(failed)} scenes failed: {names}. See {told['page']}")


def reconstruct_captures() -> None:
    """The tasks of one batch, inside a DAG with `batch_params`."""
    runs: Any = plan_task()
    scenes = ReconstructSceneOperator.partial(
        task_id=SCENES_TASK,
        task_display_name="Reconstruct a scene",
        map_index_template="{{ task.conf['scene'] }}",
        # One that waits asks every few seconds; more than can run would ask for nothing.
        max_active_tis_per_dagrun=conf.getint("core", "max_active_runs_per_dag", fallback=16),
        **batch_retries(),
    ).expand_kwargs(runs)
    scenes >> report_task() >> next_page_task() >> judge_task()
