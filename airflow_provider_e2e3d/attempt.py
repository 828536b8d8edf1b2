"""One attempt at an artifact, as Airflow sees it: the job that runs it and the files it writes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from airflow_provider_e2e3d.backends.base import Backend, Handle, JobStatus
from airflow_provider_e2e3d.hooks.store import StoreHook
from airflow_provider_e2e3d.profiles import profile_named
from e2e3d_stages.contract import Claim, Failure, FailureCode, Model, StageError
from e2e3d_stages.store import ArtifactStore

HEARTBEAT_SECONDS = 15.0


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
    stage: str
    key: str
    claim: Claim
    handle: Handle
    cursor: int = 0


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

    @classmethod
    def deserialize(cls, values: dict[str, Any]) -> Attempt:
        """The attempt that another process wrote down."""
        state = AttemptState.model_validate(values)
        profile = profile_named(state.profile)
        store = StoreHook(profile.store_conn_id).open(profile.store)
        return cls(store, profile.backend(state.stage), state)

    def serialize(self) -> dict[str, Any]:
        """What `deserialize` reads, as JSON."""
        return self.state.model_dump(mode="json")

    def follow(self, write_line: Callable[[str], object]) -> JobStatus:
        """Look once: pass new log lines on, keep the claim alive, say how the job is."""
        status = self.backend.poll(self.state.handle)
        while True:
            lines, cursor = self.backend.logs(self.state.handle, self.state.cursor)
            for line in lines:
                write_line(line)
            if cursor == self.state.cursor:
                break
            self.state = self.state.model_copy(update={"cursor": cursor})
        if status.running and time.monotonic() >= self._next_heartbeat:
            self.store.heartbeat(self.state.stage, self.state.key, self.state.claim)
            self._next_heartbeat = time.monotonic() + HEARTBEAT_SECONDS
        return status

    def cancel(self) -> None:
        """Ask the job to stop."""
        self.backend.cancel(self.state.handle)

    def clear_away(self, *, succeeded: bool) -> None:
        """Remove what the job's place keeps of it."""
        self.backend.clear_away(self.state.handle, succeeded=succeeded)

    def failure(self, status: JobStatus) -> Failure:
        """Why the job ended without an artifact; written down for others where the program did not know.

        What the program says goes first, except where it only saw itself fall over and its place knows why.
        """
        stage, key, number = self.state.stage, self.state.key, self.state.claim.attempt
        told = self.store.failure(stage, key, number)
        if told and not (told.code is FailureCode.CRASH and status.failure):
            return told
        failure = status.failure or _failure_of_exit(stage, status.exit_code)
        failure = failure.model_copy(update={"attempt": number})
        self.store.write_failure(stage, key, failure)
        return failure


def _failure_of_exit(stage: str, exit_code: int | None) -> Failure:
    """What an exit status tells when nothing else does."""
    code = next((code for code in FailureCode if code.exit_code == exit_code), FailureCode.CRASH)
    if code is not FailureCode.CRASH:
        return Failure(
            code=code,
            message=f"The {stage} program ended with exit status {exit_code} ({code.value}).",
            hint="It could not store its reason: read the log above.",
        )
    return Failure(
        code=code,
        message=f"The {stage} program ended without a word "
        f"(exit status {'unknown' if exit_code is None else exit_code}).",
        hint="It was killed from outside, by a person or by the machine when memory ran out; "
        "the retry goes on from the newest checkpoint.",
    )
