"""What a backend is: a few verbs over one job, whatever runs it."""

from __future__ import annotations

import ast
import datetime as dt
import hashlib
import re
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError
from typing_extensions import Self

from e2e3d_stages import __version__
from e2e3d_stages.contract.messages import Claim, Failure, Infrastructure, Model, StageName
from e2e3d_stages.registry import STAGES

# What identifies a running job; JSON, so that it survives a dead worker.
Handle = dict[str, Any]

# How far a log was read, as its backend counts; 0 is its beginning.
Cursor = int | str

# Bytes of a log that are held at a time.
LOG_CHUNK = 256 * 1024

DEFAULT_IMAGE = "e2e3d/{container}:{version}"


# What engines, nodes and services say of failures that pass, whatever else they say.
TRANSIENT = re.compile(
    r"too ?many ?requests|rate (limit|exceeded)|throttl|quota exceeded|(token|signature|credentials?)\b[^.]*\bexpired"
    r"|timed? ?out|timeout|deadline exceeded|try again|temporar|connection (reset|refused)|unexpected EOF"
    r"|network error|service unavailable",
    re.IGNORECASE,
)


class Unavailable(Infrastructure):
    """The backend is busy or does not answer; asked again in a moment, it may."""


def unanswered(backend: str, said: str) -> Unavailable:
    """What a backend's refusal means that is no mistake of whoever wants the job: nothing that lasts."""
    return Unavailable(
        f"{backend} does not do what it is asked: {said}",
        hint="It is asked again. If it stays so, its own log says why, or let the profile name another backend.",
    )


class BackendSettings(Model):
    """What a profile says about one stage on one backend."""

    backend: str
    threads: int | None = Field(default=None, ge=1, description="Cores to use; all that there are when empty.")
    machine: str | None = Field(default=None, description="What it runs on, by its name in the profile's `prices`.")
    poll_seconds: float = Field(default=2, gt=0, description="Pause between two looks at the job.")
    job_url: str | None = Field(
        default=None,
        description="Page that shows a job in a browser, as https://dashboard/#/pod/{namespace}/{pod}; names of the "
        "job's handle are filled in.",
    )


class ImageSettings(BackendSettings):
    """Settings of a backend that runs images."""

    image: str = Field(
        default=DEFAULT_IMAGE,
        description="The stage's image; {container} and {version} stand for sfm, 3dgs or compressor and this release.",
    )

    def image_of(self, job: JobSpec) -> str:
        """The image that runs a job."""
        container = STAGES[job.stage].container
        return self.image.replace("{container}", container).replace("{version}", __version__)


class OperatorSettings(ImageSettings):
    """Settings that hold, besides the names here, every argument of Airflow's operator that a stage does not own."""

    model_config = ConfigDict(extra="allow")

    # The operator's module and class, and which of its arguments are the stage's own.
    operator: ClassVar[tuple[str, str]]
    owned: ClassVar[frozenset[str]]

    @property
    def arguments(self) -> dict[str, Any]:
        """What the profile says besides the names here."""
        return self.model_extra or {}

    @model_validator(mode="after")
    def _the_operator_accepts_the_rest(self) -> Self:
        refused = [
            InitErrorDetails(type=PydanticCustomError("refused", told), loc=(name,), input=value)
            for name, value in self.arguments.items()
            if (told := self._refusal(name))
        ]
        if refused:
            raise ValidationError.from_exception_data(type(self).__name__, refused)
        return self

    @classmethod
    def _refusal(cls, name: str) -> Any:
        """Why a profile cannot set this, or nothing."""
        if name in cls.owned:
            return f"{name!r} is the stage's own and cannot be set"
        accepted = set(operator_arguments(*cls.operator)) - cls.owned
        if name in accepted:
            return None
        near = get_close_matches(name, accepted | set(cls.model_fields), n=1)
        return f"{cls.operator[1]} has no {name!r}" + (f"; did you mean {near[0]}?" if near else "")


@lru_cache
def operator_arguments(module: str, name: str) -> dict[str, str]:
    """An operator's own arguments with their annotations, read from its source: importing one may take seconds."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text())
    (operator,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    (init,) = (node for node in operator.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    return {
        given.arg: ast.unparse(given.annotation) if given.annotation else ""
        for given in [*init.args.args[1:], *init.args.kwonlyargs]
    }


class JobStatus(Model):
    """Whether a job runs and, once it has ended, what the backend that ran it knows of how."""

    running: bool
    exit_code: int | None = None
    failure: Failure | None = Field(
        default=None, description="Why it ended, where the backend knows more than the program."
    )
    billable_seconds: float | None = Field(
        default=None, description="What the backend bills of an ended job, or how long it ran where nobody bills."
    )


@dataclass(frozen=True)
class JobSpec:
    """One attempt to run.

    :param claim: which attempt it is, and the task it is for.
    :param request_uri: the program's only argument.
    :param capture: what the request asks ingest to read; a backend may have to bring it within reach.
    :param longest_seconds: a job that takes longer hangs; for backends that end what they bill for.
    :param environment: the store's address and credentials; never logged, never part of the handle.
    :param told: what else the program is told by its environment; no secret in it.
    """

    stage: StageName
    key: str
    claim: Claim
    request_uri: str
    capture: str | None = None
    longest_seconds: float = 86_400.0
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    told: Mapping[str, str] = field(default_factory=dict)

    @property
    def store_uri(self) -> str:
        """The artifact store's root."""
        return self.request_uri.partition("/artifacts/")[0]

    @property
    def name(self) -> str:
        """Unique for stage, key, claim and store, in 63 characters: a second submission meets the first.

        The claim's time is in it: some backends never forget a name, and an emptied store counts attempts anew.
        """
        digest = hashlib.sha256(f"{self.request_uri} {self.claim.claimed.isoformat()}".encode()).hexdigest()[:8]
        return f"e2e3d-{self.stage}-{self.key}-{self.claim.attempt}-{digest}"


