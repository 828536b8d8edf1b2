"""Clocks for what waits: one that runs faster than the wall's, and one that only waiting moves."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class FastClock:
    """Who waits by it waits as often as ever and, by this clock, as long.

    :param speed: how many of its seconds go into one.
    """

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self.slept = 0.0

    def monotonic(self) -> float:
        """Seconds, the same in every process of this machine whose clock has this speed."""
        return time.monotonic() * self.speed

    def sleep(self, seconds: float) -> None:
        """Wait so long by this clock."""
        self.slept += seconds
        time.sleep(seconds / self.speed)

    def rule_s3(self, put: Callable[[Any, str, Any], None] = setattr) -> None:
        """Let our patience with a store, and botocore's, go by this clock.

        :param put: sets an attribute; pytest's takes it back after the test.
        """
        from botocore import endpoint

        from e2e3d_stages.store import s3

        for module in (endpoint, s3):
            put(module, "time", self)


class SettableClock:
    """Stands still but for who waits by it."""

    def __init__(self) -> None:
        self.slept = 0.0

    def monotonic(self) -> float:
        """Seconds since it was made, and a while."""
        return 1000 + self.slept

    def sleep(self, seconds: float) -> None:
        """Move on."""
        self.slept += seconds
