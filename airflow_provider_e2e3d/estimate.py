"""What a run will take and cost, told before anything is spent: at most, since what is there already is reused.

The rough reckoning below knows photos, resolution and parameters. History says by how much it was wrong on the same
profile and machine; the median of that corrects it.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from statistics import median
from typing import Any

from pydantic import Field

from airflow_provider_e2e3d.backends.base import Backend, BackendSettings
from airflow_provider_e2e3d.captures import Capture, capture_at
from airflow_provider_e2e3d.history import Measurement
from airflow_provider_e2e3d.photo_header import HEADER_BYTES, long_side
from airflow_provider_e2e3d.profiles import CaptureSize, Profile
from e2e3d_stages.capture import is_hidden
from e2e3d_stages.contract import InvalidRequest, Manifest, Model, StageName, UnreadableCapture
from e2e3d_stages.ingest.capture import PHOTO_SUFFIXES
from e2e3d_stages.presets import STAGES
from e2e3d_stages.storage import NotFound, Storage

# Rough figures in seconds. CPU: `make demo` on the sample's 31 photos, two cores of an AMD EPYC.
INGEST_A_PHOTO = 0.1
# At 1000 px and 8,192 features.
EXTRACT_A_PHOTO = 0.7
MATCH_A_PAIR = 0.037
MAP_A_PHOTO = 1.2
TRAIN_A_STEP_AT_640_PX = 0.09
# gsplat on an A100 and the MipNeRF360 scenes: 15.4 minutes for 30,000 steps (gsplat's documentation, 1M Gaussians).
TRAIN_A_STEP_ON_GPU = 0.031
COMPRESS_A_GAUSSIAN = 5e-5
EVALUATE_A_VIEW_AT_1000_PX = 2.5
# A guess for a GPU; and every eighth photo is held out unless train_holdout says else.
GPU_SHARE = 0.2
VIEWS_APART = 8
# To start, to fetch and to store.
ANY_STAGE = 2.0

# A zip's table of contents is never as large.
_MOST_BYTES = 32 * 2**20


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
        return self.problem or (f"measured {self.measured} times" if self.measured else "rough")

    @property
    def place(self) -> str:
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
        rows = [("stage", "time", "on", "USD", "basis")]
        rows += [(each.stage, _clock(each.seconds), each.place, _usd(each.price), each.basis) for each in self.stages]
        rows.append(("together", _clock(self.seconds), "", _usd(self.price), "at most: what is there is reused"))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [
            f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:<{widths[2]}}  {d:>{widths[3]}}  {e}" for a, b, c, d, e in rows
        ]
        told = f"{self.photos} photos of {self.long_side} px, {self.size / 1e6:.1f} MB"
        return "\n".join([told, *lines])

    def check(self, max_cost: float) -> None:
        """Refuse what is too dear.

        :param max_cost: in US dollars.
        :raises InvalidRequest: also when nobody knows what it costs.
        """
        unpriced = [
            f"{each.stage} on {each.place}" + (f" ({each.problem})" if each.problem else "")
            for each in self.stages
            if each.price is None
        ]
        if self.price is None:
            raise InvalidRequest(
                f"Nobody knows whether the run costs more than {max_cost:.2f} USD: there is no price for "
                f"{', '.join(unpriced)}.",
                hint="Have the profile's owner name each stage's `machine` and what it costs an hour in `prices`; "
                "or leave max_cost empty.",
            )
        if self.price > max_cost:
            dearest = sorted(self.stages, key=lambda each: each.price or 0, reverse=True)[:3]
            told = ", ".join(
                f"{each.stage} {_usd(each.price)} ({_clock(each.seconds)} on {each.place}, {each.basis})"
                for each in dearest
                if each.price
            )
            raise InvalidRequest(
                f"The run may cost {self.price:.2f} USD, more than max_cost allows ({max_cost:.2f}): {told}.",
                hint="Raise max_cost, choose a smaller preset or fewer train_iterations, take fewer photos, or choose "
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
    photos, side = look_at(storage, capture)
    most = int(params["ingest"]["max_size"])
    size = CaptureSize(photos=photos, long_side=min(side or most, most))
    stages = tuple(_stage_estimate(stage.name, profile, params, size, history) for stage in STAGES.values())
    prices = [each.price for each in stages]
    return Estimate(
        photos=size.photos,
        long_side=size.long_side,
        size=capture.size,
        seconds=round(sum(each.seconds for each in stages), 1),
        price=None if None in prices else round(sum(filter(None, prices)), 4),
        stages=stages,
    )


def look_at(storage: Storage, capture: Capture) -> tuple[int, int | None]:
    """How many photos there are, and the longest side of one of them in px where it tells; few bytes are read."""
    if not capture.zipped:
        return capture.photos, long_side(_header(storage, capture.first_photo))
    try:
        with zipfile.ZipFile(io.BufferedReader(_Parts(storage, capture.size), HEADER_BYTES)) as bundle:
            photos = [entry for entry in bundle.infolist() if _is_photo(entry.filename)]
            if not photos:
                return 0, None
            with bundle.open(photos[0]) as file:
                return len(photos), long_side(file.read(HEADER_BYTES))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise UnreadableCapture(
            f"{storage.uri} is not a zip that can be read: {error}.", hint="Zip the photos again and upload that."
        ) from None


def _header(storage: Storage, photo: str) -> bytes:
    """The first bytes of a photo; none of one that is gone, or is a link to elsewhere."""
    with suppress(NotFound):
        return storage.read_part(photo, 0, HEADER_BYTES) if photo else b""
    return b""


def _is_photo(path: str) -> bool:
    hidden = is_hidden(path) or "__MACOSX" in path.split("/")
    return not hidden and PurePosixPath(path).suffix.lower() in PHOTO_SUFFIXES


class _Parts(io.RawIOBase):
    """A stored file of which only the parts that somebody looks at are fetched."""

    def __init__(self, storage: Storage, size: int) -> None:
        self._storage, self._size, self._place = storage, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._place)
        if wanted > _MOST_BYTES:
            raise zipfile.BadZipFile("its table of contents is too large")
        data = self._storage.read_part("", self._place, wanted) if wanted > 0 else b""
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


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
    expected = rough_seconds(stage, params[stage], size, gaussians=gaussians, gpu=has_gpu(backend.settings))
    same = [each for each in history if (each.stage, each.machine) == (stage, machine)]
    billed = [each.billed / each.expected for each in same if each.billed is not None]
    seconds = expected * (median(each.took / each.expected for each in same) if same else 1)
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
    :param billed: seconds that its place bills.
    """
    expected = rough_seconds(
        manifest.stage,
        manifest.params,
        size,
        gaussians=int(manifest.metrics.get("gaussians", 0)),
        gpu=has_gpu(backend.settings),
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
    if stage == "ingest":
        work = INGEST_A_PHOTO * size.photos
    elif stage == "sfm":
        work = _rough_sfm_seconds(params, size)
    elif stage == "train":
        pixels = (min(size.long_side, params["long_side"]) / 640) ** 2
        work = params["iterations"] * (TRAIN_A_STEP_ON_GPU if gpu else TRAIN_A_STEP_AT_640_PX * pixels)
    elif stage == "compress":
        work = COMPRESS_A_GAUSSIAN * gaussians
    elif stage == "evaluate":
        views = size.photos / VIEWS_APART
        work = EVALUATE_A_VIEW_AT_1000_PX * views * (GPU_SHARE if gpu else (size.long_side / 1000) ** 2)
    else:
        work = 0.0
    return ANY_STAGE + float(work)


def _rough_sfm_seconds(params: Mapping[str, Any], size: CaptureSize) -> float:
    fast = (0.67 if params["orientations"] == 1 else 1.0) * (0.5 if params["first_octave"] == 0 else 1.0)
    all_pairs = size.photos * (size.photos - 1) / 2
    some = params["pairs"] in ("spatial", "sequential") or (
        params["pairs"] == "auto" and size.photos > params["exhaustive_limit"]
    )
    pairs = min(all_pairs, size.photos * params["neighbors"]) if some else all_pairs
    matching = MATCH_A_PAIR * pairs * params["max_features"] / 8192
    seconds: float = (EXTRACT_A_PHOTO * fast + MAP_A_PHOTO) * size.photos + matching
    return size.long_side / 1000 * seconds


def has_gpu(settings: BackendSettings) -> bool:
    """Whether a stage's settings speak of a GPU: by that word, or by an instance type of AWS' families G and P."""
    return bool(re.search(r"gpu|\b[gp]\d+\w*\.\w*(large|metal)", settings.model_dump_json(), re.IGNORECASE))


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _usd(price: float | None) -> str:
    return "unknown" if price is None else f"{price:.2f}"
