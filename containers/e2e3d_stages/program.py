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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from e2e3d_stages import __version__
from e2e3d_stages.contract.formatting import as_size
from e2e3d_stages.contract.messages import (
    CONTRACT_VERSION,
    Failure,
    Infrastructure,
    Interrupted,
    InvalidRequest,
    Manifest,
    Program,
    Request,
    StageError,
    StageName,
    StageParams,
    Usage,
    now,
)
from e2e3d_stages.registry import STAGES, stage_named
from e2e3d_stages.runtime.context import InputArtifact, StageContext, thread_count
from e2e3d_stages.runtime.watchdog import Watchdog
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.captures import LocalCapture, fetch_capture
from e2e3d_stages.store.opening import open_storage

log = logging.getLogger("e2e3d")


_LIBRARIES = ("pycolmap", "torch", "gsplat", "numba", "numpy", "pillow", "pi-heif", "rawpy", "faiss-cpu")


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
    store.check_newest(request.stage, request.key, request.attempt)
    log.info("%s %s, attempt %d, %d threads", request.stage, request.key, request.attempt, thread_count())
    # Named after its process: what a killed one leaves can be told from what is in use.
    with tempfile.TemporaryDirectory(prefix=f"e2e3d-{request.stage}-{os.getpid()}-") as name:
        folder = Path(name)
        context = StageContext(store=store, request=request, params=params, inputs={}, capture=None, folder=folder)
        try:
            for stage in request.inputs:
                context.inputs[stage] = _fetch_input(store, request, context, stage, folder)
            if request.capture:
                context.capture = _fetch_capture(request, context, folder)
            watchdog = Watchdog(
                moved=lambda: context.moved,
                stopping=lambda: context.stopping,
                stall_seconds=STAGES[request.stage].longest.silent,
                longest_seconds=request.longest_seconds,
                fail=lambda error: store.write_failure(request.stage, request.key, Failure.of(error, request.attempt)),
            )
            with watchdog, _on_sigterm(context.stop):
                stage_clock = time.monotonic()
                metrics = _work(request.stage, context)
                stage_seconds = time.monotonic() - stage_clock
                context.check_stop()
            files = store.upload(
                context.output, request.stage, request.key, request.attempt, partial(context.transfer, "storing")
            )
        finally:
            context.close()
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
            warnings=tuple(context.warnings),
            usage=_usage(started, clock, stage_seconds),
            program=_program(),
        )
    store.check_newest(request.stage, request.key, request.attempt)
    if store.commit(manifest):
        log.info("%s done: %d files, %s", request.stage, len(files), as_size(manifest.total_bytes))
    else:
        log.info("%s: another attempt was committed first; its artifact stands", request.stage)
    store.drop_checkpoints(request.stage, request.key)


def _work(stage: StageName, context: StageContext) -> dict[str, Any]:
    """The stage's own code, with the libraries that only it needs; returns its metrics."""
    try:
        metrics: dict[str, Any] = importlib.import_module(f"e2e3d_stages.{stage}.stage").run(context)
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
    stage = stage_named(request.stage)
    asked = (request.contract_version, request.stage_version)
    if asked != (CONTRACT_VERSION, stage.version):
        raise InvalidRequest(
            f"Airflow and the {request.stage} program are of different releases: version {request.stage_version} under "
            f"contract {request.contract_version} was asked for, and this is {stage.version} under {CONTRACT_VERSION}.",
            hint="Whoever runs this Airflow must install the provider and the images of one release.",
        )
    return stage.validate(request.params)


def _fetch_capture(request: Request, context: StageContext, folder: Path) -> LocalCapture:
    if request.capture is None or request.listing is None:
        raise InvalidRequest("The request does not say what its capture holds.", hint="Let Airflow write it.")
    progress = partial(context.transfer, "fetching photos")
    return fetch_capture(open_storage(request.capture), request.listing, folder / "capture", progress)


def _fetch_input(
    store: ArtifactStore, request: Request, context: StageContext, stage: StageName, folder: Path
) -> InputArtifact:
    wanted = request.inputs[stage]
    manifest = store.manifest(stage, wanted.key, digest=wanted.digest)
    if manifest is None:
        raise Infrastructure(
            f"What {stage} made ({wanted.key}) is no longer in the store.",
            hint=f"Clear the run's task {stage}, and it is made again.",
        )
    files = store.fetch(manifest, folder / "inputs" / stage, partial(context.transfer, f"fetching {stage}"))
    return InputArtifact(files, manifest, wanted.digest, STAGES[stage])


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
