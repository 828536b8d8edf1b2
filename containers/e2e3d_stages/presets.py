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
    """One stage.

    :param work: what it does, as people are told.
    :param inputs: the stages whose artifacts it reads; the first leads towards ingest.
    :param container: the image that has its libraries.
    :param seconds: what it may take at the very most, on a machine that is small for it.
    :param seconds_a_photo: and for each photo.
    :param seconds_a_step: and for each step of training.
    """

    name: StageName
    work: str
    inputs: tuple[StageName, ...]
    container: str
    seconds: float
    seconds_a_photo: float = 0.0
    seconds_a_step: float = 0.0

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

    def longest_seconds(self, params: Mapping[str, Any], photos: int) -> float:
        """More than it can take, so that a place that bills may end what hangs."""
        steps: int = params.get("iterations", 0)
        return self.seconds + self.seconds_a_photo * photos + self.seconds_a_step * steps

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
        Stage("ingest", "Ingest the photos", (), "sfm", seconds=86_400),
        Stage("sfm", "Find the camera poses", ("ingest",), "sfm", seconds=3_600, seconds_a_photo=120),
        Stage("train", "Train the Gaussians", ("sfm",), "3dgs", seconds=3_600, seconds_a_photo=5, seconds_a_step=2),
        Stage("compress", "Compress the scene", ("train",), "compressor", seconds=7_200),
        Stage(
            "evaluate", "Evaluate the scene", ("sfm", "train", "compress"), "3dgs", seconds=3_600, seconds_a_photo=20
        ),
        Stage(
            "publish",
            "Publish the page",
            ("ingest", "sfm", "train", "compress", "evaluate"),
            "compressor",
            seconds=3_600,
        ),
    )
}
