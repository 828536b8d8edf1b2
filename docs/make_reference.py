"""The pages in docs/reference, made from what the code declares; `make reference` runs this."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import RetryAction
from pydantic import BaseModel

from airflow_provider_e2e3d.backends.base import BackendSettings, ImageSettings
from airflow_provider_e2e3d.exceptions import stage_failed
from airflow_provider_e2e3d.get_provider_info import get_provider_info
from airflow_provider_e2e3d.jobs.retries import RETRIES_OF, RETRIES_OF_ANY_OTHER, retry_policy
from airflow_provider_e2e3d.metrics import METRICS
from airflow_provider_e2e3d.profiles.profile import BACKENDS, Profile, backend_class
from e2e3d_stages.contract.figures import FIGURES, Figure
from e2e3d_stages.contract.messages import Failure, FailureCode
from e2e3d_stages.contract.spec import PRESETS, StageSpec
from e2e3d_stages.registry import STAGES

REFERENCE = Path(__file__).with_name("reference")
MADE = "<!-- Made by `make reference` from the code; edit what it says there. -->"

# JSON schema's words for a type, and those for its limits.
_TYPES = {
    "integer": "integer",
    "number": "number",
    "float": "number",
    "boolean": "true or false",
    "string": "text",
    "array": "list",
}
_LIMITS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minLength": "length ≥ {}",
    "maxLength": "length ≤ {}",
    "minItems": "length ≥ {}",
    "pattern": "`{}`",
}


def parameters() -> str:
    """Every stage's parameters, with limits and what the presets say."""
    parts = [
        "# Parameters",
        "In a run's conf, and in the columns of a batch's manifest, a parameter is called `<stage>_<name>`, as "
        '`train_iterations`; an operator takes it by its own name: `parameters={"iterations": 7000}`. What is not '
        "given is what the preset says. Unknown names and values out of limits are refused.",
    ]
    for stage in STAGES.values():
        parts += [f"## {stage.label} (`{stage.name}`)", stage.about, _parameters_of(stage)]
    return _page(parts)


def _parameters_of(stage: StageSpec) -> str:
    fields = stage.params.model_json_schema().get("properties", {})
    presets = {preset: stage.resolve(preset, {}).model_dump(mode="json") for preset in PRESETS}
    rows = []
    for name, field in fields.items():
        values = [_value(presets[preset][name]) for preset in PRESETS]
        meaning = f"{field['title']}. {field['description']}"
        if name in stage.filled:
            meaning += " Filled in by the pipeline."
        rows.append([f"`{name}`", _kind(field), *values, meaning])
    return _table(["name", "value", *PRESETS, "meaning"], rows)


def profiles() -> str:
    """What a profile may say, and what each backend takes."""
    parts = [
        "# Profiles",
        "A profile file is YAML: names of profiles, and for each what stands below. `${NAME}` is replaced from the "
        "environment. [deploy/profiles.example.yaml](../../deploy/profiles.example.yaml) is a commented example; "
        "errors are reported with the file's line.",
        "## A profile",
        _settings(Profile),
        "## Every backend",
        _settings(BackendSettings, leave_out={"backend"}),
        "## Backends that run images",
        "All but `local`.",
        _settings(ImageSettings, leave_out=set(BackendSettings.model_fields)),
    ]
    for name in BACKENDS:
        settings = backend_class(name).Settings
        common = ImageSettings if issubclass(settings, ImageSettings) else BackendSettings
        same = {each for each, field in common.model_fields.items() if _same(field, settings.model_fields[each])}
        parts += [f"## `{name}`", inspect.getdoc(settings) or "", _settings(settings, leave_out={*same, "backend"})]
    return _page(parts)


def _same(field: Any, other: Any) -> bool:
    return bool(field.default == other.default and field.description == other.description)


def _settings(model: type[BaseModel], leave_out: Iterable[str] = ()) -> str:
    fields = {name: field for name, field in model.model_json_schema()["properties"].items() if name not in leave_out}
    required = model.model_json_schema().get("required", ())
    rows = [
        [f"`{name}`", _kind(field), "required" if name in required else _default(field), field.get("description", "")]
        for name, field in fields.items()
    ]
    return _table(["setting", "value", "default", "meaning"], rows) if rows else ""


def _default(field: Mapping[str, Any]) -> str:
    default = field.get("default")
    # The interpreter that makes this page is nobody else's.
    return "Airflow's own" if default == sys.executable else _value(default)


