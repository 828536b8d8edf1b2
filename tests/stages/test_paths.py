"""A name from outside is never a path: what it may be joined to, and what a manifest or a checkpoint may name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from e2e3d_stages.contract.messages import InvalidRequest, Manifest, Program, StageError, StoredFile, Usage, now
from e2e3d_stages.contract.paths import UnsafePath, inside, safe_path, shown
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.base import NotFound
from e2e3d_stages.store.file import FileStorage
from e2e3d_stages.store.opening import open_storage

KEY = "0123456789abcdef" * 2
BAD = ["", "/abs", "a//b", "a/", "..", "a/../b", "./a", "a/.", "a\x00b", "a\nb", "a\x7f", "\udcff", "x" * 256]
GOOD = ["a", "a/b.jpg", "{{ 1 }}", "x" * 255, "é" * 127, "石像/1.jpg", " a ", "..a", "C:\\x", "a\u202fb.png"]
NAMES = st.text(max_size=12) | st.lists(st.sampled_from(["..", ".", "", "a", "\x00", "b"]), max_size=5).map("/".join)


@pytest.mark.parametrize("name", BAD, ids=repr)
def test_a_name_that_could_lead_elsewhere_or_be_no_file_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsafePath):
        inside(tmp_path, name)
    with pytest.raises(ValidationError, match="is no path"):
        StoredFile(path=name, size=0, sha256="")


@pytest.mark.parametrize("name", GOOD)
def test_every_other_name_is_taken_as_it_is(name: str, tmp_path: Path) -> None:
    assert safe_path(name) == name
    place = inside(tmp_path, name)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"x")
    assert [file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()] == [name]


@given(name=NAMES)
@example(name="/etc/passwd")
@example(name="a/../../b")
def test_whatever_a_name_is_it_stays_below_the_folder_or_is_refused(name: str) -> None:
    folder = Path("/srv/captures")
    try:
        place = inside(folder, name)
    except UnsafePath:
        return
    assert place != folder
    assert place.is_relative_to(folder)
    assert ".." not in place.parts
    assert place.relative_to(folder).as_posix() == name


@given(name=st.text())
def test_a_name_is_told_without_what_would_break_a_line_or_a_terminal(name: str) -> None:
    told = shown(name)
    assert len(told) <= 201
    assert len(told.splitlines()) <= 1
    assert "\x1b" not in told
    assert told.encode().decode() == told


def test_a_folder_on_a_disk_reads_and_writes_nothing_outside_itself(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a secret")
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "way").symlink_to(tmp_path)
    (root / "folder" / "file").write_text("ours")
    (root / "alias").symlink_to(root / "folder")
    storage = FileStorage(root.as_uri())
    for path in ("../secret", str(tmp_path / "secret"), "link", "way/secret", "folder/../../secret"):
        with pytest.raises(NotFound):
            storage.read(path)
        with pytest.raises(NotFound):
            storage.read_part(path, 0, 4)
        for act in (storage.local_path, storage.delete, lambda path: storage.write(path, b"theirs")):
            with pytest.raises(InvalidRequest):
                act(path)
    assert (tmp_path / "secret").read_text() == "a secret"
    assert storage.read("alias/file") == b"ours"


def test_a_root_that_is_itself_a_link_is_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "disk")
    storage = FileStorage((tmp_path / "root").as_uri())
    storage.write("a/b", b"x")
    assert (tmp_path / "disk" / "a" / "b").read_bytes() == b"x"


def manifest_of(files: list[dict[str, Any]]) -> bytes:
    """A manifest as whoever may write to the store could leave it."""
    usage = Usage(started=now(), finished=now(), wall_seconds=1, stage_seconds=1, cpu_seconds=1, peak_memory_bytes=1)
    made = Manifest(
        stage="sfm",
        stage_version=1,
        key=KEY,
        attempt=1,
        params={},
        inputs={},
        files=(),
        metrics={},
        usage=usage,
        program=Program(version="0", python="3", platform="test"),
    )
    return json.dumps({**made.model_dump(mode="json"), "files": files}).encode()


def file_of(path: str, data: bytes) -> dict[str, Any]:
    """How a manifest lists it."""
    return {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@pytest.fixture(params=["absolute", "climbing"])
def leading_out(request: pytest.FixtureRequest, store: ArtifactStore, tmp_path: Path) -> str:
    """A path that leads to `victim` from where files are fetched to, or from where they lie; there are its bytes."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"before")
    path = victim.as_posix()
    if request.param == "climbing":
        local = store.storage.local_path("")
        path = "../victim" if local is None else "../" * 7 + "victim"
    return path


