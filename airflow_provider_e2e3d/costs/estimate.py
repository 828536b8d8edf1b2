"""What a run will take and cost, told before anything is spent: at most, since what is there already is reused.

The rough reckoning below knows photos, resolution and parameters. History says by how much it was wrong on the same
profile and machine; the median of that corrects it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from pydantic import Field

from airflow_provider_e2e3d.backends.base import Backend
from airflow_provider_e2e3d.captures.headers import look_at
from airflow_provider_e2e3d.captures.listing import capture_at
from airflow_provider_e2e3d.costs.history import Measurement
from airflow_provider_e2e3d.profiles.profile import CaptureSize, Profile
from e2e3d_stages.contract.formatting import as_dollars, as_duration, as_size
from e2e3d_stages.contract.messages import InvalidRequest, Manifest, Model, StageName, UnreadableCapture
from e2e3d_stages.contract.spec import Workload
from e2e3d_stages.registry import STAGES
from e2e3d_stages.store.base import Storage

# To start, to fetch and to store.
STARTING_SECONDS = 2.0


class StageEstimate(Model):
    """What one stage will take."""

    stage: StageName
    seconds: float
    backend: str
    machine: str | None = Field(default=None, description="By its name in the profile's `prices`.")
    price: float | None = Field(default=None, description="US dollars; None where nobody said what the machine costs.")
    measured: int = Field(default=0, description="On how many former runs this rests; on none it is rough.")
    problem: str = Field(default="", description="Why nobody knows on what it will run.")

    @property
    def basis(self) -> str:
        """Where the figure comes from, for a person."""
        times = "time" if self.measured == 1 else "times"
        return self.problem or (f"measured {self.measured} {times}" if self.measured else "rough")

    @property
    def runs_on(self) -> str:
        """What it runs on, for a person."""
        return self.machine or self.backend


class Estimate(Model):
    """What a run will take at most."""

    photos: int
    long_side: int = Field(description="Of the prepared photos, in px.")
    size: int = Field(description="Of the capture, in bytes.")
    seconds: float = Field(description="All stages one after another, without the time that they wait for a machine.")
    price: float | None = Field(default=None, description="US dollars; None when one stage's is not known.")
    stages: tuple[StageEstimate, ...]

    def __str__(self) -> str:
        """A table for the log."""
        rows = [("stage", "time", "on", "cost", "basis")]
        rows += [
            (each.stage, as_duration(each.seconds), each.runs_on, _price(each.price), each.basis)
            for each in self.stages
        ]
        rows.append(("together", as_duration(self.seconds), "", _price(self.price), "at most: what is there is reused"))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [
            f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:<{widths[2]}}  {d:>{widths[3]}}  {e}" for a, b, c, d, e in rows
        ]
        told = f"{self.photos} photos of {self.long_side} px, {as_size(self.size)}"
        return "\n".join([told, *lines])

    def check(self, max_cost: float, *, whose: str = "max_cost") -> None:
        """Refuse what is too dear.

        :param max_cost: in US dollars.
        :param whose: limit it is, for people.
        :raises InvalidRequest: also when nobody knows what it costs.
        """
        unpriced = [
            f"{each.stage} on {each.runs_on}" + (f" ({each.problem})" if each.problem else "")
            for each in self.stages
            if each.price is None
        ]
        if self.price is None:
            raise InvalidRequest(
                f"The cost of this run is unknown, and {whose} allows {as_dollars(max_cost)}: there is no price for "
                f"{', '.join(unpriced)}.",
                hint="Have the profile's owner name each stage's `machine` and what it costs an hour in `prices`; "
                f"or leave {whose} empty.",
            )
        if self.price > max_cost:
            dearest = sorted(self.stages, key=lambda each: each.price or 0, reverse=True)[:3]
            told = ", ".join(
                f"{each.stage} {as_dollars(each.price)} ({as_duration(each.seconds)} on {each.runs_on}, {each.basis})"
                for each in dearest
                if each.price
            )
            raise InvalidRequest(
                f"The run may cost {as_dollars(self.price)}, more than {whose} allows ({as_dollars(max_cost)}): "
                f"{told}.",
                hint=f"Raise {whose}, choose a smaller preset or fewer train_iterations, take fewer photos, or choose "
                "a profile with cheaper machines.",
            )


def estimate(
    storage: Storage,
    profile: Profile,
    params: Mapping[str, Any],
    history: Sequence[Measurement],
) -> Estimate:
    """What a capture will take and cost.

    :param storage: whose root is the capture.
    :param params: by stage.
    :param history: of the profile.
    :raises UnreadableCapture: when there is no capture, or it is no zip that can be read.
    """
    capture = capture_at(storage)
    if capture is None:
        raise UnreadableCapture(
            f"There is no capture at {storage.uri}.", hint="Check the address, and that the photos were uploaded."
        )
    content = look_at(storage, capture)
    most = int(params["ingest"]["max_size"])
    frames = int(params["ingest"]["frames"]) if content.films else 0
    size = CaptureSize(photos=content.photos + frames, long_side=min(content.side or most, most))
    stages = stage_estimates(profile, params, size, history, STAGES)
    taken, price = together(stages)
    return Estimate(
        photos=size.photos,
        long_side=size.long_side,
        size=capture.size,
        seconds=taken,
        price=price,
        stages=stages,
    )


def stage_estimates(
    profile: Profile,
    params: Mapping[str, Any],
    size: CaptureSize,
    history: Sequence[Measurement],
    stages: Iterable[StageName],
) -> tuple[StageEstimate, ...]:
    """What each of some stages will take; those that nobody asked for are left out.

    :param params: by stage.
    :param history: of the profile.
    """
    return tuple(
        _stage_estimate(name, profile, params, size, history)
        for name in stages
        if STAGES[name].validate(params[name]).wanted
    )


def together(stages: Sequence[StageEstimate]) -> tuple[float, float | None]:
    """Seconds of all of them one after another, and US dollars; None when one stage's price is not known."""
    prices = [each.price for each in stages]
    seconds = round(sum(each.seconds for each in stages), 1)
    return seconds, None if None in prices else round(sum(filter(None, prices)), 4)


