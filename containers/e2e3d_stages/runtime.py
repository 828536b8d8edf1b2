"""Runs any stage from a request's URI: fetch, verify, work, report, upload, commit."""

from __future__ import annotations

import importlib
import logging
import os
import platform
import resource
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from e2e3d_stages import __version__
from e2e3d_stages.capture import LocalCapture, fetch_capture
from e2e3d_stages.contract import (
    CONTRACT_VERSION,
    GRACE_SECONDS,
    Advice,
    Failure,
    FailureCode,
    Infrastructure,
    Interrupted,
    InvalidRequest,
    Manifest,
    Program,
    Progress,
    Request,
    StageError,
    StageName,
    StageParams,
    Usage,
    now,
)
from e2e3d_stages.presets import STAGES
from e2e3d_stages.store import ArtifactStore

log = logging.getLogger("e2e3d")

PROGRESS_EVERY_SECONDS = 2.0
# What is measured to tell the rate.
RATE_SECONDS = 30.0
_LIBRARIES = ("pycolmap", "torch", "gsplat", "numba", "numpy", "pillow", "faiss-cpu")


@dataclass(frozen=True)
class InputArtifact:
    """What a stage reads: local files (read only), the manifest that vouches for them and the manifest's SHA-256."""

    folder: Path
    manifest: Manifest
    digest: str


class Job:
    """What a stage is given to do its work with.

    :param params: the stage's parameters.
    :param inputs: by stage name.
    :param capture: `ingest` only: the photos, or one zip.
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
        self._ending = threading.Timer(GRACE_SECONDS, os._exit, [FailureCode.INTERRUPTED.exit_code])
        self._ending.daemon = True
        self._reporter = _Reporter(store, request)

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
        """Report a transfer of so many bytes; returns what hears of each part that was moved."""
        lock, moved = threading.Lock(), 0

        def hear(count: int) -> None:
            nonlocal moved
            with lock:
                moved += count
                self.progress(round(moved / 1e6, 1), round(total / 1e6, 1), "MB", phase=phase)

        hear(0)
        return hear

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
        """Ask the stage to stop, as SIGTERM does; one that does not within the grace period is ended."""
        if not self._stop.is_set():
            self._stop.set()
            self._ending.start()

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
        """Store the last progress and stop reporting; who asked the stage to stop waits no longer."""
        self._ending.cancel()
        self._reporter.close()


class _Reporter:
    """Stores the newest progress, and what is shown with it, every few seconds beside the work; logs it as one line."""

    def __init__(self, store: ArtifactStore, request: Request) -> None:
        self._store = store
        self._request = request
        self._lock = threading.Lock()
        self._latest: Progress | None = None
        self._phase = ""
        self._marks: deque[tuple[float, float]] = deque()
        self._closed = threading.Event()
        self._logged: Progress | None = None
        self._shown: dict[str, bytes] = {}
        self._thread = threading.Thread(target=self._loop, name="progress", daemon=True)
        self._thread.start()

    def update(self, done: float, total: float, unit: str, phase: str, figures: dict[str, float]) -> None:
        moment = time.monotonic()
        with self._lock:
            if self._latest is None or phase != self._phase:
                # How a phase ended is told, however soon the next one begins.
                self._log()
                self._phase = phase
                self._marks.clear()
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
                updated=now(),
            )

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
            except Exception as error:  # a lost progress report must not end hours of work
                log.warning("Progress could not be stored: %s", error)

    def _log(self) -> None:
        """Tell what is new, once."""
        if self._latest is not None and self._latest is not self._logged:
            log.info("%s", self._latest)
            self._logged = self._latest

    def _store_progress(self, latest: Progress | None) -> None:
        if latest is not None:
            # Also without news: it tells others that this attempt is alive.
            self._store.write_progress(self._request.key, latest.model_copy(update={"updated": now()}))


def thread_count() -> int:
    """Cores to use: `E2E3D_THREADS`, else what this process may run on."""
    asked = os.environ.get("E2E3D_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else len(os.sched_getaffinity(0))


def run(request_uri: str, *, ends: Callable[[Failure], bool] = lambda _failure: True) -> int:
    """Do what a request asks; returns the process's exit status.

    Everything a stage lets out becomes `failure.json` and an exit status; nothing is raised.

    :param ends: hears of a failure, and says whether the attempt ends with it. It does not where the place starts
        the same job again; then nothing is stored.
    """
    root, _, path = request_uri.partition("/artifacts/")
    try:
        store = ArtifactStore.open(root)
        request = store.read_request(f"artifacts/{path}")
        if request is None:
            raise InvalidRequest(f"There is no request at {request_uri}.", hint="Give the address that Airflow wrote.")
    except StageError as error:
        log.error("%s %s", error.message, error.hint)
        ends(Failure.of(error, 0))
        return error.code.exit_code
    try:
        with _on_sigterm(_interrupt):
            _run(store, request)
        return 0
    except BaseException as error:
        failure = Failure.of(error, request.attempt)
        log.error("%s failed (%s): %s", request.stage, failure.code.value, failure.message, exc_info=error)
        try:
            if ends(failure):
                store.write_failure(request.stage, request.key, failure)
        except StageError as broken:
            log.error("The failure could not be stored either: %s", broken.message)
        return failure.code.exit_code


def _run(store: ArtifactStore, request: Request) -> None:
    started, clock = now(), time.monotonic()
    params = _check(request)
    log.info("%s %s, attempt %d, %d threads", request.stage, request.key, request.attempt, thread_count())
    # Named after its process: what a killed one leaves can be told from what is in use.
    with tempfile.TemporaryDirectory(prefix=f"e2e3d-{request.stage}-{os.getpid()}-") as name:
        folder = Path(name)
        job = Job(store=store, request=request, params=params, inputs={}, capture=None, folder=folder)
        try:
            for stage in request.inputs:
                job.inputs[stage] = _fetch_input(store, request, job, stage, folder)
            if request.capture:
                job.capture = fetch_capture(
                    request.capture, folder / "capture", partial(job.transfer, "fetching photos")
                )
            with _on_sigterm(job.stop):
                stage_clock = time.monotonic()
                metrics = _work(request.stage, job)
                stage_seconds = time.monotonic() - stage_clock
                job.check_stop()
            files = store.upload(
                job.output, request.stage, request.key, request.attempt, partial(job.transfer, "storing")
            )
        finally:
            job.close()
        manifest = Manifest(
            stage=request.stage,
            stage_version=request.stage_version,
            key=request.key,
            attempt=request.attempt,
            params=request.params,
            inputs=request.inputs,
            capture=request.capture,
            degraded_from=request.degraded_from,
            files=files,
            metrics=metrics,
            warnings=tuple(job.warnings),
            usage=_usage(started, clock, stage_seconds),
            program=_program(),
        )
    if store.commit(manifest):
        log.info("%s done: %d files, %.1f MB", request.stage, len(files), manifest.total_bytes / 1e6)
    else:
        log.info("%s: another attempt was committed first; its artifact stands", request.stage)
    store.drop_checkpoints(request.stage, request.key)


def _work(stage: StageName, job: Job) -> dict[str, Any]:
    """The stage's own code, with the libraries that only it needs; returns its metrics."""
    try:
        metrics: dict[str, Any] = importlib.import_module(f"e2e3d_stages.{stage}.stage").run(job)
        return metrics
    except ModuleNotFoundError as error:
        container = STAGES[stage].container
        raise InvalidRequest(
            f"{error.name}, which {stage} needs, is not installed where it runs.",
            hint=f"Run it in the image e2e3d/{container}, or install 'airflow-provider-e2e3d[{container}]' there.",
        ) from error