def test_no_path_of_a_manifest_leaves_its_folder(store: ArtifactStore, tmp_path: Path, leading_out: str) -> None:
    data = b"before" if store.storage.local_path("") else b"after!"
    base = f"artifacts/sfm/{KEY}"
    if store.storage.local_path("") is None:
        store.storage.write(f"{base}/attempts/1/files/{leading_out}", data)
    store.storage.write(f"{base}/manifest.json", manifest_of([file_of(leading_out, data)]))

    def fetch() -> Path:
        found = store.manifest("sfm", KEY)
        assert found is not None
        return store.fetch(found, tmp_path / "in")

    for read in (fetch, lambda: store.manifest("sfm", KEY), lambda: store.reference("sfm", KEY)):
        with pytest.raises(InvalidRequest, match="is not a manifest of this version") as refusal:
            read()
        assert refusal.value.hint
    assert (tmp_path / "victim").read_bytes() == b"before"


def test_no_path_of_a_checkpoint_leaves_its_folder(store: ArtifactStore, tmp_path: Path, leading_out: str) -> None:
    data = b"before" if store.storage.local_path("") else b"after!"
    base = f"artifacts/train/{KEY}/checkpoints/7-1"
    if store.storage.local_path("") is None:
        store.storage.write(f"{base}/{leading_out}", data)
    told = {"step": 7, "files": [file_of(leading_out, data)]}
    store.storage.write(f"{base}/checkpoint.json", json.dumps(told).encode())
    assert store.latest_checkpoint("train", KEY, tmp_path / "in") is None
    assert (tmp_path / "victim").read_bytes() == b"before"


@pytest.mark.parametrize("paths", [["a", "a/b"], ["a", "a"], ["a/b/c", "a"]])
def test_files_that_one_folder_cannot_hold_are_refused(store: ArtifactStore, paths: list[str]) -> None:
    store.storage.write(f"artifacts/sfm/{KEY}/manifest.json", manifest_of([file_of(path, b"") for path in paths]))
    with pytest.raises(StageError, match=r"called like the folder|one name"):
        store.manifest("sfm", KEY)


def test_an_artifact_gives_nothing_that_a_link_in_it_leads_to(tmp_path: Path) -> None:
    store = ArtifactStore.open((tmp_path / "store").as_uri())
    (tmp_path / "secret").write_bytes(b"a secret")
    files = tmp_path / "store" / "artifacts" / "sfm" / KEY / "attempts" / "1" / "files"
    files.mkdir(parents=True)
    (files / "photos.json").symlink_to(tmp_path / "secret")
    found = Manifest.model_validate_json(manifest_of([file_of("photos.json", b"a secret")]))
    with pytest.raises(UnsafePath):
        store.fetch(found, tmp_path / "in")
    with pytest.raises(InvalidRequest):
        store.storage.copy(store.file_path(found, "photos.json"), "scenes/yard/run/photos.json")


def test_a_bucket_gives_only_what_lies_below_its_prefix(s3_root: str) -> None:
    storage = open_storage(s3_root)
    storage.write("a", b"x")
    with pytest.raises(NotFound):
        open_storage(f"{s3_root}/b").read("../a")
