"""What a backend is: a few verbs over one job, whatever kind of place runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from e2e3d_stages.contract import Model

# What identifies a running job; JSON, so that it survives a dead worker.
Handle = dict[str, Any]


class BackendSettings(Model):
    """What a profile says about one stage on one backend."""

    backend: str


@dataclass(frozen=True)
class JobStatus:
    """Whether a job runs and, once it has ended, its exit status where that is known."""

    running: bool
    exit_code: int | None = None


@dataclass(frozen=True)
class JobSpec:
    """One attempt to run.

    :param name: unique for stage, key and attempt: a second submission meets the first.
    :param request_uri: the program's only argument.
    :param environment: credentials of the store; never logged, never part of the handle.
    """

    name: str
    request_uri: str
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


class Backend(ABC):
    """Runs stage programs in one kind of place."""

    Settings: ClassVar[type[BackendSettings]]
    # Whether a triggerer on another host can watch the job.
    deferrable: ClassVar[bool]

    def __init__(self, settings: BackendSettings) -> None:
        self.settings = settings

    @abstractmethod
    def submit(self, job: JobSpec) -> Handle:
        """Start the job and return at once."""

    @abstractmethod
    def find(self, job: JobSpec) -> Handle | None:
        """The job, if it runs already: how a task goes on with what a dead worker started."""

    @abstractmethod
    def poll(self, handle: Handle) -> JobStatus:
        """How the job is."""

    @abstractmethod
    def logs(self, handle: Handle, cursor: int) -> tuple[list[str], int]:
        """Log lines after the cursor, a bounded number of them, and the next cursor."""

    @abstractmethod
    def cancel(self, handle: Handle) -> None:
        """Ask the job to stop and return at once; it saves a checkpoint and ends by itself."""
