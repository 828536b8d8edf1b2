"""Captures as one listing of a root shows them, on a disk and in a bucket alike."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest

from airflow_provider_e2e3d.captures.completeness import Completeness
from airflow_provider_e2e3d.captures.listing import capture_at, captures_below
from airflow_provider_e2e3d.profiles.profile import Profile
from airflow_provider_e2e3d.scenes.names import scene_of, scenes_of, title_of, valid_scene
from e2e3d_stages.contract.messages import now
from e2e3d_stages.store.base import Entry, Storage
from e2e3d_stages.store.captures import list_capture_files
from e2e3d_stages.store.file import FileStorage
from e2e3d_stages.store.opening import open_storage
from e2e3d_stages.store.s3 import S3Storage

SECOND = dt.timedelta(seconds=1)


@pytest.fixture
def storage(store_uri: str) -> Storage:
    """A root for captures."""
    return open_storage(store_uri)


def upload(storage: Storage, *paths: str) -> None:
    """Files whose contents are their names."""
    for path in paths:
        storage.write(path, path.encode())


def test_a_folder_and_a_zip_are_captures_and_other_files_beside_them_are_not(storage: Storage) -> None:
    upload(storage, "yard/1.jpg", "yard/more/2.JPG", "yard/notes.txt", "barn.zip", "readme.txt", "photo.jpg")
    barn, yard = captures_below(storage)
    assert (yard.name, yard.photos, yard.single) == ("yard", 2, False)
    assert yard.size == len("yard/1.jpg" + "yard/more/2.JPG" + "yard/notes.txt")
    assert (barn.name, barn.single) == ("barn.zip", True)


def test_a_capture_is_the_same_below_its_root_and_by_its_own_address(storage: Storage) -> None:
    upload(storage, "yard/1.jpg", "yard/2.jpg", "yard/.thumbs/x", "barn.zip")
    for capture in captures_below(storage):
        assert capture_at(open_storage(capture.uri)) == capture
    assert capture_at(open_storage(f"{storage.uri}/nowhere")) is None


def test_names_that_sort_between_a_folder_and_its_files_split_no_capture(storage: Storage) -> None:
    upload(storage, "a/1.jpg", "a-b/1.jpg", "a/2.jpg", "a.b/1.jpg", "a/b/3.jpg", "a0/1.jpg")
    assert [(capture.name, capture.photos) for capture in captures_below(storage)] == [
        ("a-b", 1),
        ("a.b", 1),
        ("a", 3),
        ("a0", 1),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Rathaus 50%25 #2", "a?b", "Bäckerei", "it's {{ 1 }}"])
def test_a_capture_whose_name_means_something_in_an_address_is_found_there(storage: Storage, name: str) -> None:
    upload(storage, f"{name}/1.jpg")
    (capture,) = captures_below(storage)
    profile = Profile(store="file:///store", captures=(storage.uri,))
    admitted = open_storage(profile.admit(capture.uri))
    assert capture_at(admitted) == capture
    assert list_capture_files(admitted).digest


ODD = ["/m/0.jpg", "//0.jpg", "../m/0.jpg", "./0.jpg", "a\x07b/0.jpg", f"{'x' * 256}/0.jpg", "\x1b[2J/0.jpg"]


def test_a_capture_has_a_name_and_lies_strictly_below_its_root(s3_root: str) -> None:
    storage = open_storage(s3_root)
    upload(storage, "yard/1.jpg", *ODD)
    profile = Profile(store="file:///store", captures=(storage.uri,))
    captures = list(captures_below(storage))
    assert [capture.name for capture in captures] == ["yard"]
    assert [profile.admit(capture.uri) for capture in captures] == [f"{s3_root}/yard"]


def test_on_a_disk_a_folder_whose_name_is_none_hides_no_other(tmp_path: Path) -> None:
    for name in (b"a\nb", b"caf\xe9", b"yard"):
        folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        folder.mkdir()
        (folder / "1.jpg").write_bytes(b"x")
    (Path(os.fsdecode(os.fsencode(tmp_path / "yard") + b"/caf\xe9.jpg"))).write_bytes(b"x")
    cafe, yard = captures_below(FileStorage(tmp_path.as_uri()))
    assert (cafe.name, cafe.photos, yard.name, yard.photos) == ("caf\\xe9", 1, "yard", 2)
    # Whose name is no text is read like any other, by the address that its listing gave.
    listing = list_capture_files(open_storage(Profile(store="s3://x", captures=(tmp_path.as_uri(),)).admit(cafe.uri)))
    assert [(file.path, file.size) for file in listing.files] == [("1.jpg", 1)]
    assert {file.path for file in list_capture_files(open_storage(yard.uri)).files} == {"1.jpg", "caf\\xe9.jpg"}


def test_a_folder_that_must_not_be_read_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = FileStorage(tmp_path.as_uri())
    upload(storage, "barn/1.jpg", "barn/private/2.jpg", "closed/1.jpg", "yard/1.jpg")
    scandir = os.scandir

    def guarded(folder: Path) -> Any:
        if Path(folder).name in ("private", "closed"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)
    assert {capture.name: capture.photos for capture in captures_below(storage)} == {"barn": 1, "yard": 1}
    assert list_capture_files(open_storage((tmp_path / "barn").as_uri())).files


def test_an_object_that_is_called_like_its_folder_hides_no_capture(s3_root: str) -> None:
    storage = open_storage(s3_root)
    upload(storage, "marker", "marker-2/1.jpg", "marker/1.jpg", "near", "near/1.jpg", "town.zip", "town.zip-2/1.jpg")
    upload(storage, "town.zip/1.jpg", "barn.zip", "barn.zip/.DS_Store")
    found = {capture.name: capture for capture in captures_below(storage)}
    assert set(found) == {"marker", "marker-2", "near", "town.zip", "town.zip-2", "barn.zip"}
    assert {name for name, capture in found.items() if capture.single} == {"barn.zip"}
    assert {capture.photos for capture in found.values() if not capture.single} == {1}
    for capture in found.values():
        assert capture_at(open_storage(capture.uri)) == capture


def test_a_file_of_a_capture_that_no_file_can_be_called_like_is_no_photo(s3_root: str) -> None:
    storage = open_storage(s3_root)
    upload(storage, "yard/1.jpg", "yard//2.jpg", "yard/a\x07b.jpg")
    (yard,) = captures_below(storage)
    assert (yard.photos, yard.first_photo) == (1, "1.jpg")


def test_hidden_files_neither_count_nor_change_a_capture(storage: Storage) -> None:
    upload(storage, "yard/1.jpg")
    (before,) = captures_below(storage)
    upload(storage, "yard/.DS_Store", "yard/.cache/2.jpg", ".trash/1.jpg", ".hidden.zip")
    (after,) = captures_below(storage)
    assert (after.photos, after.fingerprint) == (1, before.fingerprint)


def test_a_hidden_file_may_be_the_marker_and_a_photo_may_not(storage: Storage) -> None:
    upload(storage, "yard/1.jpg", "yard/.done", "yard/DONE", "yard/more/DEEP")
    (capture,) = captures_below(storage)
    assert capture.files == {".done", "DONE"}


def test_a_fingerprint_differs_when_a_file_comes_goes_or_changes(storage: Storage) -> None:
    def fingerprint() -> str:
        (capture,) = captures_below(storage)
        return capture.fingerprint

    upload(storage, "yard/1.jpg", "yard/2.jpg")
    seen = [fingerprint()]
    assert fingerprint() == seen[0]
    upload(storage, "yard/3.jpg")
    seen.append(fingerprint())
    storage.delete("yard/1.jpg")
    seen.append(fingerprint())
    storage.write("yard/2.jpg", b"better")
    seen.append(fingerprint())
    assert len(set(seen)) == len(seen)


def test_photos_are_counted_whatever_they_are_called(storage: Storage) -> None:
    for number in range(7):
        storage.write(f"yard/dji_fly_{number}_photo", b"\xff\xd8\xff" + bytes(2000 + number))
    upload(storage, "yard/_DONE", "yard/IMG_1.HEIC", "yard/IMG_2.DNG", "yard/IMG_3.jfif", "yard/clip.mov")
    storage.write("yard/telemetry", b"no photo" * 100)
    (yard,) = captures_below(storage)
    assert (yard.photos, yard.films, yard.counted) == (10, 1, False)
    assert {"_DONE", "dji_fly_0_photo"} <= yard.files


def test_few_bytes_are_read_to_count_them(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(storage, "barn/1.jpg", "barn/notes.txt")
    for number in range(50):
        storage.write(f"yard/dji_fly_{number}_photo", b"\xff\xd8\xff" + bytes(2000))
    read: list[int] = []
    original = type(storage).read_part
    monkeypatch.setattr(type(storage), "read_part", lambda self, *part: read.append(part[2]) or original(self, *part))
    assert sum(capture.photos for capture in captures_below(storage)) == 51
    assert read == [64]


def test_companions_of_photos_do_not_count(storage: Storage) -> None:
    names = [f"{folder}/{number}" for number in (1, 2, 3) for folder in ("images", "masks", "depth", "images_2")]
    upload(storage, *(f"yard/{name}.png" for name in names))
    (yard,) = captures_below(storage)
    assert (yard.photos, yard.first_photo) == (3, "images/1.png")


def test_a_folder_that_holds_a_zip_is_complete_when_it_was_quiet(storage: Storage) -> None:
    upload(storage, "yard/photos.zip", "yard/readme.txt")
    (yard,) = captures_below(storage)
    assert (yard.photos, yard.counted, yard.single) == (0, False, False)
    rule = Completeness(quiet_seconds=60, min_photos=5)
    assert not rule.holds(yard, yard.arrived + 59 * SECOND)
    assert rule.holds(yard, yard.arrived + 60 * SECOND)


def test_the_stores_clock_is_the_one_that_stamps_what_arrives(storage: Storage) -> None:
    before = storage.clock()
    upload(storage, "yard/1.jpg")
    (capture,) = captures_below(storage)
    assert before - SECOND <= capture.arrived <= storage.clock() + SECOND


def test_a_copy_that_keeps_its_originals_date_arrives_when_it_is_copied(tmp_path: Path) -> None:
    upload(FileStorage(tmp_path.as_uri()), "yard/1.jpg")
    os.utime(tmp_path / "yard" / "1.jpg", (0, 0))
    (capture,) = captures_below(FileStorage(tmp_path.as_uri()))
    assert now() - capture.arrived < 10 * SECOND


def capture_of(storage: Storage) -> Any:
    """The only capture."""
    (capture,) = captures_below(storage)
    return capture


def test_an_upload_is_complete_when_it_was_quiet_for_long_enough_and_has_photos_enough(storage: Storage) -> None:
    upload(storage, "yard/1.jpg", "yard/2.jpg")
    capture = capture_of(storage)
    rule = Completeness(quiet_seconds=60, min_photos=2)
    assert "within 60 s" in rule.missing(capture, capture.arrived + 59 * SECOND)
    assert rule.holds(capture, capture.arrived + 60 * SECOND)
    assert "2 photos and needs 3" in Completeness(quiet_seconds=60, min_photos=3).missing(capture, now() + 99 * SECOND)


def test_an_upload_with_a_marker_is_complete_at_once_and_without_it_never(storage: Storage) -> None:
    upload(storage, "yard/1.jpg")
    rule = Completeness(marker="_DONE", min_photos=1)
    assert "_DONE is not there" in rule.missing(capture_of(storage), now() + dt.timedelta(days=1))
    upload(storage, "yard/_DONE")
    assert rule.holds(capture_of(storage), now())


def test_a_zip_needs_neither_marker_nor_photos_that_can_be_counted_but_to_be_quiet(storage: Storage) -> None:
    upload(storage, "yard.zip")
    capture = capture_of(storage)
    rule = Completeness(marker="_DONE", quiet_seconds=60, min_photos=5)
    assert not rule.holds(capture, capture.arrived + 59 * SECOND)
    assert rule.holds(capture, capture.arrived + 60 * SECOND)


def test_a_film_is_a_capture_and_so_is_a_folder_with_one(storage: Storage) -> None:
    upload(storage, "walk.MOV", "yard/a/walk.mp4", "live/1.heic", "live/1.mov")
    live, yard, walk = sorted(captures_below(storage), key=lambda capture: capture.name.casefold()[-1])[:3]
    found = {capture.name: (capture.photos, capture.films, capture.single) for capture in (live, yard, walk)}
    assert found == {"live": (1, 0, False), "yard": (0, 1, False), "walk.MOV": (0, 1, True)}


def test_a_film_needs_no_photos_beside_it_but_to_be_quiet(storage: Storage) -> None:
    upload(storage, "yard/walk.mkv")
    capture = capture_of(storage)
    rule = Completeness(quiet_seconds=60, min_photos=5)
    assert "within 60 s" in rule.missing(capture, capture.arrived + 59 * SECOND)
    assert rule.holds(capture, capture.arrived + 60 * SECOND)


def box(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + kind + content


@pytest.mark.parametrize("marker", ["", "_DONE"])
def test_on_a_disk_a_film_that_is_still_being_written_starts_nothing_however_long_it_rests(
    tmp_path: Path, marker: str
) -> None:
    whole = box(b"ftyp", b"isom" + bytes(8)) + box(b"mdat", bytes(5000)) + box(b"moov", bytes(300))
    storage = FileStorage(tmp_path.as_uri())
    rule = Completeness(marker=marker, quiet_seconds=60)
    for size in (30, 3000, 5032, 5200, len(whole) - 1):
        storage.write("yard/walk.mp4", whole[:size])
        storage.write("yard/_DONE", b"")
        assert "walk.mp4 lacks its end" in rule.missing(capture_of(storage), now() + dt.timedelta(days=1))
    storage.write("yard/walk.mp4", whole)
    assert rule.holds(capture_of(storage), now() + dt.timedelta(days=1))


@pytest.mark.parametrize("marker", ["", "_DONE"])
def test_photos_beside_a_film_that_never_gets_its_end_are_waited_for_until_nothing_comes(
    tmp_path: Path, marker: str
) -> None:
    storage = FileStorage(tmp_path.as_uri())
    upload(storage, "yard/1.jpg", "yard/2.jpg", "yard/_DONE")
    storage.write("yard/walk.mp4", box(b"ftyp", b"isom" + bytes(8)) + bytes(3000))
    capture = capture_of(storage)
    rule = Completeness(marker=marker, quiet_seconds=60, min_photos=2)
    assert "within 60 s" in rule.missing(capture, capture.arrived + 59 * SECOND)
    assert rule.holds(capture, capture.arrived + 60 * SECOND)
    alone = Completeness(marker=marker, quiet_seconds=60, min_photos=3)
    assert "lacks its end" in alone.missing(capture, capture.arrived + 60 * SECOND)


class Endless(FileStorage):
    """A root of 1,000 captures of ten photos, listed as they are asked for; counts what of its listing is kept."""

    most_kept = 0

    def list(self, prefix: str = "") -> Iterator[Entry]:
        kept: WeakSet[Entry] = WeakSet()
        for number in range(10_000):
            entry = Entry(f"capture-{number // 10:06d}/{number % 10}.jpg", 1, now(), "tag")
            kept.add(entry)
            self.most_kept = max(self.most_kept, len(kept))
            yield entry


def test_of_a_thousand_captures_one_at_a_time_is_kept() -> None:
    storage = Endless("file:///captures")
    assert sum(capture.photos for capture in captures_below(storage)) == 10_000
    assert storage.most_kept < 25


def test_a_bucket_is_listed_page_by_page_as_captures_are_asked_for(s3_root: str) -> None:
    storage = open_storage(s3_root)
    assert isinstance(storage, S3Storage)
    upload(storage, *(f"capture-{number}/{photo}.jpg" for number in range(4) for photo in range(5)))
    asked = []
    storage._client.meta.events.register("before-call.s3.ListObjectsV2", lambda **call: asked.append(1))
    storage._client.meta.events.register(
        "provide-client-params.s3.ListObjectsV2", lambda params, **_: {**params, "MaxKeys": 7}
    )
    captures = captures_below(storage)
    next(captures)
    assert len(asked) == 1
    assert len(list(captures)) == 3
    assert len(asked) == 3


def test_a_folder_is_listed_in_the_order_of_a_bucket(s3_root: str, tmp_path: Path) -> None:
    paths = ["a/1", "a-b/1", "a", "a!/2/1", "b.zip", "a/b/c/d", "é/1", "a/b-c/1"]
    listed = []
    for storage in (open_storage(s3_root), FileStorage(tmp_path.as_uri())):
        upload(storage, *(path for path in paths if path != "a"))
        listed.append([entry.path for entry in storage.list()])
    assert listed[0] == listed[1]


def test_a_scene_is_named_like_its_capture() -> None:
    assert scene_of("s3://uploads/Old Town Hall/images") == "old-town-hall"
    assert scene_of("s3://uploads/statue.zip") == "statue"
    assert scene_of("file:///data/Statue%20%232") == "statue-2"


def test_two_captures_whose_names_give_one_scene_get_scenes_of_their_own() -> None:
    scenes = scenes_of(["Statue", "statue", "barn", "x" * 80, "x" * 81])
    assert scenes["barn"] == "barn"
    assert len(set(scenes.values())) == len(scenes)
    assert scenes["Statue"].startswith("statue-")
    assert all(len(scene) <= 63 for scene in scenes.values())


def test_scenes_of_captures_in_any_script_are_readable_where_they_can_be_and_always_apart() -> None:
    names = [
        "Burg Eltz",
        "Église",
        "E\u0301glise 2",
        "Müller Haus",
        "Straße",
        "教会",
        "写真",
        "東京タワー 2",
        "Дом",
        "walk.mp4",
    ]
    scenes = [scene_of(f"s3://bucket/uploads/{name}") for name in names]
    assert scenes[:5] == ["burg-eltz", "eglise", "eglise-2", "muller-haus", "strasse"]
    assert scenes[9] == "walk"
    assert len(set(scenes)) == len(names)
    assert all(valid_scene(scene) == scene for scene in scenes)
    assert scenes[5].startswith("scene-")
    # Also by a file's address, and however its accents were written.
    assert scene_of((Path("/uploads") / "教会").as_uri()) == scenes[5]
    assert scene_of("s3://bucket/uploads/E\u0301glise") == "eglise"


def test_a_scene_is_titled_as_people_wrote_its_name_unless_they_gave_it_another() -> None:
    address = "s3://bucket/uploads/教会/photos"
    assert title_of(scene_of(address), address) == "教会"
    assert title_of("chapel", address) == "chapel"
    assert title_of("burg-eltz", "s3://bucket/Burg Eltz") == "burg-eltz"
    assert title_of("eglise", "s3://bucket/E\u0301glise") == "Église"
