"""What the artifact store promises, on a disk and in a bucket alike."""

from __future__ import annotations

import datetime as dt
import errno
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from e2e3d_stages.contract.messages import (
    Claim,
    Failure,
    FailureCode,
    Infrastructure,
    InvalidRequest,
    Manifest,
    Overtaken,
    Program,
    Progress,
    StoredFile,
    UnreadableCapture,
    Usage,
    artifact_key,
    now,
)
from e2e3d_stages.store import artifacts, leases
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.base import NotFound, Storage
from e2e3d_stages.store.captures import list_capture_files
from e2e3d_stages.store.leases import LEASE_SECONDS, Watch
from e2e3d_stages.store.opening import open_storage
from e2e3d_stages.store.probe import probe
from tests.clock import SettableClock

KEY = "0123456789abcdef" * 2
MINUTE = dt.timedelta(minutes=1)


def manifest(attempt: int, files: tuple[StoredFile, ...] = ()) -> Manifest:
    usage = Usage(started=now(), finished=now(), wall_seconds=1, stage_seconds=1, cpu_seconds=1, peak_memory_bytes=1)
    return Manifest(
        stage="sfm",
        stage_version=1,
        key=KEY,
        attempt=attempt,
        params={},
        inputs={},
        files=files,
        metrics={"points": attempt},
        usage=usage,
        program=Program(version="0", python="3", platform="test"),
    )


def committed(store: ArtifactStore, folder: Path) -> Manifest:
    folder.mkdir()
    (folder / "sparse").mkdir()
    (folder / "sparse" / "points.bin").write_bytes(b"points" * 1000)
    (folder / "views.json").write_text("[]")
    made = manifest(1, store.upload(folder, "sfm", KEY, 1))
    assert store.commit(made)
    return made


def test_of_twenty_racing_attempts_exactly_one_becomes_the_artifact(store: ArtifactStore) -> None:
    with ThreadPoolExecutor(20) as pool:
        won = list(pool.map(lambda number: store.commit(manifest(number)), range(1, 21)))
    assert won.count(True) == 1
    kept = store.manifest("sfm", KEY)
    assert kept is not None
    assert kept.attempt == won.index(True) + 1


def test_an_artifact_is_invisible_until_its_manifest_is_written(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "views.json").write_text("[]")
    store.upload(tmp_path / "out", "sfm", KEY, 1)
    assert store.reference("sfm", KEY) is None


def test_what_was_uploaded_is_fetched_back_byte_for_byte(store: ArtifactStore, tmp_path: Path) -> None:
    made = committed(store, tmp_path / "out")
    folder = store.fetch(made, tmp_path / "in")
    assert (folder / "sparse" / "points.bin").read_bytes() == b"points" * 1000
    assert [file.path for file in made.files] == ["sparse/points.bin", "views.json"]


def test_a_damaged_file_is_refused_by_its_digest(store: ArtifactStore, tmp_path: Path) -> None:
    made = committed(store, tmp_path / "out")
    store.storage.write(store.file_path(made, "sparse/points.bin"), b"pointz" * 1000)
    with pytest.raises(Infrastructure, match="damaged"):
        store.fetch(made, tmp_path / "in")


def test_a_missing_file_is_named(store: ArtifactStore, tmp_path: Path) -> None:
    made = committed(store, tmp_path / "out")
    store.storage.delete(store.file_path(made, "views.json"))
    with pytest.raises(Infrastructure, match=r"views\.json is missing"):
        store.fetch(made, tmp_path / "in")


def test_a_manifest_that_changed_is_not_trusted(store: ArtifactStore) -> None:
    store.commit(manifest(1))
    reference = store.reference("sfm", KEY)
    assert reference is not None
    assert store.manifest("sfm", KEY, digest=reference.digest) is not None
    store.storage.write(f"artifacts/sfm/{KEY}/manifest.json", manifest(2).model_dump_json().encode())
    with pytest.raises(Infrastructure, match="not the manifest"):
        store.manifest("sfm", KEY, digest=reference.digest)


def test_an_attempt_is_claimed_by_one_of_many(store: ArtifactStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda n: store.claim("sfm", KEY, f"run-{n}", Watch()), range(8)))
    assert sum(claim is not None for claim in claims) == 1


