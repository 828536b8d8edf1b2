"""The six stages: what each reads, its parameters, and the presets that fill them in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, get_args

from pydantic import ValidationError

from e2e3d_stages.contract import InvalidRequest, StageName, StageParams

Preset = Literal["draft", "standard", "high"]
PRESETS: tuple[Preset, ...] = get_args(Preset)


@dataclass(frozen=True)
class Stage:
    """One stage: its name, the stages whose artifacts it reads, and the container image that has its libraries."""

    name: StageName
    inputs: tuple[StageName, ...]
    container: str

    @property
    def version(self) -> int:
        """Raised when the same parameters would give another result; part of the artifact key."""
        return int(import_module(f"e2e3d_stages.{self.name}.params").VERSION)

    @property
    def params(self) -> type[StageParams]:
        """The stage's parameter model."""
        params: type[StageParams] = import_module(f"e2e3d_stages.{self.name}.params").Params
        return params

    def validate(self, values: Mapping[str, Any]) -> StageParams:
        """Parameters checked against names, types and limits.

        :raises InvalidRequest: naming every value that cannot work, and why.
        """
        try:
            return self.params.model_validate(dict(values))
        except ValidationError as error:
            raise InvalidRequest(
                f"The parameters of {self.name} cannot work: " + "; ".join(_problems(self, error)),
                hint=f"{self.name} knows: {', '.join(self.params.model_fields) or 'no parameters'}.",
            ) from None

    def resolve(self, preset: str, overrides: Mapping[str, Any]) -> StageParams:
        """The preset's parameters with some of them replaced.

        :raises InvalidRequest: for an unknown preset, an unknown name or a value out of limits.
        """
        if preset not in PRESETS:
            raise InvalidRequest(f"There is no preset {preset!r}.", hint=f"Choose one of {', '.join(PRESETS)}.")
        defaults = import_module(f"e2e3d_stages.{self.name}.params").PRESETS[preset]
        return self.validate({**defaults, **overrides})


def _problems(stage: Stage, error: ValidationError) -> list[str]:
    problems = []
    for item in error.errors(include_url=False):
        name = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            problems.append(f"there is no parameter {name!r}")
        else:
            problems.append(f"{name} is {item['input']!r}: {item['msg']}")
    return problems


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("ingest", (), "sfm"),
        Stage("sfm", ("ingest",), "sfm"),
        Stage("train", ("sfm",), "3dgs"),
        Stage("compress", ("train",), "compressor"),
        Stage("evaluate", ("sfm", "train", "compress"), "3dgs"),
        Stage("publish", ("ingest", "sfm", "train", "compress", "evaluate"), "compressor"),
    )
}
