"""The whole way from photos to a page, as the tasks of the DAG `reconstruct`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches
from typing import Any

from airflow.sdk import get_current_context, task
from airflow.sdk.configuration import conf

from airflow_provider_e2e3d import metrics
from airflow_provider_e2e3d.costs.budget import reserve
from airflow_provider_e2e3d.costs.estimate import estimate
from airflow_provider_e2e3d.costs.history import remembered
from airflow_provider_e2e3d.jobs.retries import stage_retries
from airflow_provider_e2e3d.notifications.notifiers import SceneFailed, SceneSucceeded, SceneWaits
from airflow_provider_e2e3d.operators.approval import ApproveTrainingOperator
from airflow_provider_e2e3d.operators.reconstruction import (
    CompressOperator,
    CropOperator,
    EvaluateOperator,
    ExportOperator,
    IngestOperator,
    MeshOperator,
    PublishOperator,
    RenderOperator,
    SfmOperator,
    TrainOperator,
)
from airflow_provider_e2e3d.pipelines.form import reconstruction_params
from airflow_provider_e2e3d.profiles.file import profile_named
from airflow_provider_e2e3d.profiles.profile import Profile
from airflow_provider_e2e3d.scenes.names import folder_of, scene_of, title_of, valid_scene
from airflow_provider_e2e3d.scenes.outcome import report_failures
from e2e3d_stages.contract.messages import InvalidRequest
from e2e3d_stages.registry import STAGES


def plan(values: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """What each stage will be asked, or a refusal before anything is read or spent.

    :param values: every Param's value.
    :param asked: the names that the run's conf used; unknown ones are refused.
    :returns: capture, scene, profile, preset, force, and each stage's parameters under its name.
    :raises InvalidRequest: when it cannot work.
    """
    refuse_unknown(asked, reconstruction_params())
    return resolved(values, profile_named(values["profile"]))


def refuse_unknown(asked: Iterable[str], known: Collection[str]) -> None:
    """Names that no Param has would change nothing.

    :raises InvalidRequest: naming them.
    """
    unknown = sorted(set(asked) - set(known))
    if unknown:
        near = [name for wrong in unknown for name in get_close_matches(wrong, known, n=1)]
        raise InvalidRequest(
            f"There is no parameter {', '.join(map(repr, unknown))}.",
            hint=f"Did you mean {', '.join(near)}?" if near else f"The run knows: {', '.join(known)}.",
        )


def resolved(values: dict[str, Any], profile: Profile) -> dict[str, Any]:
    """`plan` for values whose names are known, in a profile that is at hand."""
    capture = profile.admit(values["capture"])
    scene = valid_scene(values["scene"] or scene_of(capture))
    preset = values["preset"] or profile.preset
    plan = {"capture": capture, "scene": scene, "profile": values["profile"], "preset": preset}
    plan["force"] = values["force"] or []
    for stage in STAGES.values():
        prefix = f"{stage.name}_"
        given = {name[len(prefix) :]: value for name, value in values.items() if name.startswith(prefix)}
        overrides = {name: value for name, value in given.items() if value is not None}
        if stage.name == "publish":
            overrides["title"] = title_of(scene, capture)
        plan[stage.name] = stage.resolve(preset, overrides).model_dump(mode="json")
    return plan


def estimate_run(
    plan: dict[str, Any], run: str, max_cost: float | None, write_line: Callable[[str], object]
) -> dict[str, Any] | None:
    """Tell and store what a run will take and cost; None where its capture cannot be looked at, as ingest will tell.

    :param plan: what `plan` returned.
    :param run: the run's name.
    :param max_cost: in US dollars; None is no limit.
    :param write_line: writes to the log.
    :raises InvalidRequest: when it may cost more, or more than the profile's owner allows, or that is not known.
    """
    profile = profile_named(plan["profile"])
    limits = {"max_cost": max_cost, **profile.budgets(plan["profile"])}
    limited = any(limit is not None for limit in limits.values())
    try:
        capture, storage = profile.open_capture(plan["capture"]), profile.open_store().storage
        found = estimate(capture, profile, plan, remembered(storage, plan["profile"]))
        # A run of the same id, of another Airflow, may have the folder: it keeps its own.
        storage.create(f"{folder_of(plan['scene'], run)}/estimate.json", found.model_dump_json(indent=1).encode())
    except Exception as error:  # nobody needs an estimate to reconstruct a scene
        if limited:
            raise
        write_line(f"There is no estimate: {error}")
        return None
    for line in str(found).splitlines():
        write_line(line)
    for whose, limit in limits.items():
        if limit is not None:
            found.check(limit, whose=whose)
    if profile.max_cost_per_day is not None and found.price is not None:
        reserve(storage, plan["profile"], f"{plan['scene']}/{run}", found.price, profile.max_cost_per_day)
    return found.model_dump(mode="json")


@task(
    task_id="plan",
    task_display_name="Check the request",
    multiple_outputs=True,
    **stage_retries(),
    on_failure_callback=SceneFailed(),
)
def plan_task() -> dict[str, Any]:
    """Check everything that was asked, and tell what it will take, before anything is spent."""
    context = get_current_context()
    values, run = dict(context["params"]), context["dag_run"]
    metrics.begin_run()
    with report_failures(context, "plan"):
        request = plan(values, run.conf or {})
        return {**request, "estimate": estimate_run(request, run.run_id, values["max_cost"], context["task"].log.info)}


def reconstruct_capture() -> PublishOperator:
    """The tasks of one reconstruction, inside a DAG with `reconstruction_params`; returns the last."""
    request: Any = plan_task()
    cpu, gpu = (conf.get("e2e3d", f"{kind}_pool", fallback="default_pool") for kind in ("cpu", "gpu"))

    def asked(stage: str, pool: str = cpu) -> dict[str, Any]:
        return {
            "parameters": request[stage],
            "profile": request["profile"],
            "force": request["force"],
            "pool": pool,
            "on_failure_callback": SceneFailed(),
        }

    ingest = IngestOperator(capture=request["capture"], **asked("ingest"))
    sfm = SfmOperator(
        ingest=ingest.output,
        min_placed_share="{{ params.min_placed_share }}",
        min_placed_photos="{{ params.min_placed_photos }}",
        min_points_per_photo="{{ params.min_points_per_photo }}",
        **asked("sfm"),
    )
    approve = ApproveTrainingOperator(
        ingest=ingest.output,
        sfm=sfm.output,
        plan=request,
        ask_above="{{ params.ask_above or '' }}",
        notifiers=SceneWaits(),
        on_failure_callback=SceneFailed(),
    )
    train = TrainOperator(sfm=sfm.output, approval=approve.output, **asked("train", pool=gpu))
    crop = CropOperator(sfm=sfm.output, train=train.output, **asked("crop"))
    compress = CompressOperator(train=train.output, crop=crop.output, **asked("compress"))
    scene = {"sfm": sfm.output, "train": train.output, "crop": crop.output}
    evaluate = EvaluateOperator(compress=compress.output, **scene, **asked("evaluate", pool=gpu))
    mesh = MeshOperator(**scene, **asked("mesh"))
    render = RenderOperator(**scene, **asked("render", pool=gpu))
    export = ExportOperator(**scene, **asked("export"))
    return PublishOperator(
        scene=request["scene"],
        preset=request["preset"],
        ingest=ingest.output,
        **scene,
        compress=compress.output,
        evaluate=evaluate.output,
        mesh=mesh.output,
        render=render.output,
        export=export.output,
        approval=approve.output,
        on_success_callback=SceneSucceeded(),
        **asked("publish"),
    )