class Machine:
    """One that wants the artifact, with clocks of its own.

    :param told: what its wall clock is ahead.
    """

    def __init__(self, store: ArtifactStore, owner: str, told: dt.timedelta = dt.timedelta(0)) -> None:
        self.store, self.owner, self.told, self.watch = store, owner, told, Watch()

    def claim(self) -> Claim | None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(artifacts, "now", lambda: now() + self.told)
            return self.store.claim("sfm", KEY, self.owner, self.watch)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SettableClock:
    """By which leases are watched."""
    clock = SettableClock()
    monkeypatch.setattr(leases, "time", clock)
    return clock


def looks(machine: Machine, clock: SettableClock, seconds: float, pause: float = 10) -> Claim | None:
    """Look again and again for so long, until it has it."""
    until = clock.monotonic() + seconds
    while (claim := machine.claim()) is None and clock.monotonic() < until:
        clock.sleep(pause)
    return claim


def test_a_first_claim_waits_for_nothing_and_neither_does_one_after_a_failure(
    store: ArtifactStore, clock: SettableClock
) -> None:
    assert Machine(store, "a").claim()
    assert Machine(store, "b").claim() is None
    store.write_failure("sfm", KEY, Failure(code=FailureCode.CRASH, message="", attempt=1))
    second = Machine(store, "b").claim()
    assert second is not None
    assert second.attempt == 2
    assert clock.slept == 0


@pytest.mark.slow
@pytest.mark.parametrize("apart", [-3600, -600, 0, 600, 3600])
def test_a_silent_attempt_is_taken_over_after_a_lease_whatever_the_clocks_say(
    store: ArtifactStore, clock: SettableClock, apart: float
) -> None:
    assert Machine(store, "a").claim()
    waiter = Machine(store, "b", dt.timedelta(seconds=apart))
    assert looks(waiter, clock, LEASE_SECONDS - 10) is None
    second = looks(waiter, clock, 15)
    assert second is not None
    assert second.attempt == 2


@pytest.mark.slow
def test_an_owner_or_a_program_that_is_heard_of_keeps_its_attempt(store: ArtifactStore, clock: SettableClock) -> None:
    claim = Machine(store, "a").claim()
    assert claim is not None
    waiter = Machine(store, "b", dt.timedelta(minutes=10))
    for number in range(10):
        assert looks(waiter, clock, LEASE_SECONDS - 10) is None
        if number % 2:
            store.heartbeat("sfm", KEY, claim)
        else:
            moved = Progress(stage="sfm", attempt=1, done=number, total=10, unit="photos", updated=now())
            store.write_progress(KEY, moved)
    assert looks(waiter, clock, LEASE_SECONDS + 10) is not None


@pytest.mark.slow
def test_what_nobody_could_see_of_an_attempt_is_no_silence(store: ArtifactStore, clock: SettableClock) -> None:
    claim = Machine(store, "a").claim()
    assert claim is not None
    waiter = Machine(store, "b")
    assert looks(waiter, clock, LEASE_SECONDS - 10) is None
    # The store was away, or who waits was paused: the owner could not be heard of, either.
    clock.sleep(180)
    assert looks(waiter, clock, 20) is None
    store.heartbeat("sfm", KEY, claim)
    assert looks(waiter, clock, LEASE_SECONDS - 10) is None
    # A new process knows nothing of what an earlier one saw.
    assert looks(Machine(store, "b"), clock, LEASE_SECONDS - 10) is None


def test_who_was_overtaken_is_told_so_and_writes_no_more(store: ArtifactStore) -> None:
    claim = store.claim("sfm", KEY, "a", Watch(0))
    assert claim is not None
    store.heartbeat("sfm", KEY, claim)
    store.check_newest("sfm", KEY, 1)
    later = store.claim("sfm", KEY, "b", Watch(0))
    assert later is not None
    before = store.read_claim("sfm", KEY, 1)
    for ask in (lambda: store.heartbeat("sfm", KEY, claim), lambda: store.check_newest("sfm", KEY, 1)):
        with pytest.raises(Overtaken, match="Attempt 2 has taken over from attempt 1"):
            ask()
    assert store.read_claim("sfm", KEY, 1) == before
    store.heartbeat("sfm", KEY, later)


