"""Ends a cancelled program that does not end itself: a process of its own, since a stopped task is killed in seconds.

`python -m airflow_provider_e2e3d.backends.local.reaper PID STARTED SECONDS`
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

import psutil


def main(pid: int, started: float, seconds: float) -> None:
    """Wait for a program's end, and kill it with its children when it takes longer.

    :param started: when it was, as psutil tells: the number alone may be another program's by then.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        # Times are derived from the clock and may differ by a tick between two readings.
        if abs(process.create_time() - started) > 1:
            return
        try:
            process.wait(seconds)
        except psutil.TimeoutExpired:
            # It leads a session of its own.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