@dataclass(frozen=True)
class Orphan:
    """Something of a job that its backend still has.

    :param what: it is, in words.
    :param since: when it was made, or last changed where nobody knows whose it is.
    :param attempt: stage, key and number, where the backend knows them.
    :param size: in bytes, where the backend knows it.
    """

    what: str
    handle: Handle
    since: dt.datetime
    attempt: tuple[str, str, int] | None = None
    size: int = 0


class Backend(ABC):
    """Runs stage programs in one kind of place.

    Every verb may raise `Infrastructure` for what may work later, and `Unavailable` at once when its service does not
    answer: whoever asks is patient, and asks again. What a service refuses is a mistake, `InvalidRequest`, only where
    `submit` asked for it or where Airflow may not ask at all; a job that is there was no mistake, and one that is not
    is gone.
    """

    Settings: ClassVar[type[BackendSettings]]
    # Whether a triggerer on another host can watch the job.
    deferrable: ClassVar[bool]
    # Whether jobs run on Airflow's own machines, which cost no more for it.
    own_machine: ClassVar[bool] = False

    def __init__(self, settings: BackendSettings) -> None:
        self.settings = settings

    @abstractmethod
    def submit(self, job: JobSpec) -> Handle:
        """Start the job and return at once."""

    @abstractmethod
    def find(self, job: JobSpec) -> Handle | None:
        """The job, if it is there: how a task goes on with what a dead worker started."""

    @abstractmethod
    def poll(self, handle: Handle) -> JobStatus:
        """How the job is."""

    @abstractmethod
    def logs(self, handle: Handle, cursor: Cursor) -> tuple[list[str], Cursor]:
        """Log lines after the cursor, a bounded number of them, and the next cursor."""

    @abstractmethod
    def cancel(self, handle: Handle) -> None:
        """Ask the job to stop and return at once; it saves a checkpoint, ends by itself and is cleared away."""

    def clean_up(self, handle: Handle, *, succeeded: bool) -> None:  # noqa: B027 - not every backend keeps something
        """Remove what the backend keeps of an ended job, as its settings say; its result is known by now."""

    def orphans(self, store_uri: str) -> Iterable[Orphan]:
        """What the backend has of jobs for a store, running or not, that would have gone with its job.

        What the profile says to keep is none; nor has every backend something.
        """
        return ()

    def remove_orphan(self, orphan: Orphan) -> None:  # noqa: B027 - not every backend has something
        """Remove what a job left, running or not."""

    def job_url(self, handle: Handle) -> str | None:
        """The page that shows the job in a browser, while it runs and afterwards; None where nobody knows one."""
        url = self.settings.job_url
        for name, value in handle.items() if url else ():
            url = url and url.replace(f"{{{name}}}", quote(str(value), safe=""))
        return url

    @property
    def machine(self) -> str | None:
        """What the job runs on, by its name in the profile's `prices`."""
        return self.settings.machine

    @property
    def has_gpu(self) -> bool:
        """Whether the settings ask for a GPU, as far as they tell."""
        return "gpu" in self.settings.model_dump_json().lower()

    def report(self, stage: StageName, figures: Mapping[str, float]) -> None:  # noqa: B027 - not every backend listens
        """Pass on what an ended job took and reached, where the settings ask for it.

        :param figures: billable_seconds, price in US dollars, psnr, ssim: those that are known.
        """

    def environment(self, job: JobSpec) -> dict[str, str]:
        """Everything that a program is told by its environment; holds secrets."""
        threads = {"E2E3D_THREADS": str(self.settings.threads)} if self.settings.threads else {}
        return {**threads, **job.told, **job.environment}


def start_apart(module: str, *arguments: str) -> None:
    """Run a module as a process of its own, which lives on when a stopped task is killed, within seconds."""
    subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def merged(values: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with some of them replaced, mappings name by name."""
    result = dict(values)
    for name, other in others.items():
        value = result.get(name)
        result[name] = merged(value, other) if isinstance(value, dict) and isinstance(other, dict) else other
    return result


def log_chunk(lines: Iterable[bytes], cursor: int) -> tuple[list[str], int]:
    """Of lines that begin with their time those after the cursor, as many as a chunk holds, and the next cursor.

    :param cursor: the last line's time in nanoseconds since 1970.
    """
    told: list[str] = []
    size = 0
    for line in lines:
        stamp, _, text = line.partition(b" ")
        if (moment := nanoseconds(stamp.decode())) <= cursor:
            continue
        cursor = moment
        told.append(text.decode(errors="replace").rstrip())
        size += len(line)
        if size > LOG_CHUNK:
            break
    return told, cursor


def nanoseconds(moment: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time, in UTC or with an offset."""
    clock, _, rest = moment.partition(".")
    if not rest:
        return _seconds(moment) * 10**9
    fraction = rest.rstrip("Z").partition("+")[0].partition("-")[0]
    return _seconds(clock + rest[len(fraction) :]) * 10**9 + int(fraction.ljust(9, "0"))


# Many lines share a second.
@lru_cache(maxsize=64)
def _seconds(moment: str) -> int:
    return int(dt.datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp())