def test_a_claim_that_was_removed_is_not_written_again(store: ArtifactStore) -> None:
    claim = store.claim("sfm", KEY, "a", Watch())
    assert claim is not None
    store.storage.delete(f"artifacts/sfm/{KEY}")
    with pytest.raises(Overtaken):
        store.heartbeat("sfm", KEY, claim)
    assert list(store.storage.list()) == []


def test_force_gives_the_next_generation_and_the_same_to_the_same_owner(store: ArtifactStore) -> None:
    assert store.latest_generation("train", KEY) == 0
    assert store.generation("train", KEY, "run-1") == 1
    assert store.generation("train", KEY, "run-1") == 1
    assert store.generation("train", KEY, "run-2") == 2
    assert store.latest_generation("train", KEY) == 2


def save(store: ArtifactStore, folder: Path, step: int, attempt: int = 1) -> None:
    """A checkpoint of two files."""
    (folder / "optimizer").mkdir(parents=True)
    (folder / "state.pt").write_text(f"step {step} of attempt {attempt}")
    (folder / "optimizer" / "moments.bin").write_bytes(bytes([step % 256, attempt]) * 50)
    store.save_checkpoint("train", KEY, attempt, step, folder)


def steps(store: ArtifactStore) -> set[str]:
    return set(store.storage.folders(f"artifacts/train/{KEY}/checkpoints"))


def test_the_two_newest_checkpoints_are_kept_and_the_newest_is_resumed(store: ArtifactStore, tmp_path: Path) -> None:
    assert store.latest_checkpoint("train", KEY, tmp_path / "none") is None
    for step in (100, 200, 300):
        save(store, tmp_path / str(step), step)
    assert steps(store) == {"200-1", "300-1"}
    step, folder = store.latest_checkpoint("train", KEY, tmp_path / "resumed") or (0, tmp_path)
    assert step == 300
    assert (folder / "state.pt").read_text() == "step 300 of attempt 1"
    store.drop_checkpoints("train", KEY)
    assert store.latest_checkpoint("train", KEY, tmp_path / "gone") is None


