"""Ends a program that hangs, takes longer than it can, or does not hear that it should stop."""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from types import TracebackType

from e2e3d_stages.contract.formatting import as_duration
from e2e3d_stages.contract.messages import GRACE_SECONDS, FailureCode, StageError

LOOK_EVERY_SECONDS = 1.0
LATER_SECONDS = 60.0


class Hung(StageError):
    """The program moved nothing for too long, or was at work for too long."""


class Watchdog:
    """A thread beside a stage's work, which goes on where the work itself hears nothing: deep in a library's loop.

    :param moved: when the work last said how far it is, by the monotonic clock.
    :param stopping: whether the work was asked to stop; then it has `GRACE_SECONDS`.
    :param stall_seconds: how long it may say nothing new.
    :param longest_seconds: how long it may take.
    :param fail: writes down why the program ends, before it does.
    """

    def __init__(
        self,
        *,
        moved: Callable[[], float],
        stopping: Callable[[], bool],
        stall_seconds: float,
        longest_seconds: float,
        fail: Callable[[StageError], object],
    ) -> None:
        self._moved = moved
        self._stopping = stopping
        self._stall_seconds = stall_seconds
        self._longest_seconds = longest_seconds
        self._fail = fail
        self._started = time.monotonic()
        self._asked: float | None = None
        self._previous = -1
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> None:
        self._ear, self._mouth = os.pipe()
        if threading.current_thread() is threading.main_thread():
            # A signal's number is written at once; its handler in Python waits for the library to return.
            os.set_blocking(self._mouth, False)
            self._previous = signal.set_wakeup_fd(self._mouth, warn_on_full_buffer=False)
        # Even where a library keeps Python's lock, so that no thread of ours runs.
        faulthandler.dump_traceback_later(self._longest_seconds + LATER_SECONDS, exit=True)
        self._thread.start()

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(self._previous)
        faulthandler.cancel_dump_traceback_later()
        os.close(self._mouth)
        self._thread.join()
        os.close(self._ear)

    def _watch(self) -> None:
        while True:
            if select.select([self._ear], [], [], LOOK_EVERY_SECONDS)[0]:
                heard = os.read(self._ear, 64)
                if not heard:
                    return
                if signal.SIGTERM in heard:
                    self._asked = self._asked or time.monotonic()
            self._look(time.monotonic())

    def _look(self, at: float) -> None:
        if self._asked is None and self._stopping():
            self._asked = at
        if self._asked is not None:
            if at - self._asked > GRACE_SECONDS:
                os._exit(FailureCode.INTERRUPTED.exit_code)
        elif at - self._moved() > self._stall_seconds:
            self._end(f"The program said nothing new for {as_duration(self._stall_seconds)}, and was taken to hang.")
        elif at - self._started > self._longest_seconds:
            self._end(f"The program took longer than it ever should: {as_duration(self._longest_seconds)}.")

    def _end(self, message: str) -> None:
        error = Hung(
            message,
            hint="It is tried again from its newest checkpoint. If it ends so again, try fewer photos or a faster "
            "machine, or give the task's log to whoever runs this Airflow.",
        )
        try:
            self._fail(error)
        finally:
            # Whether or not the store took the reason: the exit status tells some of it.
            os._exit(error.code.exit_code)
