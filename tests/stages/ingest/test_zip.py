from __future__ import annotations

import errno
import io
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingest_photos import Ingest, picture

from e2e3d_stages.contract.messages import Infrastructure, UnreadableCapture
from e2e3d_stages.ingest import capture as capture_module
from e2e3d_stages.store.zips import entry_head, entry_path, entry_problem, is_folder, open_zip

FILES = Path(__file__).parent / "files"


@pytest.fixture
def archive(capture: Path, tmp_path: Path) -> Path:
    """A good zip of three photos."""
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as bundle:
        for photo in capture.iterdir():
            bundle.write(photo, f"trip/{photo.name}")
    return path


def jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    picture(seed).save(file, "JPEG")
    return file.getvalue()


def add(archive: Path, entry: str | zipfile.ZipInfo, data: bytes = b"x") -> None:
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr(entry, data)


def test_a_zip_gives_the_same_photos_as_its_folder(archive: Path, ingest: Ingest) -> None:
    add(archive, "__MACOSX/trip/._IMG_1.jpg")
    add(archive, "trip/.DS_Store")
    add(archive, "trip/readme.txt")
    result = ingest(archive)
    assert [p["source"] for p in result.record["photos"]] == ["trip/IMG_1.jpg", "trip/IMG_2.jpg", "trip/IMG_10.jpg"]
    assert result.dropped == {"trip/readme.txt": "not_a_photo"}


def test_a_zip_bomb_is_refused_before_it_is_unpacked(archive: Path, ingest: Ingest) -> None:
    add(archive, "zeros.jpg", bytes(20 * 2**20))
    with pytest.raises(UnreadableCapture, match="zip bomb"):
        ingest(archive)


def test_too_many_or_too_large_entries_are_refused(
    archive: Path, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture_module, "MAX_FILES", 2)
    with pytest.raises(UnreadableCapture, match="holds 3 files"):
        ingest(archive)


@pytest.mark.parametrize(
    "name", ["../../evil.jpg", "/etc/evil.jpg", "a/../../evil.jpg", "..\\evil.jpg", "C:\\evil.jpg"]
)
def test_an_entry_that_leaves_its_folder_is_refused(name: str, archive: Path, ingest: Ingest, tmp_path: Path) -> None:
    add(archive, name)
    with pytest.raises(UnreadableCapture, match="outside its folder"):
        ingest(archive)
    assert not list(tmp_path.rglob("*evil*"))


def test_a_link_in_a_zip_is_refused(archive: Path, ingest: Ingest) -> None:
    link = zipfile.ZipInfo("passwd.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    add(archive, link, b"/etc/passwd")
    with pytest.raises(UnreadableCapture, match="is a link"):
        ingest(archive)


def test_an_encrypted_zip_is_refused(archive: Path, ingest: Ingest) -> None:
    data = bytearray(archive.read_bytes())
    directory = data.index(b"PK\x01\x02")
    flags = struct.unpack_from("<H", data, directory + 8)[0]
    struct.pack_into("<H", data, directory + 8, flags | 1)
    archive.write_bytes(data)
    with pytest.raises(UnreadableCapture, match="encrypted"):
        ingest(archive)


def test_a_file_that_is_no_zip_is_refused(tmp_path: Path, ingest: Ingest) -> None:
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(UnreadableCapture, match="not a zip"):
        ingest(tmp_path / "broken.zip")


def test_one_damaged_photo_in_a_zip_costs_only_itself(archive: Path, ingest: Ingest) -> None:
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_STORED) as bundle:
        bundle.writestr("trip/bad.jpg", b"A" * 5000)
    data = archive.read_bytes()
    archive.write_bytes(data.replace(b"A" * 5000, b"A" * 4999 + b"B"))
    assert ingest(archive).dropped == {"trip/bad.jpg": "unreadable"}


def test_a_side_file_that_packs_well_is_no_bomb_and_takes_no_room(archive: Path, ingest: Ingest) -> None:
    add(archive, "trip/flightlog.csv", b"0,0,0\n" * 2_000_000)
    add(archive, "trip/telemetry", b"\0" * 12_000_000)
    result = ingest(archive)
    assert result.metrics["photos"] == 3
    assert result.context.warnings == []
    assert sum(path.stat().st_size for path in result.context.scratch.rglob("*") if path.is_file()) < 1_000_000


def test_many_small_files_are_a_bomb_together(archive: Path, ingest: Ingest) -> None:
    for number in range(40):
        add(archive, f"{number}.jpg", bytes(2**20 - 1))
    with pytest.raises(UnreadableCapture, match="zip bomb"):
        ingest(archive)


def test_a_photo_without_a_suffix_that_is_a_bomb_costs_only_itself(archive: Path, ingest: Ingest) -> None:
    add(archive, "dji_fly_0", b"\xff\xd8\xff" + bytes(20 * 2**20))
    assert ingest(archive).dropped == {"dji_fly_0": "unreadable"}