def test_a_checkpoint_that_is_not_complete_is_passed_over_and_removed(
    store: ArtifactStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(store, tmp_path / "whole", 100)
    store.storage.write(f"artifacts/train/{KEY}/checkpoints/300-1/state.pt", b"half")
    assert (store.latest_checkpoint("train", KEY, tmp_path / "in") or (0,))[0] == 100
    assert "300-1 is passed over and removed. It is not complete." in caplog.text
    assert steps(store) == {"100-1"}


@pytest.mark.slow
@pytest.mark.parametrize("file", ["state.pt", "optimizer/moments.bin", "checkpoint.json"])
def test_whatever_is_damaged_of_the_newest_checkpoint_the_one_before_it_is_resumed(
    store: ArtifactStore, tmp_path: Path, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    draw = random.Random(file)
    save(store, tmp_path / "0", 100)
    for number in range(1, 8):
        save(store, tmp_path / str(number), 100 + number)
        path = f"artifacts/train/{KEY}/checkpoints/{100 + number}-1/{file}"
        whole = store.storage.read(path)
        place = 0 if number == 1 else draw.randrange(len(whole))
        # Cut short at any place, emptied, or with a byte that is another.
        store.storage.write(path, whole[:place] if number % 2 else whole[:place] + b"\0" + whole[place + 1 :])
        if store.storage.read(path) == whole:
            store.storage.write(path, b"")
        step, folder = store.latest_checkpoint("train", KEY, tmp_path / f"in {number}") or (0, tmp_path)
        assert step == 100
        assert (folder / "state.pt").read_text() == "step 100 of attempt 1"
        assert f"{100 + number}-1 is passed over and removed" in caplog.text
        assert steps(store) == {"100-1"}


def test_a_store_that_is_away_damages_no_checkpoint(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, tmp_path / "whole", 100)

    def away(*_: object) -> None:
        raise Infrastructure("The store could not be reached.")

    for verb in ("read", "local_path" if store.storage.local_path("") else "download"):
        with monkeypatch.context() as patch:
            patch.setattr(store.storage, verb, away)
            with pytest.raises(Infrastructure, match="could not be reached"):
                store.latest_checkpoint("train", KEY, tmp_path / "in")
        assert steps(store) == {"100-1"}


def test_an_attempt_that_was_overtaken_drops_no_checkpoint_of_a_later_one(store: ArtifactStore, tmp_path: Path) -> None:
    for number, (step, attempt) in enumerate([(4000, 1), (5000, 1), (4500, 2), (7000, 2)]):
        save(store, tmp_path / str(number), step, attempt)
    assert steps(store) == {"5000-1", "7000-2"}
    save(store, tmp_path / "late", 5500, attempt=1)
    assert steps(store) == {"5000-1", "5500-1", "7000-2"}
    assert (store.latest_checkpoint("train", KEY, tmp_path / "in") or (0,))[0] == 7000


def test_listing_stays_within_the_folder(store: ArtifactStore) -> None:
    for path in ("a/1", "a/b/2", "ab/3"):
        store.storage.write(path, b"x")
    assert [entry.path for entry in store.storage.list("a")] == ["a/1", "a/b/2"]
    assert list(store.storage.folders()) == ["a", "ab"]
    store.storage.copy("a/1", "c/1")
    store.storage.delete("a")
    assert [entry.path for entry in store.storage.list()] == ["ab/3", "c/1"]
    with pytest.raises(NotFound):
        store.storage.read("a/1")


def test_a_capture_has_one_digest_wherever_it_lies(tmp_path: Path, s3_root: str) -> None:
    places = [open_storage(tmp_path.as_uri()), open_storage(s3_root)]
    for storage in places:
        storage.write("b/2.jpg", b"two")
        storage.write("1.jpg", b"one")
        storage.write(".DS_Store", b"left by a file manager" + storage.uri.encode())
    digests = {list_capture_files(storage).digest for storage in places}
    assert len(digests) == 1
    places[0].write("1.jpg", b"0ne")
    assert list_capture_files(places[0]).digest not in digests


def test_an_empty_capture_is_refused(store_uri: str) -> None:
    with pytest.raises(UnreadableCapture, match="no capture"):
        list_capture_files(open_storage(store_uri))


def test_a_bucket_that_does_not_exist_and_a_strange_address_are_told(s3_endpoint: str) -> None:
    with pytest.raises(InvalidRequest, match="does not exist"):
        list(open_storage("s3://no-such-bucket/x").list())
    with pytest.raises(InvalidRequest, match="neither"):
        open_storage("ftp://host/x")
    with pytest.raises(InvalidRequest, match="not a local path"):
        open_storage("file://host/x")


def test_the_key_depends_on_what_is_asked_and_on_nothing_else() -> None:
    base = artifact_key("train", 1, {"a": 1, "b": 2}, {"sfm": "k"})
    assert base == artifact_key("train", 1, {"b": 2, "a": 1}, {"sfm": "k"})
    others = {
        artifact_key("sfm", 1, {"a": 1, "b": 2}, {"sfm": "k"}),
        artifact_key("train", 2, {"a": 1, "b": 2}, {"sfm": "k"}),
        artifact_key("train", 1, {"a": 1, "b": 3}, {"sfm": "k"}),
        artifact_key("train", 1, {"a": 1, "b": 2}, {"sfm": "l"}),
        artifact_key("train", 1, {"a": 1, "b": 2}, {"sfm": "k"}, generation=1),
        artifact_key("train", 1, {"a": 1, "b": 2}, {"sfm": "k"}, capture_digest="d"),
    }
    assert len(others | {base}) == 7


def test_what_was_removed_leaves_no_empty_folder_and_takes_nothing_with_it(store: ArtifactStore) -> None:
    for path in ("a/b/1", "a/b/2", "a/c/3"):
        store.storage.write(path, b"x")
    store.storage.remove(["a/b/1", "a/b/2", "a/nothing", "a/c/3/deeper"])
    assert [entry.path for entry in store.storage.list()] == ["a/c/3"]
    assert list(store.storage.folders("a")) == ["c"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOSPC])
def test_a_sick_disk_is_infrastructure_whatever_is_asked_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    storage = open_storage(tmp_path.as_uri())
    storage.write("a", b"x")

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    for broken in ("read_bytes", "open", "unlink"):
        monkeypatch.setattr(Path, broken, fail)
    asked = [
        lambda: storage.read("a"),
        lambda: storage.read_part("a", 0, 1),
        lambda: storage.write("b", b""),
        lambda: storage.remove(["a"]),
    ]
    for ask in asked:
        with pytest.raises(Infrastructure, match=f"^The disk .*{os.strerror(number)}"):
            ask()


def test_what_a_disk_refuses_is_told_as_a_store_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(tmp_path.as_uri())
    storage.write("a", b"x")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    for ask in (lambda: storage.read("a"), lambda: storage.delete("a")):
        with pytest.raises(InvalidRequest, match="refused access"):
            ask()


@pytest.mark.parametrize("verb", ["write", "create", "upload"])
def test_bytes_reach_a_disk_before_their_name_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    source, target = tmp_path / "source", tmp_path / "root" / "a" / "b"
    source.write_bytes(b"here")
    synced: list[tuple[Path, bool]] = []
    sync = os.fsync

    def watch(descriptor: int) -> None:
        synced.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")), target.exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    storage = open_storage((tmp_path / "root").as_uri())
    getattr(storage, verb)(*((source, "a/b") if verb == "upload" else ("a/b", b"here")))
    assert target.read_bytes() == b"here"
    # The new folders' names, the bytes, and the name of the file.
    assert [name for name, _ in synced[:2]] == [tmp_path, tmp_path / "root"]
    assert synced[2][0].parent == target.parent
    assert synced[2:][0][1] is False
    assert synced[-1] == (target.parent, True)


def test_a_store_that_does_what_claims_rely_on_is_tried_once(store: ArtifactStore) -> None:
    store.probe_once()
    assert [entry.path for entry in store.storage.list()] == ["probed.json"]
    found = store.storage.read("probed.json")
    for line in (b"create: ", b"read and list: ", b"remove: ", b"clock: "):
        assert line in found
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifacts, "probe", lambda _storage: pytest.fail("it was tried"))
        store.probe_once()


