from __future__ import annotations

import stat
import struct
import zipfile
from pathlib import Path

import pytest
from ingest_photos import Ingest

from e2e3d_stages.contract.messages import UnreadableCapture
from e2e3d_stages.ingest import capture as capture_module


@pytest.fixture
def archive(capture: Path, tmp_path: Path) -> Path:
    """A good zip of three photos."""
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as bundle:
        for photo in capture.iterdir():
            bundle.write(photo, f"trip/{photo.name}")
    return path


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
    monkeypatch.setattr(capture_module, "MAX_ZIP_ENTRIES", 2)
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
