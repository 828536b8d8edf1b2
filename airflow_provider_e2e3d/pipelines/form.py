"""The form of `reconstruct`: what is asked of everybody, and each stage's parameters from its schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import Param

from airflow_provider_e2e3d.profiles.file import load_profiles
from airflow_provider_e2e3d.profiles.profile import ASK_ABOVE
from airflow_provider_e2e3d.scenes.names import SLUG
from e2e3d_stages.contract.spec import PRESETS, StageSpec
from e2e3d_stages.registry import STAGES

_GATE = "Quality gate after sfm"
_GATE_HELP = "Below this the run fails before training."
_AROUND = "Reuse, cost and notification"
# The parts of a JSON schema that a form knows.
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "pattern", "minLength", "maxLength", "items")


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
            description="Where the photos are: s3://bucket/prefix, a folder, one zip or one film, in a place the "
            "profile allows. JPEG, HEIC, PNG, TIFF, WebP, AVIF and raw photos are read, and films: MOV, MP4, MKV, WebM "
            "and others.",
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
            title="Re-run stages",
            description="Stages to run although their artifacts are there; the stages after them follow. "
            "Empty: whatever is there is reused.",
            section=_AROUND,
        ),
        "max_cost": Param(
            None,
            type=["null", "number"],
            minimum=0,
            title="Cost limit (USD)",
            description="0 or more: a run that may cost more by the profile's prices is refused before it "
            "begins. Empty: no limit.",
            section=_AROUND,
        ),
        "ask_above": Param(
            None,
            type=["null", "string"],
            pattern=ASK_ABOVE,
            title="Ask before training",
            description="`2.50 USD` or `30 min`: where more is estimated for what follows structure from motion, the "
            "run waits there for a person's word: train, train as draft, or stop. Empty: what the profile says.",
            section=_AROUND,
        ),
        "notify": Param(
            True,
            type="boolean",
            title="Send notifications",
            description="When the run ends, send its result to the channels that this Airflow's [e2e3d] notify_… "
            "options name.",
            section=_AROUND,
        ),
        "min_placed_share": _gate(
            0.5, 1.0, "Minimum placed share", f"Share of the uploaded photos, 1 is all of them. {_GATE_HELP}"
        ),
        "min_placed_photos": _gate(5, 10_000, "Minimum placed photos", f"Number of photos. {_GATE_HELP}"),
        "min_points_per_photo": _gate(
            100, 10_000, "Minimum points per photo", f"Points that a placed photo sees, in the median. {_GATE_HELP}"
        ),
    }
    for stage in STAGES.values():
        form |= _stage_params(stage)
    return form


def section_of(stage: StageSpec) -> str:
    """The part of the form that a stage's parameters are in."""
    return f"{stage.label} ({stage.name})"


def _gate(default: float, maximum: float, title: str, description: str) -> Param:
    kind = "number" if isinstance(default, float) else "integer"
    schema: dict[str, Any] = {"type": kind, "minimum": 0, "maximum": maximum}
    return Param(default, **schema, title=title, description=f"{description} {_limits(schema)}", section=_GATE)


def _stage_params(stage: StageSpec) -> dict[str, Param]:
    """A stage's parameters as Params named `<stage>_<name>`; empty means the preset's value."""
    fields = stage.params.model_json_schema().get("properties", {})
    presets = {preset: stage.resolve(preset, {}).model_dump(mode="json") for preset in PRESETS}
    return {
        f"{stage.name}_{name}": _stage_param(stage, field, {preset: presets[preset][name] for preset in PRESETS})
        for name, field in fields.items()
        if name not in stage.filled
    }


def _stage_param(stage: StageSpec, field: dict[str, Any], values: dict[str, Any]) -> Param:
    """One parameter.

    :param field: its JSON schema.
    :param values: by preset.
    """
    shown = {"title": field["title"], "section": section_of(stage)}
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
