"""One attempt at an artifact, as Airflow sees it: the job that runs it and the files it writes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from itertools import count
from typing import Any, TypeVar

from airflow_provider_e2e3d import metrics, traces
from airflow_provider_e2e3d.backends.base import Backend, Cursor, Handle, JobStatus, Unavailable
from airflow_provider_e2e3d.costs.estimate import measured
from airflow_provider_e2e3d.costs.history import remember
from airflow_provider_e2e3d.profiles.file import profile_named
from airflow_provider_e2e3d.profiles.profile import CaptureSize, Profile
from e2e3d_stages.contract.messages import (
    Claim,
    Failure,
    FailureCode,
    Infrastructure,
    InvalidRequest,
    JobRecord,
    Manifest,
    Model,
    Overtaken,
    Progress,
    StageError,
    StageName,
)
from e2e3d_stages.registry import STAGES
from e2e3d_stages.store.artifacts import ArtifactStore

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 15.0
# How long a backend that is busy or away is asked again: for one thing to be done, and while a job is followed.
PATIENCE_SECONDS = 90.0
FOLLOW_PATIENCE_SECONDS = 600.0

# Of the log of a job that runs, at one look.
CHUNKS_A_LOOK = 32

Result = TypeVar("Result")


def retry_while_unavailable(ask: Callable[[], Result]) -> Result:
    """Ask something of a backend, again and again while it is busy or away.

    :raises Unavailable: when it stays so.
    """
    until, pause = time.monotonic() + PATIENCE_SECONDS, 0.5
    while True:
        try:
            return ask()
        except Unavailable as error:
            if time.monotonic() + pause > until:
                raise
            log.warning("Asking again: %s %s", error.message, error.hint)
        time.sleep(pause)
        pause = min(2 * pause, 10)


@contextmanager
def kept_alive(store: ArtifactStore, stage: str, key: str, claim: Claim) -> Iterator[None]:
    """Say that the owner lives while it does something long, as pulling an image, before its job can say so."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(HEARTBEAT_SECONDS):
            with suppress(StageError):
                store.heartbeat(stage, key, claim)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class AttemptState(Model):
    """What another process needs to go on with an attempt: no secret in it."""

    profile: str
    size: CaptureSize | None = None
    stage: StageName
    key: str
    claim: Claim
    # Empty where its backend knows the job no longer.
    handle: Handle
    cursor: Cursor = 0


