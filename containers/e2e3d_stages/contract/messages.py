"""What the Airflow world and the stage world say to each other: request, manifest, failure, progress.

All of it is JSON in the artifact store; nothing passes through standard output or XCom. This module imports
nothing heavy, so that both worlds can.
"""

from __future__ import annotations

import datetime as dt
import errno
import hashlib
import json
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints
from typing_extensions import Self

from e2e3d_stages.contract.paths import SafePath, UnsafePath

CONTRACT_VERSION = 1
# How long a program that was asked to stop may take: less than the 120 s after which SageMaker and Kubernetes kill.
GRACE_SECONDS = 100.0

# Of the registry, which knows whether there is such a stage; it is a folder in the store.
StageName = Annotated[str, StringConstraints(pattern=r"^[a-z]+$")]


def now() -> dt.datetime:
    """The current time in UTC, with whole microseconds."""
    return dt.datetime.now(dt.timezone.utc)


class Model(BaseModel):
    """Base of everything that crosses the border: immutable, and unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StageParams(Model):
    """Base of every stage's parameters."""

    # Those that came after others. Where one of them asks for nothing special, earlier artifacts are what is asked for.
    later: ClassVar[frozenset[str]] = frozenset()

    def keyed(self) -> dict[str, Any]:
        """What an artifact's key depends on: all of them, but later ones only where they differ from their defaults."""
        usual = {name for name in self.later if getattr(self, name) == type(self).model_fields[name].default}
        return self.model_dump(mode="json", exclude=usual)

    @property
    def wanted(self) -> bool:
        """Whether the stage is to run at all."""
        return True

    def smaller(self) -> Self | None:
        """Parameters that need less memory for nearly the same result, or None where nothing can be saved."""
        return None


class FailureCode(str, Enum):
    """Why a stage failed; what a retry policy reads."""

    INVALID_REQUEST = "invalid_request"
    UNREADABLE_CAPTURE = "unreadable_capture"
    CAPTURE_CHANGED = "capture_changed"
    OUT_OF_MEMORY = "out_of_memory"
    INFRASTRUCTURE = "infrastructure"
    INTERRUPTED = "interrupted"
    CRASH = "crash"

    @property
    def exit_code(self) -> int:
        """The process's exit status for this failure."""
        return _EXIT_CODES[self]


_EXIT_CODES = {
    FailureCode.INVALID_REQUEST: 2,
    FailureCode.UNREADABLE_CAPTURE: 2,
    FailureCode.CAPTURE_CHANGED: 7,
    FailureCode.OUT_OF_MEMORY: 4,
    FailureCode.INFRASTRUCTURE: 5,
    FailureCode.INTERRUPTED: 6,
    FailureCode.CRASH: 1,
}


