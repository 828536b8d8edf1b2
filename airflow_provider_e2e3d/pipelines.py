"""The whole way from photos to a page, as a DAG's tasks; and the form that asks for its parameters."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from airflow.sdk import Param, get_current_context, task
from airflow.sdk.configuration import conf

from airflow_provider_e2e3d.captures import SLUG, scene_of
from airflow_provider_e2e3d.estimate import estimate
from airflow_provider_e2e3d.exceptions import retry_policy
from airflow_provider_e2e3d.history import remembered
from airflow_provider_e2e3d.hooks.store import StoreHook
from airflow_provider_e2e3d.notifications import SceneFailed, SceneSucceeded
from airflow_provider_e2e3d.operators.reconstruction import (
    CompressOperator,
    EvaluateOperator,
    IngestOperator,
    PublishOperator,
    SfmOperator,
    TrainOperator,
)
from airflow_provider_e2e3d.outcome import telling
from airflow_provider_e2e3d.profiles import Profile, load_profiles, profile_named
from e2e3d_stages.contract import InvalidRequest, UnreadableCapture
from e2e3d_stages.presets import PRESETS, STAGES, Stage
from e2e3d_stages.publish.layout import folder_of
from e2e3d_stages.storage import NotFound, open_storage

SECTIONS = {
    "ingest": "Photos (ingest)",
    "sfm": "Camera poses (sfm)",
    "train": "Training (train)",
    "compress": "Compression (compress)",
    "evaluate": "Evaluation (evaluate)",
    "publish": "Page (publish)",
}
_GATE = "Quality gate after sfm"
_GATE_HELP = "Below this the run fails before training."
_AROUND = "Reuse, cost and notification"
# The parts of a JSON schema that a form knows.
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "pattern", "minLength", "maxLength", "items")
# What the pipeline itself fills in, and so is no question.
_FILLED = {("publish", "title")}


def reconstruction_params() -> dict[str, Param]:
    """The trigger form: what is asked of everybody first, then each stage's own parameters, made from its schema.

    Airflow's form sends null for a field that was emptied, and lets nobody press Trigger while one that may not be null
    is empty: so every field but the capture may be, or has no way to be emptied.
    """
    profiles = list(load_profiles())
    form = {
        "capture": Param(
            type="string",
            minLength=1,
            title="Capture",
            description="Where the photos are: s3://bucket/prefix, a folder or one zip, in a place the profile allows.",
        ),
        "scene": Param(
            None,
            type=["null", "string"],
            pattern=f"^{SLUG}$",
            title="Scene",
            description="Name of the scene: small letters, digits and dashes. Empty: the name of the capture's folder.",
        ),
        "preset": Param(
            None,
            type=["null", "string"],
            enum=[*PRESETS, None],
            values_display={"null": "as the profile says"},
            title="Preset",
            description="draft: minutes on two CPU cores. standard: a GPU. high: a GPU and patience. "
            "Empty: what the profile says.",
        ),
        "profile": Param(
            profiles[0], type="string", enum=profiles, title="Profile", description="Where the stages run."
        ),
        "force": Param(
            None,
            type=["null", "array"],
            items={"type": "string", "enum": list(STAGES)},
            examples=list(STAGES),
            title="Make anew",
            description="Stages to run although their artifacts are there; the stages after them follow. "
            "Empty: whatever is there is reused.",
            section=_AROUND,
        ),
        "max_cost": Param(
            None,
            type=["null", "number"],
            minimum=0,
            title="Most it may cost",
            description="US dollars, 0 or more: a run that may cost more by the profile's prices is refused before it "
            "begins. Empty: no limit.",
            section=_AROUND,
        ),
        "notify": Param(
            True,
            type="boolean",
            title="Tell when it ends",
            description="Send word of the scene, or of why there is none, to where this Airflow's [e2e3d] notify_… "
            "options say; to nobody while they are empty.",
            section=_AROUND,
        ),
        "min_registered_share": _gate(
            0.5, 1.0, "Least share of photos placed", f"Share of all photos, 1 is all of them. {_GATE_HELP}"
        ),
        "min_photos": _gate(5, 10_000, "Least photos placed", f"Number of photos. {_GATE_HELP}"),
        "min_points_per_photo": _gate(
            100, 10_000, "Least points a photo", f"Points that a placed photo sees, in the median. {_GATE_HELP}"
        ),
    }
    for stage in STAGES.values():
        form |= _stage_params(stage)
    return form


def _gate(default: float, maximum: float, title: str, description: str) -> Param:
    kind = "number" if isinstance(default, float) else "integer"
    schema: dict[str, Any] = {"type": kind, "minimum": 0, "maximum": maximum}
    return Param(default, **schema, title=title, description=f"{description} {_limits(schema)}", section=_GATE)


def _stage_params(stage: Stage) -> dict[str, Param]:
    """A stage's parameters as Params named `<stage>_<name>`; empty means the preset's value."""
    fields = stage.params.model_json_schema().get("properties", {})
    presets = {preset: stage.resolve(preset, {}).model_dump(mode="json") for preset in PRESETS}
    return {
        f"{stage.name}_{name}": _stage_param(stage, field, {preset: presets[preset][name] for preset in PRESETS})
        for name, field in fields.items()
        if (stage.name, name) not in _FILLED
    }


def _stage_param(stage: Stage, field: dict[str, Any], values: dict[str, Any]) -> Param:
    """One parameter.

    :param field: its JSON schema.
    :param values: by preset.
    """
    shown = {"title": field["title"], "section": SECTIONS[stage.name]}
    if field["type"] == "boolean":
        # A switch is on or off, never empty: Airflow's form shows null as off.
        (value,) = set(values.values())
        return Param(value, type="boolean", description=field["description"], **shown)
    schema = _nullable(field)
    told = (field["description"], _limits(schema), _usual(values))
    return Param(None, **schema, description=" ".join(filter(None, told)), **shown)


def _limits(schema: Mapping[str, Any]) -> str:
    """A sentence with a number's limits."""
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None:
        return f"From {_number(least)} to {_number(most)}."
    parts = {
        "at least": least,
        "above": schema.get("exclusiveMinimum"),
        "at most": most,
        "below": schema.get("exclusiveMaximum"),
    }
    told = " and ".join(f"{word} {_number(limit)}" for word, limit in parts.items() if limit is not None)
    return f"{told.capitalize()}." if told else ""


