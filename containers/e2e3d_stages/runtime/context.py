"""What a stage is given to do its work with, and how its progress is told."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e3d_stages.contract.messages import (
    Advice,
    Interrupted,
    Manifest,
    Overtaken,
    Phase,
    Progress,
    Request,
    StageParams,
    now,
)
from e2e3d_stages.contract.spec import StageSpec
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.captures import LocalCapture

log = logging.getLogger("e2e3d")

PROGRESS_EVERY_SECONDS = 2.0
# How often a program looks whether a later attempt has taken over.
LOOK_EVERY_SECONDS = 15.0
# Of the parts of a stage's work that are told; some go to and fro between two.
MOST_PHASES = 64
# What is measured to tell the rate.
RATE_SECONDS = 30.0


@dataclass(frozen=True)
class InputArtifact:
    """What a stage reads.

    :param folder: its files, read only.
    :param manifest: what vouches for them.
    :param digest: the manifest's SHA-256.
    :param spec: of the stage that made it.
    """

    folder: Path
    manifest: Manifest
    digest: str
    spec: StageSpec


class StageContext:
    """What a stage is given to do its work with.

    :param params: the stage's parameters.
    :param inputs: by stage name.
    :param capture: `ingest` only: the photos and films, or one zip.
    :param output: every file below this folder becomes a file of the artifact.
    :param scratch: a folder that is thrown away.
    :param threads: cores to use.
    """

    def __init__(
        self,
        *,
        store: ArtifactStore,
        request: Request,
        params: StageParams,
        inputs: dict[str, InputArtifact],
        capture: LocalCapture | None,
        folder: Path,
    ) -> None:
        self.params: Any = params
        self.inputs = inputs
        self.capture = capture
        self.output = folder / "output"
        self.scratch = folder / "scratch"
        self.output.mkdir()
        self.scratch.mkdir()
        self.threads = thread_count()
        self.warnings: list[Advice] = []
        self._store = store
        self._request = request
        self._stop = threading.Event()
        self._reporter = _Reporter(store, request, self.stop)

    def progress(self, done: float, total: float, unit: str, *, phase: str = "", **figures: float) -> None:
        """Say how far the work is; as often as you like, it is stored every few seconds.

        :param phase: which part of the stage, in a word or two; each part counts from zero.
        """
        self._reporter.update(done, total, unit, phase, figures)

    def show(self, name: str, data: bytes) -> None:
        """Let people see the work while it is done: a file beside `progress.json`, which the next of its name replaces.

        It is no part of the artifact, and costs the stage nothing: it is stored with the next progress, or not at all.
        """
        self._reporter.show(name, data)

    def transfer(self, phase: str, total: int) -> Callable[[int], None]:
        """Report a transfer of so many bytes; returns what is called with the size of each part that was moved."""
        lock, moved = threading.Lock(), 0

        def report(count: int) -> None:
            nonlocal moved
            with lock:
                moved += count
                self.progress(round(moved / 1e6, 1), round(total / 1e6, 1), "MB", phase=phase)

        report(0)
        return report

    def warn(self, code: str, message: str, advice: str = "") -> None:
        """Add a warning for the report, in a photographer's words."""
        log.warning("%s %s", message, advice)
        self.warnings.append(Advice(code=code, message=message, advice=advice))

    @property
    def stopping(self) -> bool:
        """Whether the stage was asked to stop."""
        return self._stop.is_set()

    def check_stop(self) -> None:
        """Leave, when asked to.

        :raises Interrupted: then.
        """
        if self.stopping:
            raise Interrupted("The stage was stopped.", hint="Clear its task to go on from the last checkpoint.")

    def stop(self) -> None:
        """Ask the stage to stop, as SIGTERM does."""
        self._stop.set()

    @property
    def moved(self) -> float:
        """When the stage last said how far it is, by the monotonic clock."""
        return self._reporter.moved

    @contextmanager
    def checkpoint(self, step: int) -> Iterator[Path]:
        """A folder whose files become the checkpoint of a step, complete or not there."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as name:
            yield Path(name)
            self._store.save_checkpoint(self._request.stage, self._request.key, self._request.attempt, step, Path(name))
        log.info("Checkpoint of step %d saved", step)

    def latest_checkpoint(self) -> tuple[int, Path] | None:
        """The newest complete checkpoint under this key, whoever made it: its step and a folder."""
        return self._store.latest_checkpoint(self._request.stage, self._request.key, self.scratch / "checkpoint")

    def close(self) -> None:
        """Store the last progress and stop reporting."""
        self._reporter.close()


class _Reporter:
    """Stores the newest progress, and what is shown with it, every few seconds beside the work; logs it as one line."""

    def __init__(self, store: ArtifactStore, request: Request, stop: Callable[[], None]) -> None:
        self._store = store
        self._request = request
        self._stop = stop
        self._looked = time.monotonic()
        self._lock = threading.Lock()
        self._latest: Progress | None = None
        self._phase = ""
        self._phases: tuple[Phase, ...] = ()
        self._marks: deque[tuple[float, float]] = deque()
        self._closed = threading.Event()
        self._logged: Progress | None = None
        self._shown: dict[str, bytes] = {}
        self.moved = time.monotonic()
        self._thread = threading.Thread(target=self._loop, name="progress", daemon=True)
        self._thread.start()

    def update(self, done: float, total: float, unit: str, phase: str, figures: dict[str, float]) -> None:
        moment = time.monotonic()
        with self._lock:
            if self._latest is None or phase != self._phase or done > self._latest.done:
                self.moved = moment
            if self._latest is None or phase != self._phase:
                # How a phase ended is told, however soon the next one begins.
                self._log()
                self._phase = phase
                self._marks.clear()
                self._begin_phase(phase)
            else:
                done = max(done, self._latest.done)
            rate = self._rate(moment, done)
            self._latest = Progress(
                stage=self._request.stage,
                attempt=self._request.attempt,
                phase=phase,
                done=done,
                total=total,
                unit=unit,
                rate=rate,
                eta_seconds=(total - done) / rate if rate else None,
                figures=figures,
                phases=self._phases_so_far(),
                updated=now(),
            )

    def _begin_phase(self, name: str) -> None:
        self._phases = self._phases_so_far()
        if len(self._phases) < MOST_PHASES:
            self._phases += (Phase(name=name, started=now(), finished=now()),)

    def _phases_so_far(self) -> tuple[Phase, ...]:
        """With the last one going on until now."""
        *before, last = self._phases or (None,)
        return () if last is None else (*before, last.model_copy(update={"finished": now()}))

    def _rate(self, moment: float, done: float) -> float | None:
        """Units a second of late: work that becomes slower, as training does, would never end on time by the mean."""
        marks = self._marks
        if not marks or moment - marks[-1][0] >= RATE_SECONDS / 100:
            marks.append((moment, done))
        while len(marks) > 2 and marks[1][0] <= moment - RATE_SECONDS:
            marks.popleft()
        elapsed, gained = moment - marks[0][0], done - marks[0][1]
        return gained / elapsed if elapsed > 0.5 and gained > 0 else None

    def show(self, name: str, data: bytes) -> None:
        with self._lock:
            self._shown[name] = data

    def close(self) -> None:
        self._closed.set()
        self._thread.join(timeout=30)

    def _loop(self) -> None:
        closing = False
        while not closing:
            closing = self._closed.wait(PROGRESS_EVERY_SECONDS)
            with self._lock:
                self._log()
                latest, shown = self._latest, self._shown
                self._shown = {}
            try:
                self._store_progress(latest)
                for name, data in shown.items():
                    self._store.show(self._request, name, data)
                self._look()
            except Overtaken as overtaken:
                log.warning("%s The stage stops. %s", overtaken.message, overtaken.hint)
                self._stop()
            except Exception as error:  # a lost progress report must not end hours of work
                log.warning("Progress could not be stored: %s", error)

    def _look(self) -> None:
        """Look now and then whether this attempt is still the one."""
        if time.monotonic() - self._looked >= LOOK_EVERY_SECONDS:
            self._store.check_newest(self._request.stage, self._request.key, self._request.attempt)
            self._looked = time.monotonic()

    def _log(self) -> None:
        """Log what is new, once."""
        if self._latest is not None and self._latest is not self._logged:
            log.info("%s", self._latest)
            self._logged = self._latest

    def _store_progress(self, latest: Progress | None) -> None:
        if latest is not None:
            # Also without news: it tells others that this attempt is alive.
            told = {"updated": now(), "phases": self._phases_so_far()}
            self._store.write_progress(self._request.key, latest.model_copy(update=told))


def thread_count() -> int:
    """Cores to use: `E2E3D_THREADS`, else what this process may run on."""
    asked = os.environ.get("E2E3D_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else len(os.sched_getaffinity(0))
