"""Threads for what blocks in the triggerer: a few of our own for each place that may hang."""

from __future__ import annotations

import asyncio
import contextvars
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

Result = TypeVar("Result")

# Looks at one place that go on at the same time; asyncio's own threads are those of every trigger of every DAG.
THREADS = 8

_lock = threading.Lock()
_pools: dict[str, ThreadPoolExecutor] = {}


async def in_thread(place: str, work: Callable[..., Result], *what: object) -> Result:
    """Do something that blocks; what hangs in one place keeps no look at another waiting, and no other trigger.

    :param place: what is asked: a profile, or a prefix that is watched.
    """
    with _lock:
        pool = _pools.setdefault(place, ThreadPoolExecutor(THREADS, thread_name_prefix="e2e3d-look"))
    # A trigger's log is told by its context.
    run = partial(contextvars.copy_context().run, work, *what)
    return await asyncio.get_running_loop().run_in_executor(pool, run)


async def pause(seconds: float) -> None:
    """Sleep for about so long: many that began together should not all look together for ever."""
    await asyncio.sleep(seconds * random.uniform(0.9, 1.1))