def _usual(values: Mapping[str, Any]) -> str:
    """A sentence with what the presets say."""
    told = {preset: _number(value) for preset, value in values.items() if value != ""}
    if len(set(told.values())) > 1:
        return f"Empty: {', '.join(f'{preset} {value}' for preset, value in told.items())}."
    return f"Empty: {next(iter(told.values()))}." if told else ""


def _number(value: Any) -> str:
    """A number as people write it; anything else as it is."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else str(value)


def _nullable(field: dict[str, Any]) -> dict[str, Any]:
    """A pydantic field's JSON schema for a form in which it may stay empty."""
    limits = {key: value for key, value in field.items() if key in _LIMITS}
    if "enum" in field:
        limits |= {"enum": [*field["enum"], None], "values_display": {"null": "as the preset says"}}
    return {"type": ["null", field["type"]], **limits}


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
            overrides["title"] = scene
        plan[stage.name] = stage.resolve(preset, overrides).model_dump(mode="json")
    return plan


def valid_scene(scene: str) -> str:
    """The name, if it can be a scene's.

    :raises InvalidRequest: when it is no slug.
    """
    if not re.fullmatch(SLUG, scene):
        raise InvalidRequest(
            f"{scene!r} cannot be a scene's name.", hint="Use small letters, digits and dashes, as in old-town-hall."
        )
    return scene


