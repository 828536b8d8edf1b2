"""A backend in this process's memory, on which StageOperator is proved.

Its jobs are threads in which the real runtime, with a stage that does what a test says, writes to a real store.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from airflow_provider_e2e3d.backends.base import Backend, BackendSettings, Cursor, Handle, JobSpec, JobStatus
from airflow_provider_e2e3d.profiles import profile as profiles
from e2e3d_stages import program
from e2e3d_stages.contract.messages import Failure, FailureCode, OutOfMemory, UnreadableCapture
from e2e3d_stages.runtime.context import StageContext
from tests.backends.places import Place
from tests.conftest import until

_KILLED = 137
_this_thread = threading.local()


class ScriptedJob:
    """A job that was started.

    :param word: what its stage does: succeed, wait, die, out of memory or unreadable.
    """

    def __init__(self, spec: JobSpec, word: str) -> None:
        self.word = word
        self.lines: list[str] = []
        self.exit_code: int | None = None
        self.at_work = threading.Event()
        self._go_on = threading.Event()
        self._runtime: StageContext | None = None
        self._thread = threading.Thread(target=self._run, args=(spec.request_uri,), daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._thread.is_alive()

    def go_on(self) -> None:
        """Let a job that waits do its work."""
        self._go_on.set()

    def stop(self) -> None:
        """Ask it to stop, as SIGTERM does."""
        self.at_work.wait(30)
        if self._runtime:
            self._runtime.stop()
        self.go_on()

    def work(self, stage: str, job: StageContext) -> dict[str, Any]:
        """Stands for the stage's own code."""
        self._runtime = job
        resumed = job.latest_checkpoint()
        step = resumed[0] if resumed else 0
        self.lines.append(f"{stage} does {self.word}, from step {step}")
        self.at_work.set()
        if self.word == "wait":
            self._go_on.wait(60)
        if self.word == "die" or job.stopping:
            with job.checkpoint(120) as folder:
                (folder / "state").write_text("x")
        if self.word in _ENDS:
            raise _ENDS[self.word]
        job.check_stop()
        (job.output / "file").write_text(stage)
        return {"photos": 10, "long_side": 4000, "resumed_from": step}

    def _run(self, uri: str) -> None:
        _this_thread.job = self
        # A program that was killed leaves no word of why.
        exit_code = program.run(uri, ends=lambda _failure: self.word != "die")
        self.exit_code = _KILLED if self.word == "die" else exit_code


_ENDS: dict[str, BaseException] = {
    "die": SystemExit(_KILLED),
    "unreadable": UnreadableCapture("There are only 2 photos.", hint="Take at least 3."),
    "out of memory": OutOfMemory("The GPU's memory ran out."),
}


class ScriptedSettings(BackendSettings):
    """A thread.

    :param keeps_ended: they stay, as an engine's containers do, until they are cleared away; else they are never found
        again, as processes are not.
    """

    backend: Literal["scripted"]
    keeps_ended: bool = True


class ScriptedBackend(Backend):
    """Starts jobs in the one place that there is at a time."""

    Settings = ScriptedSettings
    deferrable = True
    settings: ScriptedSettings
    place: ClassVar[ScriptedPlace]

    def submit(self, job: JobSpec) -> Handle:
        if job.name not in self.place.jobs:
            self.place.jobs[job.name] = ScriptedJob(job, self.place.next_word(job.stage))
        return {"job": job.name}

    def find(self, job: JobSpec) -> Handle | None:
        found = self.place.jobs.get(job.name)
        return {"job": job.name} if found and (found.running or self.settings.keeps_ended) else None

    def poll(self, handle: Handle) -> JobStatus:
        job = self.place.jobs.get(handle["job"])
        if job is None:
            return JobStatus(running=False)
        stopped = Failure(code=FailureCode.INTERRUPTED, message="The job was stopped.", hint="Clear its task.")
        return JobStatus(
            running=job.running,
            exit_code=job.exit_code,
            failure=stopped if job.exit_code == FailureCode.INTERRUPTED.exit_code else None,
        )

    def logs(self, handle: Handle, cursor: Cursor) -> tuple[list[str], Cursor]:
        job = self.place.jobs.get(handle["job"])
        lines = job.lines[int(cursor) :] if job else []
        return lines, int(cursor) + len(lines)

    def cancel(self, handle: Handle) -> None:
        if job := self.place.jobs.get(handle["job"]):
            job.stop()

    def clean_up(self, handle: Handle, *, succeeded: bool) -> None:
        self.place.jobs.pop(handle["job"], None)


class ScriptedPlace(Place):
    """The jobs of one test, and what they are told."""

    name = "scripted"

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder)
        self.settings["poll_seconds"] = 0.02
        self.jobs: dict[str, ScriptedJob] = {}
        # Stages in the order in which their jobs were started; by stage a word a job, the last one repeated.
        self.calls: list[str] = []
        self.words: dict[str, list[str]] = {}
        monkeypatch.setitem(profiles.BACKENDS, self.name, (__name__, ScriptedBackend.__name__))
        monkeypatch.setattr(ScriptedBackend, "place", self, raising=False)
        monkeypatch.setattr(program, "_work", lambda stage, job: _this_thread.job.work(stage, job))

    def next_word(self, stage: str) -> str:
        """What a job that begins now does."""
        self.calls.append(stage)
        words = self.words.get(stage, ["succeed"])
        return words[min(self.calls.count(stage), len(words)) - 1]

    def newest(self, stage: str) -> ScriptedJob:
        """The stage's job that began last and was not cleared away."""
        return next(job for name, job in reversed(self.jobs.items()) if name.startswith(f"e2e3d-{stage}-"))

    def left(self) -> list[str]:
        """Every job that was not cleared away, or runs."""
        return [name for name, job in self.jobs.items() if job.running or self.settings.get("keeps_ended", True)]

    def close(self) -> None:
        for job in self.jobs.values():
            job.stop()
        until(lambda: not any(job.running for job in self.jobs.values()))
