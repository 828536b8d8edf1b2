"""Which uploads start something, and when: the trigger in a triggerer's shared stream, with its asset's state."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from airflow.triggers.shared_stream import SharedStreamManager

from airflow_provider_e2e3d.captures.listing import Capture, captures_below
from airflow_provider_e2e3d.triggers import capture as module
from airflow_provider_e2e3d.triggers import listings as listings_module
from airflow_provider_e2e3d.triggers.capture import CaptureTrigger, mark_of
from airflow_provider_e2e3d.triggers.listings import CaptureListings
from e2e3d_stages.store.base import Storage
from e2e3d_stages.store.opening import open_storage

POLL = 0.05


class State:
    """An asset's state as Airflow keeps it, over triggerers that come and go."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.away = False

    async def aget(self, key: str, default: Any = None) -> Any:
        if self.away:
            raise RuntimeError("the API server does not answer")
        return self.values.get(key, default)

    async def aset(self, key: str, value: Any) -> None:
        if self.away:
            raise RuntimeError("the API server does not answer")
        self.values[key] = json.loads(json.dumps(value))


class Triggerer:
    """Runs triggers as Airflow's triggerer does; `stored` is what its database has of their events."""

    def __init__(self) -> None:
        self.stored: list[dict[str, Any]] = []
        self.works = True

    @asynccontextmanager
    async def running(self, *watched: tuple[CaptureTrigger, State]) -> AsyncIterator[None]:
        manager = SharedStreamManager(log=module.CaptureTrigger(profile="", prefix="").log)
        tasks = [asyncio.create_task(self._run(manager, number, *each)) for number, each in enumerate(watched)]
        try:
            yield
            assert not any(task.done() for task in tasks), [task.exception() for task in tasks if task.done()]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await manager.stop_all()

    async def _run(self, manager: SharedStreamManager, number: int, trigger: CaptureTrigger, state: State) -> None:
        # What is stored in the database, Airflow reads back.
        classpath, kwargs = trigger.serialize()
        again = CaptureTrigger(**json.loads(json.dumps(kwargs)))
        assert classpath.endswith(type(again).__name__)
        again.asset_state_store = state  # type: ignore[assignment]
        key = again.shared_stream_key()
        stream = manager.subscribe(trigger_id=number, trigger=again, key=key)
        async for event in again.filter_shared_stream(stream):
            seq = manager.bind_pending_event(trigger_id=number, key=key)
            assert seq is not None
            if self.works:
                self.stored.append(event.payload)
                asyncio.get_running_loop().call_later(POLL / 2, manager.confirm_persisted, [seq])

    @property
    def names(self) -> list[str]:
        return [payload["name"] for payload in self.stored]


