"""The artifact store behind a network and a server that fail now and then: slower, and otherwise the same."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from botocore.exceptions import ClientError
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from e2e3d_stages.contract.messages import Claim, Infrastructure, InvalidRequest, StageError
from e2e3d_stages.store import s3
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.base import Storage, file_digest
from e2e3d_stages.store.leases import Watch
from e2e3d_stages.store.opening import open_storage
from e2e3d_stages.store.s3 import S3Storage
from tests.clock import FastClock
from tests.faulty_store import FaultyStore
from tests.stages.test_store import KEY, manifest


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FastClock:
    """What is waited for a store goes by it."""
    clock = FastClock(speed=20)
    clock.rule_s3(monkeypatch.setattr)
    return clock


@pytest.fixture
def faulty(s3_root: str, s3_endpoint: str, clock: FastClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStore]:
    """A bucket that one reaches only through a faulty store; nothing goes wrong yet."""
    # By this seed everything goes wrong within thirty requests.
    store = FaultyStore(s3_endpoint, clock, seed=2)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", store.url)
    yield store
    store.close()


@pytest.mark.slow
def test_what_goes_in_comes_out_though_a_quarter_of_all_requests_fail(
    faulty: FaultyStore, s3_root: str, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    # One is large enough to go in parts.
    for number, size in enumerate((9_000_000, 300_000, *range(1, 30))):
        (tmp_path / "out" / f"{number}").write_bytes(bytes([number]) * size)
    store = ArtifactStore.open(s3_root)
    faulty.fail(busy=0.12, reset=0.12)
    files = store.upload(tmp_path / "out", "sfm", KEY, 1)
    made = manifest(1, files)
    assert store.commit(made)
    folder = store.fetch(made, tmp_path / "in")
    faulty.fail()
    assert {file.path: file_digest(folder / file.path) for file in files} == {
        file.path: file_digest(tmp_path / "out" / file.path) for file in files
    }
    assert {"busy", "upload broken off", "answer broken off"} <= set(faulty.seen)


@pytest.mark.slow
def test_of_racing_claims_one_wins_though_answers_are_lost(faulty: FaultyStore, s3_root: str) -> None:
    faulty.fail(reset=0.5)

    def claim(number: int) -> Claim | None:
        return ArtifactStore.open(s3_root).claim("sfm", KEY, f"owner {number}", Watch())

    with ThreadPoolExecutor(8) as pool:
        claims = [claim for claim in pool.map(claim, range(8)) if claim]
    faulty.fail()
    assert len(claims) == 1
    assert ArtifactStore.open(s3_root).read_claim("sfm", KEY, 1) == claims[0]


@pytest.mark.skipif("E2E3D_TEST_S3" in os.environ, reason="1,200 objects are put into moto directly")
def test_a_long_listing_goes_on_where_it_was_broken_off(faulty: FaultyStore, s3_root: str) -> None:
    storage = open_storage(s3_root)
    bucket, _, prefix = s3_root.removeprefix("s3://").partition("/")
    for number in range(1200):
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(bucket, f"{prefix}/{number:04}", b"x")
    found = storage.list()
    assert next(found).path == "0000"
    faulty.away(1)
    assert [entry.path for entry in found] == [f"{number:04}" for number in range(1, 1200)]
    assert faulty.seen["passed on"] == 2


def test_a_store_that_is_away_is_waited_for(faulty: FaultyStore, s3_root: str, clock: FastClock) -> None:
    storage = open_storage(s3_root)
    storage.write("a", b"here")
    began = clock.monotonic()
    faulty.away(3)
    assert storage.read("a") == b"here"
    assert clock.monotonic() - began > 3
    assert clock.slept < 12


def test_one_that_stays_away_is_told_in_the_end(
    faulty: FaultyStore, s3_root: str, clock: FastClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PATIENCE_SECONDS", 20)
    faulty.away(math.inf)
    began = clock.monotonic()
    with pytest.raises(Infrastructure, match="could not be reached"):
        open_storage(s3_root).read("a")
    assert clock.monotonic() - began > 20 - s3.LONGEST_PAUSE_SECONDS


def test_what_cannot_work_is_not_tried_again(s3_root: str, tmp_path: Path, clock: FastClock) -> None:
    (tmp_path / "file").write_text("x")
    nowhere = open_storage("s3://no-such-bucket/x")
    for ask in (
        lambda: nowhere.write("a", b""),
        lambda: nowhere.upload(tmp_path / "file", "a"),
        lambda: nowhere.create("a", b""),
        lambda: list(nowhere.list()),
    ):
        with pytest.raises(InvalidRequest, match="does not exist"):
            ask()
    assert clock.slept == 0


def test_a_part_is_read_without_the_rest(store: ArtifactStore) -> None:
    store.storage.write("a", b"0123456789")
    assert store.storage.read_part("a", 2, 3) == b"234"
    assert store.storage.read_part("a", 8, 30) == b"89"
    assert store.storage.read_part("a", 10, 1) == b""


QUESTIONS: dict[str, Callable[[Storage], object]] = {
    "read": lambda storage: storage.read("a"),
    "read a part": lambda storage: storage.read_part("a", 10, 400),
    "write": lambda storage: storage.write("b", b"x"),
    "create": lambda storage: storage.create("c", b"x"),
    "list": lambda storage: list(storage.list()),
    "folders": lambda storage: list(storage.folders()),
    "remove": lambda storage: storage.remove(["a"]),
    "clock": lambda storage: storage.clock(),
}


@pytest.fixture
def hurried(faulty: FaultyStore, s3_root: str, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A storage with half a second's patience, and one object in it."""
    storage = open_storage(s3_root)
    storage.write("a", b"much" * 200)
    monkeypatch.setattr(s3, "SHORTEST_ANSWER_SECONDS", 0.1)
    storage.patience_seconds = 0.5
    return storage