class Attempt:
    """A claimed attempt and its job.

    :param store: where it writes.
    :param backend: where it runs.
    :param state: which one it is.
    """

    def __init__(self, store: ArtifactStore, backend: Backend, state: AttemptState) -> None:
        self.store = store
        self.backend = backend
        self.state = state
        self._next_heartbeat = 0.0
        self._answered = time.monotonic()

    @classmethod
    def deserialize(cls, values: dict[str, Any]) -> Attempt:
        """The attempt that another process wrote down."""
        state = AttemptState.model_validate(values)
        profile = profile_named(state.profile)
        store = profile.open_store()
        return cls(store, profile.backend(state.stage, state.size), state)

    def serialize(self) -> dict[str, Any]:
        """What `deserialize` reads, as JSON."""
        return self.state.model_dump(mode="json")

    def follow(self, write_line: Callable[[str], object]) -> JobStatus:
        """Look once: pass new log lines on, keep the claim alive, say how the job is.

        A job whose backend or store does not answer is taken to run on.

        :raises Infrastructure: when they have not answered for long.
        :raises InvalidRequest: when it cannot be followed; it is stopped, since nobody would see its end.
        :raises Overtaken: when a later attempt has taken over; it is stopped, since nobody wants it.
        """
        try:
            status = self._look(write_line)
            if status.running and time.monotonic() >= self._next_heartbeat:
                self.store.heartbeat(self.state.stage, self.state.key, self.state.claim)
                self._next_heartbeat = time.monotonic() + HEARTBEAT_SECONDS
                if metrics.is_on():
                    self._time.count(self.store.progress(self.state.stage, self.state.key, self.state.claim.attempt))
            if metrics.is_on() and not status.running:
                self._time.end()
        except Infrastructure as error:
            metrics.UNANSWERED.tell(by="backend" if isinstance(error, Unavailable) else "store")
            if time.monotonic() - self._answered > FOLLOW_PATIENCE_SECONDS:
                raise
            log.warning("The job is taken to run on: %s", error.message)
            return JobStatus(running=True)
        except (InvalidRequest, Overtaken):
            with suppress(StageError):
                self.cancel()
            raise
        self._answered = time.monotonic()
        return status

    @cached_property
    def _time(self) -> _JobTime:
        return _JobTime(self.state.stage, self.backend.settings.backend)

    def _look(self, write_line: Callable[[str], object]) -> JobStatus:
        if not self.state.handle:
            return JobStatus(running=False)
        status = self.backend.poll(self.state.handle)
        # A log that grows faster than it is read would keep the look from ending; that of an ended job is read out.
        for _ in range(CHUNKS_A_LOOK) if status.running else count():
            lines, cursor = self.backend.logs(self.state.handle, self.state.cursor)
            for line in lines:
                write_line(line)
            if cursor == self.state.cursor:
                break
            self.state = self.state.model_copy(update={"cursor": cursor})
        return status

    def is_judged(self) -> bool:
        """Whether it is known why the attempt failed, or its job was stopped, which a new attempt may go on from."""
        if self.store.failure(self.state.stage, self.state.key, self.state.claim.attempt):
            return True
        status = retry_while_unavailable(lambda: self.backend.poll(self.state.handle))
        return bool(status.failure and self.failure(status).code is FailureCode.INTERRUPTED)

    def cancel(self) -> None:
        """Ask the job to stop."""
        retry_while_unavailable(lambda: self.backend.cancel(self.state.handle))

    def clean_up(self, *, succeeded: bool) -> None:
        """Remove what the backend keeps of it."""
        if self.state.handle:
            retry_while_unavailable(lambda: self.backend.clean_up(self.state.handle, succeeded=succeeded))

    def record(self, profile: Profile, status: JobStatus, metrics: Mapping[str, Any]) -> JobRecord:
        """Write down, and report where the profile asks for it, what the ended job took.

        :param metrics: of the artifact, if there is one.
        """
        stage = self.state.stage
        record = JobRecord(
            profile=self.state.profile,
            backend=self.backend.settings.backend,
            handle=self.state.handle,
            machine=self.backend.machine,
            billable_seconds=status.billable_seconds,
            price=profile.price(self.backend, status.billable_seconds),
        )
        self.store.write_job(stage, self.state.key, self.state.claim.attempt, record)
        quality = {name: metrics[name] for name in ("psnr", "ssim") if name in metrics}
        figures = {**record.model_dump(include={"billable_seconds", "price"}, exclude_none=True), **quality}
        try:
            self.backend.report(stage, figures)
        except StageError as error:
            # The work is done; only its figures are missed somewhere.
            log.warning("The job's figures could not be reported: %s", error.message)
        return record

    def remember(self, manifest: Manifest, record: JobRecord) -> None:
        """Add to the history from which runs are estimated what the artifact took."""
        size = CaptureSize.of(manifest.metrics) if manifest.stage == "ingest" else self.state.size
        # A later attempt may have gone on from a checkpoint, and tells less than the whole.
        if size is None or (manifest.attempt, self.state.claim.attempt) != (1, 1):
            return
        try:
            took = measured(manifest, self.backend, size, record.billable_seconds)
            remember(self.store.storage, self.state.profile, took, self.state.key)
        except StageError as error:
            # The work is done; only the next estimate is a little worse.
            log.warning("What the job took could not be remembered: %s", error.message)

    def tell(
        self, task: Mapping[str, str] | None, manifest: Manifest | None, failure: Failure | None, record: JobRecord
    ) -> None:
        """Tell what the ended job made, took and cost, as metrics and in the run's trace.

        :param task: Airflow's name of its task's span, where there is one.
        """
        if traces.is_on():
            stage, key, claim = self.state.stage, self.state.key, self.state.claim
            progress = self.store.progress(stage, key, claim.attempt)
            traces.tell_job(task, stage, key, claim, record, progress.phases if progress else (), failure)
        where = {"stage": self.state.stage, "backend": record.backend}
        metrics.TRIES.tell(1, **where, result=failure.code.value if failure else "made")
        metrics.BILLED_SECONDS.tell(record.billable_seconds or 0, **where)
        metrics.COST.tell(record.price or 0, **where)
        # Another attempt, of a run that this one met, has told of its own.
        if manifest is not None and manifest.attempt == self.state.claim.attempt:
            metrics.STAGE_DURATION.tell(manifest.usage.wall_seconds, **where)
            waited = (manifest.usage.started - self.state.claim.claimed).total_seconds()
            # Two machines' clocks: for people, and nothing is decided by it.
            metrics.QUEUE_DURATION.tell(max(0.0, waited), **where)
            metrics.STORED.tell(manifest.total_bytes, **where)

    def failure(self, status: JobStatus) -> Failure:
        """Why the job ended without an artifact; written down for others where the program did not know.

        What the program says goes first, except where it only saw itself fall over and its backend knows why.
        """
        stage, key, number = self.state.stage, self.state.key, self.state.claim.attempt
        told = self.store.failure(stage, key, number)
        known = status.failure and status.failure.code is not FailureCode.CRASH
        if told and not (told.code is FailureCode.CRASH and known):
            return told
        failure = status.failure or _failure_of_exit(stage, status.exit_code)
        failure = failure.model_copy(update={"attempt": number})
        self.store.write_failure(stage, key, failure)
        return failure