def test_limits_hold_for_all_zips_of_a_capture_together(
    capture: Path, archive: Path, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture_module, "MAX_FILES", 5)
    for name in ("a.zip", "b.zip"):
        (capture / name).write_bytes(archive.read_bytes())
    # Those of the first are copies.
    assert ingest(capture).dropped["b.zip"] == "unreadable"


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("damaged", [0, 1])
def test_one_damaged_entry_costs_only_its_photo_however_it_is_packed(
    method: int, damaged: int, capture: Path, ingest: Ingest, tmp_path: Path
) -> None:
    (capture / "IMG_11.jpg").write_bytes((FILES / "turned-p3.heic").read_bytes())
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w", method) as bundle:
        for photo in sorted(capture.iterdir()):
            bundle.write(photo, photo.name)
        entry = bundle.infolist()[damaged]
    data = bytearray(path.read_bytes())
    start = entry.header_offset + 30 + len(entry.filename)
    data[start + 20 : start + entry.compress_size] = b"\xa5" * (entry.compress_size - 20)
    path.write_bytes(data)
    result = ingest(path)
    assert result.dropped == {entry.filename: "unreadable"}
    assert "damaged in its zip" in result.record["dropped"][0]["detail"]


def test_a_name_that_is_falsely_said_to_be_utf8_costs_nothing(capture: Path, ingest: Ingest, tmp_path: Path) -> None:
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as bundle:
        for name, photo in zip(("cafXé.jpg", "b.jpg", "ümlaut.jpg"), sorted(capture.iterdir()), strict=True):
            bundle.write(photo, name)
    path.write_bytes(path.read_bytes().replace("Xé".encode(), b"\xe9\xe9\xe9"))
    result = ingest(path)
    assert [photo["source"] for photo in result.record["photos"]] == ["b.jpg", "cafΘΘΘ.jpg", "ümlaut.jpg"]


def named(data: bytes, old: bytes, new: bytes) -> bytes:
    """A zip in which an entry has another name, of the same length."""
    assert len(old) == len(new)
    assert data.count(old) == 2
    return data.replace(old, new)


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ("Ünïcode/ümlaut.jpg".encode(), "Ünïcode/ümlaut.jpg"),  # as macOS packs
        ("東京.jpg".encode(), "東京.jpg"),
        ("表.jpg".encode("cp932"), "表.jpg"),  # as Windows packs in Japan: 0x95 0x5c
        ("旅/ソ.jpg".encode("cp932"), "旅/ソ.jpg"),
        ("Größe.jpg".encode("cp437"), "Größe.jpg"),
        ("Größé\\a.jpg".encode("cp437"), "Größé/a.jpg"),
        (b"trip\\a.jpg", "trip/a.jpg"),
    ],
)
@pytest.mark.parametrize("mark", [False, True])
def test_a_photo_in_a_zip_is_called_as_whoever_packed_it_saw_it(
    stored: bytes, read: str, mark: bool, archive: Path, ingest: Ingest
) -> None:
    held = "é" if mark else "ZZ"
    place = held + "Z" * (len(stored) - len(held.encode()))
    add(archive, place, jpeg(7))
    archive.write_bytes(named(archive.read_bytes(), place.encode(), stored))
    assert read in {photo["source"] for photo in ingest(archive).record["photos"]}


@pytest.mark.parametrize("single", [False, True], ids=["beside photos", "alone"])
def test_an_entry_without_a_name_costs_only_itself(
    single: bool, capture: Path, archive: Path, ingest: Ingest, tmp_path: Path
) -> None:
    add(archive, "ZZZZ.jpg", jpeg(7))
    archive.write_bytes(named(archive.read_bytes(), b"ZZZZ.jpg", b"\0ZZZ.jpg"))
    if not single:
        archive.rename(capture / "more.zip")
    result = ingest(archive if single else capture)
    assert result.metrics["photos"] == 3
    assert "unsafe_name" in result.dropped.values()


def test_deflate64_is_told_by_its_name_with_a_way_out(archive: Path, ingest: Ingest) -> None:
    data = bytearray(archive.read_bytes())
    for mark, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        found = -1
        while (found := data.find(mark, found + 1)) >= 0:
            struct.pack_into("<H", data, found + place, 9)
    archive.write_bytes(data)
    with pytest.raises(
        UnreadableCapture, match=r"packed with Deflate64, as Windows packs .* the folder itself"
    ) as told:
        ingest(archive)
    assert told.value.message.count("Deflate64") == 1


def test_a_sick_disk_is_no_damaged_zip(archive: Path, ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error", str(archive))

    monkeypatch.setattr(zipfile.ZipExtFile, "read", fail)
    with pytest.raises(Infrastructure, match=r"^photos\.zip could not be read: Input/output error\.$"):
        ingest(archive)


@given(st.data())
def test_a_zip_that_was_damaged_anywhere_is_read_or_refused_and_never_crashes(data: st.DataObject) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as bundle:
        for name, method in (("a.jpg", 0), ("é.jpg", 8), ("b/c.zip", 12), ("d", 14)):
            bundle.writestr(name, b"\xff\xd8\xff" + bytes(range(200)), method)
    content = bytearray(file.getvalue())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    try:
        with open_zip(io.BytesIO(bytes(content)), "x.zip") as bundle:
            for entry in bundle.infolist():
                is_folder(entry), entry_path(entry), entry_problem(entry), entry_head(bundle, entry)
    except UnreadableCapture:
        pass