@pytest.mark.parametrize("question", list(QUESTIONS))
def test_a_store_that_accepts_and_never_answers_is_told_in_time(
    faulty: FaultyStore, hurried: Storage, question: str
) -> None:
    faulty.fail(hang=1)
    began = time.monotonic()
    with pytest.raises(Infrastructure, match="could not be reached"):
        QUESTIONS[question](hurried)
    assert time.monotonic() - began < 2
    assert faulty.seen["hang"]


@pytest.mark.slow
@pytest.mark.parametrize("fate", ["trickle", "silence"])
@pytest.mark.parametrize("question", ["read", "read a part", "list", "folders"])
def test_one_whose_answers_never_end_is_told_in_time(
    faulty: FaultyStore, hurried: Storage, question: str, fate: str
) -> None:
    faulty.fail(**{fate: 1})
    began = time.monotonic()
    with pytest.raises(Infrastructure, match="could not be reached"):
        QUESTIONS[question](hurried)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("way", ["upload", "download"])
def test_a_whole_file_that_stands_still_is_told_in_time(
    faulty: FaultyStore, hurried: Storage, tmp_path: Path, way: str
) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1000)
    faulty.fail(hang=1)
    began = time.monotonic()
    with pytest.raises(Infrastructure, match="could not be reached"):
        hurried.upload(tmp_path / "file", "b") if way == "upload" else hurried.download("a", tmp_path / "in")
    assert time.monotonic() - began < 5


def test_an_answer_that_does_not_come_is_asked_for_again(
    faulty: FaultyStore, s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(s3_root)
    storage.write("a", b"here")
    monkeypatch.setattr(s3, "LONGEST_ANSWER_SECONDS", 0.3)
    faulty.fail(hang=0.6)
    assert [storage.read("a") for _ in range(5)] == [b"here"] * 5
    assert faulty.seen["hang"]


@pytest.mark.slow
def test_a_failure_that_is_told_with_a_200_is_no_empty_answer(faulty: FaultyStore, s3_root: str) -> None:
    storage = open_storage(s3_root)
    for name in "abc":
        storage.write(f"folder/{name}", b"x")
    faulty.fail(error=0.6)
    for _ in range(5):
        assert [entry.path[-1] for entry in storage.list()] == ["a", "b", "c"]
        assert list(storage.folders()) == ["folder"]
    storage.remove(["folder/a", "folder/b"])
    faulty.fail()
    assert [entry.path for entry in storage.list()] == ["folder/c"]
    assert faulty.seen["error"]


class Refusing:
    """S3's own client, whose answers to a removal name keys that were not removed, as many times as it is told.

    :param code: what is said of them.
    """

    def __init__(self, client: Any, code: str, times: int) -> None:
        self._client, self.code, self.times = client, code, times
        self.asked: list[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def delete_objects(self, **asked: Any) -> dict[str, Any]:
        keys = [each["Key"] for each in asked["Delete"]["Objects"]]
        self.asked.append(keys)
        refused = [key for key in keys if key.endswith("b") and len(self.asked) <= self.times]
        asked["Delete"]["Objects"] = [{"Key": key} for key in keys if key not in refused]
        answer: dict[str, Any] = self._client.delete_objects(**asked) if asked["Delete"]["Objects"] else {}
        return {**answer, "Errors": [{"Key": key, "Code": self.code, "Message": "No."} for key in refused]}


def refusing(root: str, code: str, times: int) -> tuple[S3Storage, Refusing]:
    storage = open_storage(root)
    assert isinstance(storage, S3Storage)
    for name in "abc":
        storage.write(f"folder/{name}", b"x")
    storage._client = Refusing(storage._client, code, times)
    return storage, storage._client


def test_keys_that_a_removal_left_are_asked_for_again_and_no_others(s3_root: str, clock: FastClock) -> None:
    storage, client = refusing(s3_root, "InternalError", times=2)
    storage.delete("folder")
    assert list(storage.list()) == []
    assert [[key[-1] for key in keys] for keys in client.asked] == [["a", "b", "c"], ["b"], ["b"]]


@pytest.mark.parametrize(("code", "error"), [("SlowDown", Infrastructure), ("AccessDenied", InvalidRequest)])
def test_what_cannot_be_removed_is_told(
    s3_root: str, clock: FastClock, monkeypatch: pytest.MonkeyPatch, code: str, error: type[StageError]
) -> None:
    monkeypatch.setattr(s3, "PATIENCE_SECONDS", 3)
    storage, client = refusing(s3_root, code, times=100)
    with pytest.raises(error, match="folder/"):
        storage.delete("folder")
    assert [entry.path for entry in storage.list()] == ["folder/b"]
    assert (len(client.asked) > 1) == (error is Infrastructure)


@pytest.mark.parametrize("may", [True, False], ids=["allowed", "refused"])
def test_a_session_that_may_not_name_several_objects_removes_them_one_by_one(
    s3_root: str, clock: FastClock, may: bool
) -> None:
    storage, _ = refusing(s3_root, "", times=0)
    real = storage._client
    refusal = ClientError({"Error": {"Code": "AccessDenied"}}, "Delete")
    storage._client = Mock(wraps=real, delete_objects=Mock(side_effect=refusal))
    if may:
        storage.delete("folder")
        assert list(storage.list()) == []
    else:
        storage._client.delete_object.side_effect = refusal
        with pytest.raises(InvalidRequest, match="folder/"):
            storage.delete("folder")
