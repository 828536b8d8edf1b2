"""Looks that block in the triggerer: which of them may keep which waiting."""

from __future__ import annotations

import asyncio
import threading

from airflow_provider_e2e3d.triggers.threads import THREADS, in_thread


def test_a_place_that_hangs_keeps_neither_another_waiting_nor_other_triggers() -> None:
    answers, before = threading.Event(), set(threading.enumerate())

    async def looks() -> None:
        hanging = [asyncio.create_task(in_thread("hangs", answers.wait)) for _ in range(5 * THREADS)]
        await asyncio.sleep(0)
        assert await asyncio.wait_for(in_thread("answers", lambda: "here"), 30) == "here"
        # The threads that all other triggers share.
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "there"), 30) == "there"
        assert not any(look.done() for look in hanging)
        ours = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("e2e3d-look")]
        assert len(ours) == THREADS + 1
        answers.set()
        await asyncio.gather(*hanging)

    asyncio.run(looks())