class _JobTime:
    """Counts a followed job's seconds by what it does, by this process's own clock."""

    def __init__(self, stage: str, backend: str) -> None:
        self._where = {"stage": stage, "backend": backend}
        # Its own program ends it after twice as long; nobody does where no program has begun.
        self._patience = STAGES[stage].longest.silent / 2
        self._counted = self._moved = time.monotonic()
        self._mark: tuple[str, float] | None = None

    def count(self, progress: Progress | None) -> None:
        """The seconds since the last time, for what the job is seen to do now."""
        moment = time.monotonic()
        mark = (progress.phase, progress.done) if progress else None
        if mark != self._mark:
            self._mark, self._moved = mark, moment
        stuck = moment - self._moved >= self._patience
        self._tell(moment, "stuck" if stuck else "running" if progress else "waiting")

    def end(self) -> None:
        """The job has ended, so it has run."""
        self._tell(time.monotonic(), "running")

    def _tell(self, moment: float, state: str) -> None:
        metrics.JOB_SECONDS.tell(moment - self._counted, **self._where, state=state)
        self._counted = moment


def _failure_of_exit(stage: str, exit_code: int | None) -> Failure:
    """What an exit status tells when nothing else does."""
    code = next((code for code in FailureCode if code.exit_code == exit_code), FailureCode.CRASH)
    if code is not FailureCode.CRASH:
        return Failure(
            code=code,
            message=f"The {stage} program ended with exit status {exit_code} ({code.value}).",
            hint="It could not store its reason: the task's log has it.",
        )
    return Failure(
        code=code,
        message=f"The {stage} program ended without a word "
        f"(exit status {'unknown' if exit_code is None else exit_code}).",
        hint="Somebody stopped it, or the machine did when memory ran out: then choose a smaller preset or a machine "
        "with more memory. The next try goes on from the newest checkpoint; when none is left, clear the task.",
    )
