"""One listing of a prefix after another, for everybody in the triggerer who watches it."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from airflow.triggers.shared_stream import AdvanceItem, SharedStreamProducer

from airflow_provider_e2e3d.captures.listing import Capture, captures_below
from airflow_provider_e2e3d.profiles.file import profile_named
from airflow_provider_e2e3d.triggers.threads import in_thread
from e2e3d_stages.contract.messages import StageError

log = logging.getLogger(__name__)

# How long the silence of a queue is believed, and how long one question to it takes.
SILENCE_SECONDS = 3600.0
QUESTION_SECONDS = 5


@dataclass
class Listing:
    """What lay below a prefix at a time.

    :param at: by the store's clock.
    :param captures: every one of them.
    :param when_stored: what to do once Airflow's database holds the events that were made of it.
    :param again: in how many seconds to look again, though nothing more may come.
    """

    at: dt.datetime
    captures: list[Capture]
    when_stored: list[Callable[[], Awaitable[object]]] = field(default_factory=list)
    again: float = SILENCE_SECONDS


class CaptureListings(SharedStreamProducer):
    """Lists the captures below a prefix again and again; no error ends it.

    :param profile: name of the profile whose connection opens the prefix.
    :param prefix: below one of the profile's roots of captures.
    :param poll_seconds: pause between two listings.
    :param queue: URL of an SQS queue that the bucket tells of what comes. Then the next listing waits for a message,
        for the time at which a capture may be complete, and never longer than an hour.
    """

    def __init__(self, profile: str, prefix: str, poll_seconds: float, queue: str) -> None:
        self.profile = profile
        self.prefix = prefix
        self.poll_seconds = poll_seconds
        self.queue = queue
        self._closed = False

    async def open_stream(self) -> AsyncIterator[tuple[Listing, Listing]]:
        """Each listing, for those who watch and for `advance`."""
        try:
            while True:
                listing = await in_thread(f"{self.profile} {self.prefix}", self._try, self._list)
                if listing is not None:
                    yield listing, listing
                await asyncio.sleep(self.poll_seconds)
                if listing is not None and self.queue:
                    # By now all who watch have looked at the listing.
                    wait = partial(self._wait_for_message, listing.again - self.poll_seconds)
                    await in_thread(f"{self.profile} {self.prefix}", self._try, wait)
        finally:
            self._closed = True

    def _try(self, work: Callable[[], Listing | None]) -> Listing | None:
        try:
            return work()
        except StageError as error:
            log.warning("%s Looking again in %g s. %s", error.message, self.poll_seconds, error.hint)
        except Exception:
            log.exception("%s could not be watched; looking again in %g s", self.prefix, self.poll_seconds)
        return None

    def _list(self) -> Listing:
        profile = profile_named(self.profile)
        storage = profile.open_capture(profile.admit(self.prefix, or_root=True))
        # The clock first: what comes during the listing is then younger than it.
        return Listing(storage.clock(), list(captures_below(storage)))

    def _wait_for_message(self, seconds: float) -> None:
        """Return when the queue has a message; what it says is of no matter, since a listing tells everything."""
        from airflow.providers.amazon.aws.hooks.sqs import SqsHook

        client: Any = SqsHook(aws_conn_id=profile_named(self.profile).store_conn_id).get_conn()
        until = time.monotonic() + seconds
        woken = False
        while not self._closed and (left := until - time.monotonic()) > 0:
            patience = 0 if woken else min(QUESTION_SECONDS, math.ceil(left))
            answer = client.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10, WaitTimeSeconds=patience)
            messages = answer.get("Messages", [])
            if not messages and woken:
                return
            woken = woken or bool(messages)
            if messages:
                entries = [{"Id": str(n), "ReceiptHandle": it["ReceiptHandle"]} for n, it in enumerate(messages)]
                client.delete_message_batch(QueueUrl=self.queue, Entries=entries)

    async def advance(self, batch: Sequence[AdvanceItem]) -> None:
        """Airflow's database holds all events that were made of these listings."""
        for item in batch:
            listing: Listing = item.broker_payload
            for act in listing.when_stored:
                await act()
