"""Uploads that start by themselves: an event for each capture below a prefix whose upload is complete."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Hashable
from functools import partial
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_provider_e2e3d.captures.completeness import Completeness
from airflow_provider_e2e3d.captures.listing import Capture
from airflow_provider_e2e3d.scenes.names import scenes_of
from airflow_provider_e2e3d.triggers.listings import CaptureListings, Listing

# At most so many events a listing, the oldest uploads first: a DAG run takes all that waits, and maps over 1,024.
MAX_EVENTS = 250
# The first letters of marks.
LETTERS = "0123456789abcdef"
LAST_LETTER = "f"


class CaptureTrigger(BaseEventTrigger):
    """Fires once for each capture below a prefix when its upload is complete, and again when it changed since.

    What was told is kept in the state store of the asset that is watched, after Airflow stored the event: a triggerer
    that dies loses nothing, and at worst tells the same once more. What was complete before the first look is taken
    as known. An asset has one such watcher; DAGs share the asset, and assets that watch one prefix share its listings.

    :param profile: name of the profile whose connection opens the prefix.
    :param prefix: below one of the profile's roots of captures.
    :param marker: name of a file that an uploader writes last; empty: nothing came for `quiet_seconds`.
    :param quiet_seconds: how long nothing must have come.
    :param min_photos: how many photos there must be at least, except where there is a zip or a film.
    :param poll_seconds: pause between two listings.
    :param queue: URL of an SQS queue that the bucket tells of what comes; then there is a listing only when needed.
    """

    def __init__(
        self,
        *,
        profile: str,
        prefix: str,
        marker: str = "",
        quiet_seconds: float = 120.0,
        min_photos: int = 5,
        poll_seconds: float = 30.0,
        queue: str = "",
    ) -> None:
        super().__init__()
        self.profile = profile
        self.prefix = prefix
        self.complete = Completeness(marker, quiet_seconds, min_photos)
        self.poll_seconds = poll_seconds
        self.queue = queue

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            "airflow_provider_e2e3d.triggers.capture.CaptureTrigger",
            {
                "profile": self.profile,
                "prefix": self.prefix,
                "marker": self.complete.marker,
                "quiet_seconds": self.complete.quiet_seconds,
                "min_photos": self.complete.min_photos,
                "poll_seconds": self.poll_seconds,
                "queue": self.queue,
            },
        )

    def shared_stream_key(self) -> Hashable:
        return ("e2e3d captures", self.profile, self.prefix, self.poll_seconds, self.queue)

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> CaptureListings:
        return CaptureListings(kwargs["profile"], kwargs["prefix"], kwargs["poll_seconds"], kwargs["queue"])

    async def run(self) -> AsyncIterator[TriggerEvent]:
        raise NotImplementedError("The triggerer gives this trigger a shared stream of listings.")
        yield

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Listing]) -> AsyncIterator[TriggerEvent]:
        memory = _Memory(self)
        told = await memory.read()
        async for listing in shared_stream:
            marks = {mark_of(capture): capture for capture in listing.captures}
            ready = {mark for mark, capture in marks.items() if self.complete.holds(capture, listing.at)}
            listing.again = min(listing.again, self._due(listing))
            if told is None:
                # Here the watch begins: whatever is complete later is told, also by another triggerer.
                while not await memory.write(frozenset(ready)):
                    await asyncio.sleep(self.poll_seconds)
                self.log.info("%d captures below %s are taken as known", len(ready), self.prefix)
                told = ready
            fresh = sorted(ready - told, key=lambda mark: (marks[mark].arrived, marks[mark].name))[:MAX_EVENTS]
            if len(fresh) == MAX_EVENTS:
                listing.again = 0
            # What changed or went away since is forgotten; but not everything, as when a disk is not mounted.
            told = (told & marks.keys() if marks else told) | set(fresh)
            listing.when_stored.append(partial(memory.write, frozenset(told)))
            scenes = scenes_of(capture.uri for capture in listing.captures) if fresh else {}
            for mark in fresh:
                yield TriggerEvent(described(marks[mark], scenes[marks[mark].uri]))

    def _due(self, listing: Listing) -> float:
        """Seconds until the first of the captures that still come in may be complete."""
        quiet = self.complete.quiet_seconds
        ages = ((listing.at - capture.arrived).total_seconds() for capture in listing.captures)
        return min((quiet - age for age in ages if age < quiet), default=listing.again)


def mark_of(capture: Capture) -> str:
    """A capture in the state that it is in, in a few letters."""
    return hashlib.sha256(f"{capture.name}/{capture.fingerprint}".encode()).hexdigest()[:12]


def described(capture: Capture, scene: str) -> dict[str, Any]:
    """A capture as an event or a sensor tells of it."""
    return {
        "capture": capture.uri,
        "name": capture.name,
        "scene": scene,
        "fingerprint": capture.fingerprint,
        "photos": capture.photos if capture.counted else None,
        "bytes": capture.size,
    }


class _Memory:
    """The marks that were told, in the asset's state store, under sixteen keys by the mark's first letter.

    Airflow keeps 64 KiB under a key: enough for 4,000 captures; under sixteen for 65,000.
    """

    def __init__(self, trigger: CaptureTrigger) -> None:
        self._store = trigger.asset_state_store
        self._pause = trigger.poll_seconds
        self._log = trigger.log
        self._kept: dict[str, list[Any]] = {}

    async def read(self) -> set[str] | None:
        """What was told, or None before the first look."""
        while self._store is not None:
            try:
                # All at once: the triggerer answers a request a second.
                values = await asyncio.gather(*(self._store.aget(_key(letter)) for letter in LETTERS))
            except Exception:
                self._log.exception("The asset's state cannot be read; asking again in %g s", self._pause)
                await asyncio.sleep(self._pause)
            else:
                found: Any = zip(LETTERS, values, strict=True)
                self._kept = {letter: marks for letter, marks in found if marks is not None}
                break
        return {mark for marks in self._kept.values() for mark in marks} if LAST_LETTER in self._kept else None

    async def write(self, told: frozenset[str]) -> bool:
        """Keep what was told, and say whether that worked; what cannot be written now is with the next listing."""
        by_letter: dict[str, list[Any]] = {letter: [] for letter in LETTERS}
        for mark in sorted(told):
            by_letter[mark[0]].append(mark)
        changed = {letter: marks for letter, marks in by_letter.items() if self._kept.get(letter) != marks}
        try:
            await asyncio.gather(*(self._write(changed, letter) for letter in changed if letter != LAST_LETTER))
            # It says that the others are there.
            if LAST_LETTER in changed:
                await self._write(changed, LAST_LETTER)
        except Exception:
            self._log.exception("The asset's state cannot be written; that is tried again")
            return False
        return True

    async def _write(self, values: dict[str, list[Any]], letter: str) -> None:
        if self._store is not None:
            await self._store.aset(_key(letter), values[letter])
        self._kept[letter] = values[letter]


def _key(letter: str) -> str:
    return f"captures-{letter}"