@contextmanager
def _on_sigterm(work: Callable[[], None]) -> Iterator[None]:
    """Answer SIGTERM so for a while; only a process's main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, lambda _signal, _frame: work())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt() -> None:
    """Leave a transfer at once: it has nothing to save."""
    raise Interrupted("The stage was stopped while files were on their way.", hint="Clear its task to do it again.")


def _check(request: Request) -> StageParams:
    """Refuse a request that this program does not speak."""
    stage = STAGES[request.stage]
    asked = (request.contract_version, request.stage_version)
    if asked != (CONTRACT_VERSION, stage.version):
        raise InvalidRequest(
            f"Airflow and the {request.stage} program are of different releases: version {request.stage_version} under "
            f"contract {request.contract_version} was asked for, and this is {stage.version} under {CONTRACT_VERSION}.",
            hint="Whoever runs this Airflow must install the provider and the images of one release.",
        )
    return stage.validate(request.params)


def _fetch_input(store: ArtifactStore, request: Request, job: Job, stage: StageName, folder: Path) -> InputArtifact:
    wanted = request.inputs[stage]
    manifest = store.manifest(stage, wanted.key, digest=wanted.digest)
    if manifest is None:
        raise Infrastructure(
            f"What {stage} made ({wanted.key}) is no longer in the store.",
            hint=f"Clear the run's task {stage}, and it is made again.",
        )
    files = store.fetch(manifest, folder / "inputs" / stage, partial(job.transfer, f"fetching {stage}"))
    return InputArtifact(files, manifest, wanted.digest)


def _usage(started: Any, clock: float, stage_seconds: float) -> Usage:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    kilobytes = own.ru_maxrss + children.ru_maxrss
    return Usage(
        started=started,
        finished=now(),
        wall_seconds=round(time.monotonic() - clock, 3),
        stage_seconds=round(stage_seconds, 3),
        cpu_seconds=round(own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime, 3),
        peak_memory_bytes=kilobytes * 1024,
    )


def _program() -> Program:
    libraries = {}
    for name in _LIBRARIES:
        try:
            libraries[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return Program(
        version=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        libraries=libraries,
        image=os.environ.get("E2E3D_IMAGE"),
    )