@pytest.fixture
def root(store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """The root of captures of the profile `local`, on a disk and in a bucket."""
    file = tmp_path / "profiles.yaml"
    file.write_text(f"local: {{store: 'file:///nowhere', captures: ['{store_uri}']}}\n")
    monkeypatch.setenv("AIRFLOW__E2E3D__PROFILES_FILE", str(file))
    storage = open_storage(store_uri)
    storage.write("README", b"Put your photos here.")
    return storage


def watch(root: Storage, **options: Any) -> CaptureTrigger:
    """A watch of the root that does not wait for long."""
    return CaptureTrigger(
        **{"profile": "local", "prefix": root.uri, "poll_seconds": POLL, "marker": "_DONE", "min_photos": 1, **options}
    )


def upload(root: Storage, name: str, photos: int = 2, *, done: bool = True) -> None:
    """A capture, and the marker that ends its upload."""
    for number in range(photos):
        root.write(f"{name}/{number}.jpg", b"a photo")
    if done:
        root.write(f"{name}/_DONE", b"")


async def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(POLL / 2)


async def a_while(listings: list[str], more: int = 3) -> None:
    """So long that what is still to be told would have been."""
    seen = len(listings)
    await until(lambda: len(listings) > seen + more)


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prefixes that were listed so far."""
    asked: list[str] = []
    really = CaptureListings._list

    def counted(self: CaptureListings) -> Any:
        listing = really(self)
        asked.append(self.prefix)
        return listing

    monkeypatch.setattr(CaptureListings, "_list", counted)
    return asked


@pytest.mark.slow
def test_a_complete_upload_is_told_once_and_a_changed_one_again(root: Storage, listings: list[str]) -> None:
    triggerer, state = Triggerer(), State()

    async def go() -> None:
        upload(root, "known before")
        upload(root, "Old Barn", done=False)
        async with triggerer.running((watch(root), state)):
            await until(lambda: len(listings) > 2)
            assert triggerer.stored == []
            root.write("Old Barn/_DONE", b"")
            await until(lambda: triggerer.stored)
            await a_while(listings)
            assert triggerer.names == ["Old Barn"]
            root.write("Old Barn/3.jpg", b"another photo")
            await until(lambda: len(triggerer.stored) == 2)
            await a_while(listings)

    asyncio.run(go())
    first, second = triggerer.stored
    assert (first["scene"], first["photos"], first["bytes"]) == ("old-barn", 2, 14)
    assert first["capture"] == root.uri_of("Old Barn")
    assert (second["name"], second["photos"]) == ("Old Barn", 3)
    assert first["fingerprint"] != second["fingerprint"]


@pytest.mark.slow
def test_without_a_marker_it_is_told_when_nothing_came_for_the_quiet_time(root: Storage, listings: list[str]) -> None:
    triggerer = Triggerer()

    async def go() -> float:
        async with triggerer.running((watch(root, marker="", quiet_seconds=1.5, min_photos=6), State())):
            await until(lambda: listings)
            for number in range(6):
                root.write(f"yard/{number}.jpg", b"a photo")
                await asyncio.sleep(0.2)
                assert triggerer.stored == []
            last = time.monotonic()
            await until(lambda: triggerer.stored)
            return time.monotonic() - last

    # A bucket tells of whole seconds.
    assert 0.3 < asyncio.run(go()) < 10
    assert triggerer.stored[0]["photos"] == 6


@pytest.mark.slow
def test_a_new_triggerer_tells_what_came_while_there_was_none_and_repeats_nothing(
    root: Storage, listings: list[str]
) -> None:
    triggerer, state = Triggerer(), State()

    async def go() -> None:
        async with triggerer.running((watch(root), state)):
            await until(lambda: listings)
            upload(root, "first")
            await until(lambda: triggerer.stored and mark_kept(state, "first", root))
        upload(root, "second")
        async with triggerer.running((watch(root), state)):
            await until(lambda: len(triggerer.stored) > 1)
            await a_while(listings)

    asyncio.run(go())
    assert triggerer.names == ["first", "second"]


def mark_kept(state: State, name: str, root: Storage) -> bool:
    """Whether a capture's mark is in the asset's state."""
    (capture,) = (capture for capture in captures_below(root) if capture.name == name)
    return mark_of(capture) in state.values.get(f"captures-{mark_of(capture)[0]}", [])


def test_a_triggerer_that_dies_just_after_the_first_look_has_kept_what_it_saw(
    root: Storage, listings: list[str]
) -> None:
    triggerer, state = Triggerer(), State()

    async def go() -> None:
        upload(root, "known before")
        async with triggerer.running((watch(root), state)):
            await until(lambda: len(state.values) == 16)
        upload(root, "yard")
        async with triggerer.running((watch(root), state)):
            await until(lambda: triggerer.stored)

    asyncio.run(go())
    assert triggerer.names == ["yard"]


def test_a_disk_that_was_not_mounted_for_a_while_starts_nothing_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listings: list[str]
) -> None:
    folder = tmp_path / "captures"
    root = open_storage(folder.as_uri())
    (tmp_path / "profiles.yaml").write_text(f"local: {{store: 'file:///nowhere', captures: ['{root.uri}']}}\n")
    monkeypatch.setenv("AIRFLOW__E2E3D__PROFILES_FILE", str(tmp_path / "profiles.yaml"))
    triggerer, state = Triggerer(), State()

    async def go() -> None:
        upload(root, "known before")
        async with triggerer.running((watch(root), state)):
            await until(lambda: len(state.values) == 16)
            folder.rename(tmp_path / "away")
            seen = len(listings)
            await until(lambda: len(listings) > seen + 2)
            (tmp_path / "away").rename(folder)
            upload(root, "yard")
            await until(lambda: triggerer.stored)
            await a_while(listings)

    asyncio.run(go())
    assert triggerer.names == ["yard"]


@pytest.mark.slow
def test_an_event_that_never_reached_the_database_is_told_again(root: Storage, listings: list[str]) -> None:
    triggerer, state = Triggerer(), State()

    async def go() -> None:
        async with triggerer.running((watch(root), state)):
            await until(lambda: len(listings) > 2)
            triggerer.works = False
            upload(root, "yard")
            # Far longer than it takes to remember what is stored.
            await a_while(listings, 8)
            assert not mark_kept(state, "yard", root)
        triggerer.works = True
        async with triggerer.running((watch(root), state)):
            await until(lambda: triggerer.stored)

    asyncio.run(go())
    assert triggerer.names == ["yard"]


def test_a_store_and_a_state_that_do_not_answer_are_asked_again(
    root: Storage, listings: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    triggerer, state = Triggerer(), State()
    really = CaptureListings._list
    broken = iter([OSError("the disk is away"), ValueError("nonsense")])

    def flaky(self: CaptureListings) -> Any:
        for error in broken:
            raise error
        return really(self)

    monkeypatch.setattr(CaptureListings, "_list", flaky)
    state.away = True

    async def go() -> None:
        async with triggerer.running((watch(root), state)):
            await until(lambda: len(listings) > 1)
            state.away = False
            await until(lambda: len(state.values) == 16)
            state.away = True
            upload(root, "yard")
            await until(lambda: triggerer.stored)
            state.away = False
            await until(lambda: mark_kept(state, "yard", root))

    asyncio.run(go())
    assert triggerer.names == ["yard"]


def test_a_prefix_outside_the_profiles_roots_is_not_read(root: Storage, caplog: pytest.LogCaptureFixture) -> None:
    triggerer = Triggerer()

    async def go() -> None:
        async with triggerer.running((watch(root, prefix="file:///etc"), State())):
            await until(lambda: "outside the places" in caplog.text)

    asyncio.run(go())
    assert triggerer.stored == []


@pytest.mark.slow
def test_watchers_of_one_prefix_share_its_listings_and_each_has_its_own_rule(
    root: Storage, listings: list[str]
) -> None:
    triggerer = Triggerer()

    async def go() -> int:
        rules = [(watch(root), State()), (watch(root, min_photos=4), State())]
        async with triggerer.running(*rules):
            await until(lambda: len(listings) > 2)
            upload(root, "small")
            upload(root, "large", photos=4)
            await until(lambda: len(triggerer.stored) == 3)
            await a_while(listings, 8)
        return len(listings)

    began = time.monotonic()
    counted = asyncio.run(go())
    # Two watchers that list for themselves would take twice as many.
    assert counted <= (time.monotonic() - began) / POLL + 1
    assert sorted(triggerer.names) == ["large", "large", "small"]


def test_many_uploads_at_once_are_told_a_part_at_a_time_and_all_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listings: list[str]
) -> None:
    monkeypatch.setattr(module, "MAX_EVENTS", 4)
    (tmp_path / "captures").mkdir()
    root = open_storage((tmp_path / "captures").as_uri())
    (tmp_path / "profiles.yaml").write_text(f"local: {{store: 'file:///nowhere', captures: ['{root.uri}']}}\n")
    monkeypatch.setenv("AIRFLOW__E2E3D__PROFILES_FILE", str(tmp_path / "profiles.yaml"))
    triggerer, state = Triggerer(), State()

    async def go() -> None:
        async with triggerer.running((watch(root), state)):
            await until(lambda: len(state.values) == 16)
        for number in range(10):
            upload(root, f"capture-{number}")
        async with triggerer.running((watch(root), state)):
            await until(lambda: len(triggerer.stored) == 10)
            await a_while(listings)

    asyncio.run(go())
    assert triggerer.names == [f"capture-{number}" for number in range(10)]


def test_sixty_thousand_captures_stay_below_what_airflow_keeps_under_a_name() -> None:
    at = dt.datetime.now(dt.timezone.utc)
    marks = [
        mark_of(Capture(f"capture-{number}", "", 9, False, 9, at, f"{number:016x}", frozenset()))
        for number in range(60_000)
    ]
    assert len(set(marks)) == len(marks)
    by_letter = [sorted(group) for _, group in itertools.groupby(sorted(marks), key=lambda mark: mark[0])]
    assert len(by_letter) == 16
    assert max(len(json.dumps(group)) for group in by_letter) < 65_536


@pytest.mark.slow
def test_a_watched_queue_makes_a_listing_only_when_something_came(
    s3_root: str, minio: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listings: list[str]
) -> None:
    access = {
        "endpoint_url": minio["AWS_ENDPOINT_URL_S3"],
        "aws_access_key_id": minio["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": minio["AWS_SECRET_ACCESS_KEY"],
        "region_name": minio["AWS_DEFAULT_REGION"],
    }
    sqs = boto3.client("sqs", **access)
    queue = sqs.create_queue(QueueName="uploads")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    bucket = s3_root.removeprefix("s3://").split("/")[0]
    boto3.client("s3", **access).put_bucket_notification_configuration(
        Bucket=bucket,
        NotificationConfiguration={"QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]},
    )
    (tmp_path / "profiles.yaml").write_text(
        f"local: {{store: '{s3_root}', store_conn_id: minio, captures: ['{s3_root}']}}\n"
    )
    monkeypatch.setenv("AIRFLOW__E2E3D__PROFILES_FILE", str(tmp_path / "profiles.yaml"))
    root = open_storage(s3_root, minio)
    # How soon the end of the watch is heard.
    monkeypatch.setattr(listings_module, "QUESTION_SECONDS", 1)
    triggerer = Triggerer()

    async def go() -> tuple[int, int]:
        quiet = watch(root, marker="", quiet_seconds=2, min_photos=3, queue=queue)
        async with triggerer.running((quiet, State())):
            await until(lambda: listings)
            await asyncio.sleep(20 * POLL)
            before = len(listings)
            upload(root, "yard", photos=3, done=False)
            await until(lambda: triggerer.stored)
            return before, len(listings)

    before, after = asyncio.run(go())
    assert before <= 2
    assert after - before <= 8
    assert triggerer.names == ["yard"]