def is_above(limit: str, stages: Sequence[StageEstimate]) -> bool:
    """Whether some stages may take more than a limit, or nobody knows whether they do.

    :param limit: as `2.50 USD` or `30 min`; see `profiles.profile.ASK_ABOVE`.
    """
    amount, unit = limit.split()
    seconds, price = together(stages)
    return seconds / 60 > float(amount) if unit == "min" else price is None or price > float(amount)


def _stage_estimate(
    stage: StageName,
    profile: Profile,
    params: Mapping[str, Any],
    size: CaptureSize,
    history: Sequence[Measurement],
) -> StageEstimate:
    gaussians = int(params["train"]["max_gaussians"])
    try:
        # Before ingest nobody has counted, so that it runs on the same machine whatever the capture.
        backend = profile.backend(stage, None if stage == "ingest" else size)
    except InvalidRequest as error:
        seconds = rough_seconds(stage, params[stage], size, gaussians=gaussians, gpu=False)
        return StageEstimate(stage=stage, seconds=round(seconds, 1), backend="no machine", problem=error.message)
    machine = backend.machine
    expected = rough_seconds(stage, params[stage], size, gaussians=gaussians, gpu=backend.has_gpu)
    same = [each for each in history if (each.stage, each.machine) == (stage, machine)]
    billed = [each.billed / each.expected for each in same if each.billed is not None]
    # However short it was so far, none takes no time at all: who wants to be asked above 0 is always asked.
    seconds = max(0.1, expected * (median(each.took / each.expected for each in same) if same else 1))
    return StageEstimate(
        stage=stage,
        seconds=round(seconds, 1),
        backend=backend.settings.backend,
        machine=machine,
        price=profile.price(backend, expected * median(billed) if billed else seconds),
        measured=len(same),
    )


def measured(manifest: Manifest, backend: Backend, size: CaptureSize, billed: float | None) -> Measurement:
    """What an artifact took, beside what the rough reckoning says of it.

    :param size: of its capture.
    :param billed: seconds that its backend bills.
    """
    expected = rough_seconds(
        manifest.stage,
        manifest.params,
        size,
        gaussians=int(manifest.metrics.get("gaussians", 0)),
        gpu=backend.has_gpu,
    )
    return Measurement(manifest.stage, backend.machine, expected, manifest.usage.wall_seconds, billed)


def rough_seconds(
    stage: StageName, params: Mapping[str, Any], size: CaptureSize, *, gaussians: int, gpu: bool
) -> float:
    """What a stage's program takes, within a factor of a few.

    :param params: the stage's.
    :param gaussians: how many there are, at most.
    :param gpu: whether it runs on one.
    """
    workload = Workload(params, size.photos, size.long_side, gaussians, gpu)
    return STARTING_SECONDS + STAGES[stage].rough_seconds(workload)


def _price(dollars: float | None) -> str:
    return "unknown" if dollars is None else as_dollars(dollars)