def replaces(storage: Storage, path: str, data: bytes) -> bool:
    storage.write(path, data)
    return True


@pytest.mark.parametrize(
    ("verb", "broken", "told"),
    [
        ("create", replaces, "lets a second writer replace what a first one created"),
        ("list", lambda *_: iter(()), "does not show what was just written"),
        ("folders", lambda *_: iter(()), "does not show what was just written"),
        ("remove", lambda *_: None, "still shows what was just removed"),
    ],
)
def test_a_store_on_which_claims_cannot_be_relied_is_refused_with_a_hint(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, verb: str, broken: Any, told: str
) -> None:
    monkeypatch.setattr(type(store.storage), verb, broken)
    with pytest.raises(InvalidRequest, match=told) as refusal:
        store.probe_once()
    assert refusal.value.hint
    with pytest.raises(NotFound):
        store.storage.read("probed.json")


def test_a_clock_that_is_far_off_is_told(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(store.storage), "clock", lambda _: now() + dt.timedelta(minutes=10))
    assert "600 s ahead of this machine's; set one of them right" in probe(store.storage)[-1]


def test_a_disk_without_hard_links_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(InvalidRequest, match="knows no hard links"):
        ArtifactStore.open(tmp_path.as_uri()).probe_once()


def test_on_a_disk_a_name_that_is_no_text_is_read_and_leads_nowhere_else(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    Path(os.fsdecode(os.fsencode(root) + b"/\xfc")).write_bytes(b"u")
    (root / "\\xe9").write_bytes(b"called so")
    Path(os.fsdecode(os.fsencode(root) + b"/\xe9")).write_bytes(b"e")
    Path(os.fsdecode(os.fsencode(root) + b"/\xff")).symlink_to(tmp_path / "secret")
    storage = open_storage(root.as_uri())
    assert storage.read("\\xfc") == b"u"
    # Of two that are spelled alike the one whose name is that text.
    assert storage.read("\\xe9") == b"called so"
    with pytest.raises(NotFound):
        storage.read("\\xff")
    storage.write("new/\\xe4", b"a")
    assert (storage.read("new/\\xe4"), [entry.path for entry in storage.list("new")]) == (b"a", ["new/\\xe4"])
