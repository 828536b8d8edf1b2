"""Files of a capture whose names could be paths to elsewhere: they spoil nothing but themselves."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from ingest_photos import Ingest, picture
from PIL import Image

from e2e3d_stages.contract.messages import UnreadableCapture
from e2e3d_stages.store.base import Storage
from e2e3d_stages.store.captures import fetch_capture, list_capture_files
from e2e3d_stages.store.opening import open_storage

UNSAFE = "unsafe_name"


def jpeg(image: Image.Image) -> bytes:
    """As a file."""
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def good(store_uri: str) -> Storage:
    """A capture of three good photos, on a disk and in a bucket."""
    storage = open_storage(f"{store_uri}/cap")
    for number in (1, 2, 10):
        storage.write(f"IMG_{number}.jpg", jpeg(picture(number)))
    return storage


@pytest.fixture
def bucket(s3_root: str) -> Storage:
    """The same in a bucket only, for names that no disk has."""
    storage = open_storage(f"{s3_root}/cap")
    for number in (1, 2, 10):
        storage.write(f"IMG_{number}.jpg", jpeg(picture(number)))
    return storage


@pytest.mark.slow
def test_photos_keep_their_names_for_people_wherever_they_lie(good: Storage, ingest: Ingest) -> None:
    good.write("more {{ 1 }}/IMG 1.jpg", jpeg(picture(77)))
    good.write("more {{ 1 }}/copy.jpg", jpeg(picture(77)))
    good.write("notes.txt", b"windy")
    result = ingest(good.uri)
    assert [photo["source"] for photo in result.record["photos"]] == [
        "IMG_1.jpg",
        "IMG_2.jpg",
        "IMG_10.jpg",
        "more {{ 1 }}/copy.jpg",
    ]
    assert result.dropped == {"more {{ 1 }}/IMG 1.jpg": "duplicate", "notes.txt": "not_a_photo"}
    (copy,) = [item["detail"] for item in result.record["dropped"] if item["reason"] == "duplicate"]
    assert "more {{ 1 }}/copy.jpg" in copy


def test_a_key_with_an_empty_step_writes_nowhere_and_costs_only_its_photo(
    bucket: Storage, ingest: Ingest, tmp_path: Path
) -> None:
    victim = tmp_path / "victim" / "module.py"
    victim.parent.mkdir()
    victim.write_bytes(b"before")
    bucket.write(str(victim), b"after")
    bucket.write("/IMG_11.jpg", jpeg(picture(11)))
    result = ingest(bucket.uri)
    assert victim.read_bytes() == b"before"
    assert [photo["source"] for photo in result.record["photos"]] == ["IMG_1.jpg", "IMG_2.jpg", "IMG_10.jpg"]
    assert result.dropped == {str(victim): UNSAFE, "/IMG_11.jpg": UNSAFE}
    (warning,) = [warning for warning in result.context.warnings if warning.code == f"photos_{UNSAFE}"]
    assert "2 files were left out because they have names that no file can have" in warning.message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a//b.jpg", "a//b.jpg"),
        ("a/../b.jpg", "a/../b.jpg"),
        ("../b.jpg", "../b.jpg"),
        ("./b.jpg", "./b.jpg"),
        ("bell\x07.jpg", "bell\\x07.jpg"),
        (f"{'x' * 260}.jpg", f"{'x' * 200}…"),
        ("", "cap"),
    ],
    ids=["empty step", "climbing", "climbing out", "a dot", "control character", "too long", "like its folder"],
)
def test_an_object_that_no_file_can_be_called_like_costs_only_itself(
    name: str, told: str, bucket: Storage, ingest: Ingest
) -> None:
    bucket.write(name, b"" if not name else jpeg(picture(11)))
    result = ingest(bucket.uri)
    assert result.dropped == {told: UNSAFE}
    assert result.metrics["photos"] == 3


def test_names_that_only_a_bucket_holds_beside_each_other_are_all_photos(bucket: Storage, ingest: Ingest) -> None:
    bucket.write("a.jpg", jpeg(picture(11)))
    bucket.write("a.jpg/b.jpg", jpeg(picture(12)))
    result = ingest(bucket.uri)
    assert {photo["source"] for photo in result.record["photos"]} >= {"a.jpg", "a.jpg/b.jpg"}
    assert result.dropped == {}


def test_a_capture_of_nothing_but_such_names_says_why(s3_root: str, ingest: Ingest) -> None:
    storage = open_storage(f"{s3_root}/dbl")
    storage.write("/IMG_1.jpg", jpeg(picture(1)))
    with pytest.raises(UnreadableCapture, match=r"0 of 1 files .*/IMG_1\.jpg: unsafe name"):
        ingest(storage.uri)


def test_what_is_fetched_lies_under_names_of_our_own(bucket: Storage, tmp_path: Path) -> None:
    bucket.write("deep/er/{{ x }}.jpg", b"x")
    found = fetch_capture(bucket, list_capture_files(bucket), tmp_path / "in")
    assert sorted(path.name for path in (tmp_path / "in").rglob("*")) == [f"fetched-{n:05d}" for n in range(4)]
    assert {file.name for file in found.files} == {"IMG_1.jpg", "IMG_2.jpg", "IMG_10.jpg", "deep/er/{{ x }}.jpg"}


def test_on_a_disk_odd_names_and_links_to_elsewhere_cost_only_themselves(
    capture: Path, ingest: Ingest, tmp_path: Path
) -> None:
    (tmp_path / "private.jpg").write_bytes(jpeg(picture(99)))
    (capture / "link.jpg").symlink_to(tmp_path / "private.jpg")
    (capture / "same.jpg").symlink_to(capture / "IMG_1.jpg")
    (capture / "line\nbreak.jpg").write_bytes(jpeg(picture(11)))
    (Path(os.fsdecode(os.fsencode(capture) + b"/caf\xe9.jpg"))).write_bytes(jpeg(picture(12)))
    before = list_capture_files(open_storage(capture.as_uri())).digest
    result = ingest(capture)
    assert result.dropped == {
        "link.jpg": "outside",
        "same.jpg": "duplicate",
        "line\\nbreak.jpg": UNSAFE,
    }
    # A name in Latin-1 is no text, and a photo's name all the same.
    assert np.asarray(result.image("caf\\xe9.jpg")).shape == np.asarray(result.image("IMG_1.jpg")).shape
    # What a link leads to elsewhere is not even hashed.
    (tmp_path / "private.jpg").write_bytes(b"another")
    assert list_capture_files(open_storage(capture.as_uri())).digest == before


def test_an_odd_name_changes_the_digest_and_its_bytes_are_not_read(bucket: Storage) -> None:
    without = list_capture_files(bucket).digest
    bucket.write("/x.jpg", b"one")
    assert list_capture_files(bucket).digest != without


def test_odd_names_in_a_zip_cost_only_themselves(capture: Path, ingest: Ingest, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as bundle:
        for number, photo in enumerate(sorted(capture.iterdir())):
            bundle.write(photo, ["./a.jpg", "b//c.jpg", "d\\e.jpg"][number])
        bundle.writestr("line\nbreak.jpg", jpeg(picture(11)))
        bundle.writestr(f"{'x' * 300}.jpg", jpeg(picture(12)))
    result = ingest(tmp_path / "photos.zip")
    assert {photo["source"] for photo in result.record["photos"]} == {"a.jpg", "b/c.jpg", "d/e.jpg"}
    assert set(result.dropped.values()) == {UNSAFE}
    assert len(result.dropped) == 2