def config() -> str:
    """The options of Airflow's configuration."""
    (section,) = get_provider_info()["config"]
    options = get_provider_info()["config"][section]["options"]
    rows = [
        [f"`{name}`", _TYPES.get(option["type"], option["type"]), _value(option["default"]), _value(option["example"])]
        + [option["description"]]
        for name, option in options.items()
    ]
    return _page(
        [
            "# Configuration",
            f"Options of the section `[{section}]` of Airflow's configuration; in the environment "
            f"`AIRFLOW__{section.upper()}__<OPTION>`. Scheduler, DAG processor, triggerer, API server and workers must "
            "see the same values.",
            _table(["option", "value", "default", "example", "meaning"], rows),
        ]
    )


def figures() -> str:
    """The numbers that people compare."""
    return _page(
        [
            "# Figures",
            "The numbers by which scenes and runs are compared. `run.json` has a stage's figures under `metrics` and "
            "those of the whole run at its top; the gallery, the report, comparisons, notifications and batches show "
            "the same rows.",
            "## Shown to people",
            _figures(figure for figure in FIGURES if figure.shown),
            "## In `run.json` only",
            _figures(figure for figure in FIGURES if not figure.shown),
        ]
    )


def _figures(which: Iterable[Figure]) -> str:
    rows = [
        [
            *(f"`{figure.name}`", figure.label, figure.stage or "the run", figure.format, figure.better or ""),
            f"of `{figure.whole}`" if figure.whole else f"mean over `{figure.over}`" if figure.over else "",
        ]
        for figure in which
    ]
    return _table(["name", "label", "measured by", "unit", "better", "note"], rows)


def failures() -> str:
    """How a stage can fail, and what becomes of the task then."""
    rules = {rule.exception: rule for rule in retry_policy().rules}
    rows = []
    for code in FailureCode:
        raised = type(stage_failed(Failure(code=code, message="", attempt=1)))
        again = RETRIES_OF.get(raised, RETRIES_OF_ANY_OTHER)
        rows.append(
            [
                f"[`{code.value}`](../troubleshooting.md#{code.value})",
                (raised.__doc__ or "").splitlines()[0],
                "never" if rules[raised].action is RetryAction.FAIL else f"{again} times",
                f"`{code.exit_code}`",
                f"`{raised.__name__}`",
            ]
        )
    return _page(
        [
            "# Failures",
            "How a stage fails, as `failure.json` of its attempt and `run.json` say it, and what becomes of the task. "
            "[Troubleshooting](../troubleshooting.md) says what to do.",
            _table(["code", "meaning", "tried again", "program's exit status", "the task raises"], rows),
        ]
    )


def metrics() -> str:
    """What the provider tells whoever monitors the platform."""
    rows = [
        [
            *(f"`{metric.prometheus}`", metric.kind, metric.meaning),
            "; ".join(f"`{name}`: {says}" for name, says in metric.labels.items()),
        ]
        for metric in METRICS
    ]
    return _page(
        [
            "# Metrics",
            "What this provider tells beside [Airflow's own metrics]"
            "(https://airflow.apache.org/docs/apache-airflow/stable/administration-and-deployment/logging-monitoring/"
            "metrics.html), as Prometheus has it; [Monitoring](../monitoring.md) says how to switch it on. A duration "
            "is a histogram in seconds. Airflow tells a metric as `airflow.e2e3d.<name>`, without the last part of a "
            "counter's or a duration's name, and counts durations in milliseconds.",
            _table(["name", "kind", "what", "labels"], rows),
        ]
    )


def _kind(field: Mapping[str, Any]) -> str:
    """A JSON schema as a person reads it: its type, choices and limits."""
    if "anyOf" in field:
        return " or ".join(_kind(each) for each in field["anyOf"] if each.get("type") != "null")
    choices = field.get("enum", [field["const"]] if "const" in field else [])
    if choices:
        return ", ".join(_value(each) for each in choices)
    limits = ", ".join(words.format(_number(field[name])) for name, words in _LIMITS.items() if name in field)
    kind = _TYPES.get(field.get("type", ""), "mapping")
    return f"{kind}, {limits}" if limits else kind


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else str(value)


def _value(value: Any) -> str:
    """A value as it is written in YAML; nothing for none."""
    if value in (None, "", [], {}):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{_number(value)}`"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)])


def _page(parts: Iterable[str]) -> str:
    return "\n\n".join([MADE, *filter(None, parts)]) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "parameters.md": parameters,
    "profiles.md": profiles,
    "config.md": config,
    "figures.md": figures,
    "failures.md": failures,
    "metrics.md": metrics,
}


if __name__ == "__main__":
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page(), encoding="utf-8")
