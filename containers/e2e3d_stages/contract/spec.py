"""What a stage declares about itself; each stage's folder has a `spec.py` with its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import ValidationError

from e2e3d_stages.contract.figures import Figure, key_metrics
from e2e3d_stages.contract.messages import InvalidRequest, StageName, StageParams

Preset = Literal["draft", "standard", "high"]
PRESETS: tuple[Preset, ...] = get_args(Preset)


@dataclass(frozen=True)
class Deliverable:
    """A file of a stage's artifact that people get with a scene.

    :param path: in the artifact; one that ends in / is a folder. It may be missing, as what needs GPS.
    :param use: what it is good for, in a few words; empty for what nobody downloads by itself.
    :param format_of_scene: whether it holds the Gaussians.
    """

    path: str
    use: str = ""
    format_of_scene: bool = False

    def holds(self, path: str) -> bool:
        """Whether a file of the artifact is it, or lies in it."""
        return path == self.path or (self.path.endswith("/") and path.startswith(self.path))


@dataclass(frozen=True)
class Limit:
    """What a stage may take at the very most, on a machine that is small for it, in seconds."""

    seconds: float
    per_photo: float = 0.0
    per_step: float = 0.0
    # Without a word of how far it is: longer than the longest part of the work that cannot tell.
    silent: float = 3_600.0


@dataclass(frozen=True)
class Workload:
    """What decides how long a stage takes.

    :param params: the stage's.
    :param photos: how many there are.
    :param long_side: of the prepared photos, in px.
    :param gaussians: how many there are, at most.
    :param gpu: whether it runs on one.
    """

    params: Mapping[str, Any]
    photos: int
    long_side: int
    gaussians: int
    gpu: bool


@dataclass(frozen=True)
class StageSpec:
    """One stage, for everybody who asks about it: operators, form, estimate, layout, report, pages and `check`.

    :param name: of its folder, and in artifact keys.
    :param label: what people call it.
    :param work: what it does, as people are told.
    :param about: one line more, for the task's documentation.
    :param inputs: the stages whose artifacts it reads; the first leads towards ingest.
    :param container: the image that has its libraries.
    :param version: raised when the same parameters would give another result; part of the artifact key.
    :param params: its parameter model.
    :param presets: by preset, the parameters that are not the model's defaults.
    :param longest: what it may take, so that what hangs ends.
    :param rough_seconds: what its work takes, within a factor of a few, before there is any history.
    :param deliverables: what people get of its artifact.
    :param result: the figure that tells its success.
    :param filled: parameters that the pipeline fills in itself, and nobody is asked for.
    :param optional_inputs: stages whose artifacts it reads, too, in a run that wants them.
    """

    name: StageName
    label: str
    work: str
    about: str
    inputs: tuple[StageName, ...]
    container: str
    version: int
    params: type[StageParams]
    presets: Mapping[str, Mapping[str, Any]]
    longest: Limit
    rough_seconds: Callable[[Workload], float] = lambda _workload: 0.0
    deliverables: tuple[Deliverable, ...] = ()
    result: Figure | None = None
    filled: frozenset[str] = frozenset()
    optional_inputs: tuple[StageName, ...] = ()

    def validate(self, values: Mapping[str, Any]) -> StageParams:
        """Parameters checked against names, types and limits.

        :raises InvalidRequest: naming every value that cannot work, and why.
        """
        try:
            return self.params.model_validate(dict(values))
        except ValidationError as error:
            raise InvalidRequest(
                f"The parameters of {self.name} cannot work: " + "; ".join(self._problems(error)),
                hint=f"{self.name} knows: {', '.join(self.params.model_fields) or 'no parameters'}.",
            ) from None

    def _problems(self, error: ValidationError) -> list[str]:
        problems = []
        for item in error.errors(include_url=False):
            name = ".".join(str(part) for part in item["loc"])
            if item["type"] == "extra_forbidden":
                problems.append(f"there is no parameter {name!r}")
            else:
                problems.append(f"{name} is {item['input']!r}: {item['msg']}")
        return problems

    def longest_seconds(self, params: Mapping[str, Any], photos: int) -> float:
        """More than it can take."""
        steps: int = params.get("iterations", 0)
        return self.longest.seconds + self.longest.per_photo * photos + self.longest.per_step * steps

    def resolve(self, preset: str, overrides: Mapping[str, Any]) -> StageParams:
        """The preset's parameters with some of them replaced.

        :raises InvalidRequest: for an unknown preset, an unknown name or a value out of limits.
        """
        if preset not in PRESETS:
            raise InvalidRequest(f"There is no preset {preset!r}.", hint=f"Choose one of {', '.join(PRESETS)}.")
        return self.validate({**self.presets[preset], **overrides})

    def result_text(self, metrics: Mapping[str, Mapping[str, Any]]) -> str:
        """Its success in a phrase, as `33 of 40 photos placed`; empty where nothing was measured.

        :param metrics: its own and its inputs', by stage.
        """
        record = {"metrics": key_metrics(metrics)}
        if self.result is None or self.result.of_record(record) is None:
            return ""
        return self.result.phrase.format(self.result.text(record))
