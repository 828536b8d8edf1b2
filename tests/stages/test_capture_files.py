"""What a stage gets of a capture: the files that its key was made of, or a failure that says which of them changed."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from e2e3d_stages.contract.messages import CaptureChanged, CaptureListing, FailureCode, Request, UnreadableCapture
from e2e3d_stages.program import run
from e2e3d_stages.registry import STAGES
from e2e3d_stages.store import captures
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.base import Storage
from e2e3d_stages.store.captures import fetch_capture, list_capture_files
from e2e3d_stages.store.opening import open_storage


@pytest.fixture
def capture(store_uri: str) -> Storage:
    """Three photos on a disk or in a bucket."""
    storage = open_storage(f"{store_uri}/town")
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        storage.write(name, name.encode())
    return storage


def fetched(capture: Storage, listing: CaptureListing, folder: Path) -> dict[str, bytes]:
    """What a stage reads, by name."""
    return {file.name: file.path.read_bytes() for file in fetch_capture(capture, listing, folder / "in").files}


def test_a_stage_reads_what_was_listed_and_nothing_that_came_later(capture: Storage, tmp_path: Path) -> None:
    listing = list_capture_files(capture)
    capture.write("0.jpg", b"somebody else's")
    assert fetched(capture, listing, tmp_path) == {f"{n}.jpg": f"{n}.jpg".encode() for n in (1, 2, 3)}
    assert list_capture_files(capture).digest != listing.digest


@pytest.mark.parametrize("content", [b"6.jpg", b"longer than before", None])
def test_a_file_that_changed_or_went_away_is_told_by_name(
    capture: Storage, tmp_path: Path, content: bytes | None
) -> None:
    listing = list_capture_files(capture)
    if content is None:
        capture.delete("2.jpg")
    else:
        capture.write("2.jpg", content)
    with pytest.raises(CaptureChanged, match=r"^1 of the capture's 3 files .*: 2\.jpg\."):
        fetched(capture, listing, tmp_path)


def test_a_file_that_goes_away_while_all_are_read_is_told_too(
    capture: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = list(capture.list())
    capture.delete("3.jpg")
    monkeypatch.setattr(capture, "list", lambda: iter(listed))
    with pytest.raises(CaptureChanged, match=r"3\.jpg"):
        list_capture_files(capture)


def test_the_program_ends_with_a_failure_of_its_own(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"as it was")
    storage = open_storage(tmp_path.as_uri())
    request = Request(
        stage="ingest",
        stage_version=STAGES["ingest"].version,
        key="0123456789abcdef" * 2,
        attempt=1,
        params=STAGES["ingest"].resolve("draft", {}).model_dump(mode="json"),
        capture=storage.uri,
        listing=list_capture_files(storage),
    )
    store.write_request(request)
    (tmp_path / "photo.jpg").write_bytes(b"as it is!")
    assert run(store.request_uri("ingest", request.key, 1)) == FailureCode.CAPTURE_CHANGED.exit_code
    failure = store.failure("ingest", request.key, 1)
    assert failure is not None
    assert failure.code is FailureCode.CAPTURE_CHANGED


@pytest.mark.slow
def test_large_files_are_read_a_little_at_a_time(store_uri: str, tmp_path: Path) -> None:
    storage = open_storage(store_uri)
    for number in range(3):
        with (tmp_path / "large").open("wb") as file:
            file.truncate(40 * 2**20 + number)
        storage.upload(tmp_path / "large", f"{number}.zip")
    tracemalloc.start()
    try:
        listing = list_capture_files(storage)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(file.size for file in listing.files) > 120 * 2**20
    # A test's bucket is a thread of this process, which holds an object while it sends it.
    assert peak < (20 if storage.local_path("") else 160) * 2**20


@pytest.mark.parametrize(("limit", "most"), [("MAX_FILES", 2), ("MAX_BYTES", 10)])
def test_a_folder_with_too_much_in_it_is_refused_before_any_of_it_is_read(
    capture: Storage, monkeypatch: pytest.MonkeyPatch, limit: str, most: int
) -> None:
    monkeypatch.setattr(captures, limit, most)
    monkeypatch.setattr(capture, "sha256", lambda path: pytest.fail(f"{path} was read"))
    with pytest.raises(UnreadableCapture, match="more than"):
        list_capture_files(capture)