class StageError(Exception):
    """A failure that a person can act on.

    :param message: what happened, in one sentence.
    :param hint: what the person should do next.
    :param details: numbers and names for the report.
    """

    code: ClassVar[FailureCode] = FailureCode.CRASH

    def __init__(self, message: str, *, hint: str = "", details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details or {}


class InvalidRequest(StageError):
    """What was asked cannot work: a wrong parameter, a version that does not match."""

    code = FailureCode.INVALID_REQUEST


class UnreadableCapture(StageError):
    """The capture holds nothing that could become a scene."""

    code = FailureCode.UNREADABLE_CAPTURE


class CaptureChanged(StageError):
    """The capture's files are no longer those that the artifact's key was made of."""

    code = FailureCode.CAPTURE_CHANGED


class OutOfMemory(StageError):
    """GPU or host memory ran out."""

    code = FailureCode.OUT_OF_MEMORY


class Infrastructure(StageError):
    """Store, network or disk failed; the work itself may be fine."""

    code = FailureCode.INFRASTRUCTURE


class Interrupted(StageError):
    """The stage was asked to stop (SIGTERM, spot reclaim)."""

    code = FailureCode.INTERRUPTED


class Overtaken(Interrupted):
    """A later attempt has taken over; this one must stop."""


class Reference(Model):
    """A small pointer to an artifact: what XCom carries."""

    stage: StageName
    key: str
    uri: str = Field(description="The artifact's folder in the store.")
    digest: str = Field(description="SHA-256 of manifest.json, in hex.")
    metrics: dict[str, Any] = Field(default_factory=dict)
    reused: bool = Field(default=False, description="Whether it was there before this run asked.")


class Input(Model):
    """One artifact that a stage reads, named by its stage; refused when its manifest's digest differs."""

    key: str
    digest: str


@dataclass(frozen=True)
class Refused:
    """A file that did not make it into the image set, and why."""

    source: str
    reason: str
    detail: str


class CaptureFile(Model):
    """One file of a capture, as Airflow saw it."""

    path: str = Field(description="Below the capture; empty where the capture is that one file.")
    size: int
    sha256: str


class CaptureListing(Model):
    """What a capture held when its artifact's key was made: `ingest` works on that and on nothing else."""

    files: tuple[CaptureFile, ...]
    left_out: tuple[Refused, ...] = Field(default=(), description="What is listed with it and cannot be a file of it.")

    @property
    def digest(self) -> str:
        """SHA-256 over names, sizes and contents: the same wherever the capture lies."""
        # What is left out is not read, and told in the artifact all the same.
        listing = [[file.path, file.size, file.sha256] for file in self.files]
        left_out = [[refused.source, refused.reason] for refused in self.left_out]
        return hashlib.sha256(canonical([*listing, *left_out])).hexdigest()


class Request(Model):
    """What a stage program is asked to make. Its URI is the program's only argument."""

    contract_version: int = CONTRACT_VERSION
    stage: StageName
    stage_version: int
    key: str
    attempt: int
    params: dict[str, Any]
    inputs: dict[StageName, Input] = Field(default_factory=dict)
    capture: str | None = Field(default=None, description="Where the photos are: a prefix, one zip or one film.")
    listing: CaptureListing | None = Field(default=None, description="The capture's files, which the key depends on.")
    degraded_from: str | None = Field(default=None, description="Key of what was asked before memory ran out.")
    longest_seconds: float = Field(default=86_400.0, description="A program that takes longer is taken to hang.")


class StoredFile(Model):
    """One file of an artifact: its place below the attempt's `files/`, size in bytes and SHA-256 in hex."""

    path: SafePath
    size: int
    sha256: str


def _one_tree(files: tuple[StoredFile, ...]) -> tuple[StoredFile, ...]:
    """The files, if they fit into one folder."""
    paths = {file.path for file in files}
    folders = {path[:place] for path in paths for place, sign in enumerate(path) if sign == "/"}
    if len(paths) < len(files) or paths & folders:
        raise ValueError("two of the files have one name, or one is called like the folder of another")
    return files


StoredFiles = Annotated[tuple[StoredFile, ...], AfterValidator(_one_tree)]


class Advice(Model):
    """A warning in words that a photographer understands."""

    code: str
    message: str
    advice: str = ""


class Usage(Model):
    """What an attempt took."""

    started: AwareDatetime
    finished: AwareDatetime
    wall_seconds: float = Field(description="From the request read to the files uploaded.")
    stage_seconds: float = Field(description="The stage's own work, without transfers.")
    cpu_seconds: float = Field(description="User and system time of the process and its children.")
    peak_memory_bytes: int = Field(description="Largest resident size of the process and its children together.")


class Program(Model):
    """What made the artifact."""

    version: str
    python: str
    platform: str
    libraries: dict[str, str] = Field(default_factory=dict)
    image: str | None = Field(default=None, description="Image digest, where the stage ran in a container.")


class Manifest(Model):
    """What an artifact is. Written last, created only once, never changed: its existence is the commit."""

    contract_version: int = CONTRACT_VERSION
    stage: StageName
    stage_version: int
    key: str
    attempt: int
    params: dict[str, Any]
    inputs: dict[StageName, Input]
    capture: str | None = None
    degraded_from: str | None = None
    files: StoredFiles
    metrics: dict[str, Any]
    warnings: tuple[Advice, ...] = ()
    usage: Usage
    program: Program

    @property
    def total_bytes(self) -> int:
        """Size of all files together."""
        return sum(file.size for file in self.files)

    def facts(self) -> dict[str, Any]:
        """What the artifact says of itself to people, whichever run made it."""
        return {
            "key": self.key,
            "attempt": self.attempt,
            "degraded_from": self.degraded_from,
            "seconds": self.usage.wall_seconds,
            "cpu_seconds": self.usage.cpu_seconds,
            "peak_memory_bytes": self.usage.peak_memory_bytes,
            "peak_gpu_memory_bytes": self.metrics.get("peak_gpu_memory_bytes"),
            "image": self.program.image,
            "version": self.program.version,
            "stage_version": self.stage_version,
            "params": self.params,
            "warnings": [warning.model_dump() for warning in self.warnings],
        }


class Failure(Model):
    """Why an attempt failed, for the retry policy and for a person."""

    code: FailureCode
    message: str
    hint: str = ""
    details: dict[str, Any] = Field(default_factory=dict)
    attempt: int = 0

    @classmethod
    def of(cls, error: BaseException, attempt: int) -> Failure:
        """Describe any exception that a stage let out."""
        if isinstance(error, StageError):
            return cls(code=error.code, message=error.message, hint=error.hint, details=error.details, attempt=attempt)
        if isinstance(error, UnsafePath):
            return cls(
                code=FailureCode.INVALID_REQUEST,
                message=str(error),
                hint="An artifact names a file outside its folder: find out who wrote it, and trigger again with its "
                "stage under Re-run stages (force).",
                attempt=attempt,
            )
        if isinstance(error, MemoryError):
            return cls(
                code=FailureCode.OUT_OF_MEMORY,
                message="The machine ran out of memory.",
                hint="Use a smaller preset, or a machine with more memory.",
                attempt=attempt,
            )
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return cls(
                code=FailureCode.INFRASTRUCTURE,
                message=f"The disk is full: {error}",
                hint="Free disk space, or point TMPDIR at a larger disk; then clear the task.",
                attempt=attempt,
            )
        return cls(
            code=FailureCode.CRASH,
            message=f"{type(error).__name__}: {error}",
            hint="This is a fault of the program and not of your photos: clear the failed task to try again. If it "
            "fails again, give the task's log, which has the traceback, to whoever runs this Airflow.",
            attempt=attempt,
        )


class Phase(Model):
    """One part of a stage's work, by the clock of the machine where it runs."""

    name: str
    started: AwareDatetime
    finished: AwareDatetime


class Progress(Model):
    """How far an attempt is. `done` never goes back."""

    stage: StageName
    attempt: int
    phase: str = ""
    done: float
    total: float
    unit: str
    rate: float | None = Field(default=None, description="Units a second.")
    eta_seconds: float | None = None
    figures: dict[str, float] = Field(default_factory=dict)
    phases: tuple[Phase, ...] = Field(default=(), description="The parts of the work so far; the last one goes on.")
    updated: AwareDatetime

    def __str__(self) -> str:
        """One line for a log or a terminal."""
        share = 100 * self.done / self.total if self.total else 0
        parts = [f"{self.done:g}/{self.total:g} {self.unit} ({share:.0f} %)"]
        if self.rate:
            parts.append(f"{self.rate:.3g} {self.unit}/s")
        if self.eta_seconds is not None:
            parts.append(f"{self.eta_seconds:.0f} s left")
        parts += [f"{name} {value:g}" for name, value in self.figures.items()]
        return f"{self.phase or self.stage}: " + ", ".join(parts)


class Claim(Model):
    """Who makes an attempt. Its number fences: whoever finds a higher one stops."""

    owner: str
    attempt: int
    claimed: AwareDatetime = Field(description="By the owner's clock, for people and for the job's name.")
    beats: int = Field(default=0, description="Counts while the owner lives.")


class JobRecord(Model):
    """What is known of an attempt's job only after its end: `job.json`."""

    profile: str
    backend: str
    handle: dict[str, Any] = Field(description="What identifies it on its backend.")
    machine: str | None = Field(default=None, description="What it ran on, by its name in the profile's `prices`.")
    billable_seconds: float | None = None
    price: float | None = Field(default=None, description="Estimated from the profile's `prices`, in US dollars.")


def canonical(value: Any) -> bytes:
    """JSON with sorted names and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def artifact_key(
    stage: str,
    stage_version: int,
    params: dict[str, Any],
    inputs: dict[str, str],
    *,
    capture_digest: str | None = None,
    generation: int = 0,
) -> str:
    """The name of an artifact: 32 hex digits that depend on what is asked and on nothing else.

    :param params: the stage's parameters, resolved: `StageParams.keyed`.
    :param inputs: artifact key of each input by name. Keys, not digests: structure from motion and training are
        not repeatable bit for bit, so digests of inputs would differ from machine to machine.
    :param capture_digest: `ingest` only: `CaptureListing.digest`.
    :param generation: raised by `force`.
    """
    asked = {
        "contract": CONTRACT_VERSION,
        "stage": stage,
        "version": stage_version,
        "params": params,
        "inputs": inputs,
        "capture": capture_digest,
        "generation": generation,
    }
    return hashlib.sha256(canonical(asked)).hexdigest()[:32]