def estimate_run(
    plan: dict[str, Any], run: str, max_cost: float | None, write_line: Callable[[str], object]
) -> dict[str, Any] | None:
    """Tell and store what a run will take and cost; None where its capture cannot be looked at, as ingest will tell.

    :param plan: what `plan` returned.
    :param run: the run's name.
    :param max_cost: in US dollars; None is no limit.
    :param write_line: writes to the log.
    :raises InvalidRequest: when it may cost more, or that is not known.
    """
    profile = profile_named(plan["profile"])
    environment = StoreHook(profile.store_conn_id).environment()
    try:
        capture, storage = open_storage(plan["capture"], environment), open_storage(profile.store, environment)
        found = estimate(capture, profile, plan, remembered(storage, plan["profile"]))
        # A run of the same id, of another Airflow, may have the folder: it keeps its own.
        storage.create(f"{folder_of(plan['scene'], run)}/estimate.json", found.model_dump_json(indent=1).encode())
    except (InvalidRequest, UnreadableCapture, NotFound, OSError) as error:
        if max_cost is not None:
            raise
        write_line(f"There is no estimate: {error}")
        return None
    for line in str(found).splitlines():
        write_line(line)
    if max_cost is not None:
        found.check(max_cost)
    return found.model_dump(mode="json")


@task(
    task_id="plan",
    task_display_name="Check the request",
    multiple_outputs=True,
    retries=2,
    retry_delay=dt.timedelta(seconds=10),
    retry_policy=retry_policy(),
    on_failure_callback=SceneFailed(),
)
def plan_task() -> dict[str, Any]:
    """Check everything that was asked, and tell what it will take, before anything is spent."""
    context = get_current_context()
    values, run = dict(context["params"]), context["dag_run"]
    with telling(context, "plan"):
        request = plan(values, run.conf or {})
        return {**request, "estimate": estimate_run(request, run.run_id, values["max_cost"], context["task"].log.info)}


def reconstruct_capture() -> PublishOperator:
    """The tasks of one reconstruction, inside a DAG with `reconstruction_params`; returns the last."""
    request: Any = plan_task()
    cpu, gpu = (conf.get("e2e3d", f"{kind}_pool", fallback="default_pool") for kind in ("cpu", "gpu"))
    common: dict[str, Any] = {
        "profile": request["profile"],
        "force": request["force"],
        "pool": cpu,
        "on_failure_callback": SceneFailed(),
    }
    ingest = IngestOperator(
        task_id="ingest",
        task_display_name=STAGES["ingest"].work,
        doc_md="Photos → upright, resized photos with what is known of their cameras.",
        capture=request["capture"],
        parameters=request["ingest"],
        **common,
    )
    sfm = SfmOperator(
        task_id="sfm",
        task_display_name=STAGES["sfm"].work,
        doc_md="Structure from motion with pycolmap; too few placed photos end the run here, before training.",
        ingest=ingest.output,
        parameters=request["sfm"],
        min_registered_share="{{ params.min_registered_share }}",
        min_photos="{{ params.min_photos }}",
        min_points_per_photo="{{ params.min_points_per_photo }}",
        **common,
    )
    train = TrainOperator(
        task_id="train",
        task_display_name=STAGES["train"].work,
        doc_md="Gaussian splatting, on CUDA with gsplat or on the CPU; resumes from its checkpoints.",
        sfm=sfm.output,
        parameters=request["train"],
        **common | {"pool": gpu},
    )
    compress = CompressOperator(
        task_id="compress",
        task_display_name=STAGES["compress"].work,
        doc_md="PLY → SOG and SPZ.",
        train=train.output,
        parameters=request["compress"],
        **common,
    )
    evaluate = EvaluateOperator(
        task_id="evaluate",
        task_display_name=STAGES["evaluate"].work,
        doc_md="PSNR and SSIM on photos that training has not seen, before and after compression.",
        sfm=sfm.output,
        train=train.output,
        compress=compress.output,
        parameters=request["evaluate"],
        **common | {"pool": gpu},
    )
    return PublishOperator(
        task_id="publish",
        task_display_name=STAGES["publish"].work,
        doc_md="The viewer, the report and the files, under scenes/<scene>/<run>/.",
        scene=request["scene"],
        preset=request["preset"],
        ingest=ingest.output,
        sfm=sfm.output,
        train=train.output,
        compress=compress.output,
        evaluate=evaluate.output,
        parameters=request["publish"],
        on_success_callback=SceneSucceeded(),
        **common,
    )
