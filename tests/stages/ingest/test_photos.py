from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ingest_photos import Ingest, picture, save
from PIL import ExifTags, Image

from e2e3d_stages.contract.messages import UnreadableCapture
from e2e3d_stages.ingest import pixels, stage
from e2e3d_stages.ingest.exif import focal_in_pixels, read_exif, read_gps
from e2e3d_stages.ingest.stage import blur_score

Tag, Gps = ExifTags.Base, ExifTags.GPS


def test_photos_come_out_in_natural_order_with_unique_sorted_names(capture: Path, ingest: Ingest) -> None:
    save(capture / "more" / "IMG_1.jpg", picture(77))
    save(capture / "Ünïcode name (3).jpg", picture(78))
    result = ingest(capture)
    names = [photo["name"] for photo in result.record["photos"]]
    assert [photo["source"] for photo in result.record["photos"]] == [
        "IMG_1.jpg",
        "IMG_2.jpg",
        "IMG_10.jpg",
        "more/IMG_1.jpg",
        "Ünïcode name (3).jpg",
    ]
    assert names == sorted(set(names))
    assert all(name.isascii() for name in names)
    assert {path.name for path in (result.context.output / "images").iterdir()} == set(names)


@pytest.mark.parametrize(
    ("orientation", "stored_by"),
    [
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_90),
        (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_270),
    ],
)
def test_a_photo_stored_turned_comes_out_upright_and_without_exif(
    orientation: int, stored_by: Image.Transpose, capture: Path, ingest: Ingest
) -> None:
    upright = picture(5, 300, 400)
    save(capture / "turned.jpg", upright.transpose(stored_by), {Tag.Orientation: orientation})
    result = ingest(capture)
    image = result.image("turned.jpg")
    assert image.size == (300, 400)
    assert np.abs(np.asarray(image, float) - np.asarray(upright, float)).mean() < 4
    assert not image.getexif()
    assert "exif" not in image.info
    assert (result.photo("turned.jpg")["width"], result.photo("turned.jpg")["height"]) == (300, 400)
    assert result.photo("turned.jpg")["full"] == [300, 400]


@pytest.mark.parametrize("told", [0, 9, 255, 65535])
def test_an_orientation_that_there_is_not_is_upright(told: int) -> None:
    exif = Image.Exif()
    exif[Tag.Orientation] = told
    # Own poses are refused for photos that are turned.
    assert read_exif(lambda: exif, (400, 300)).orientation == 1


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_every_format_is_read_and_large_photos_are_scaled_down(suffix: str, capture: Path, ingest: Ingest) -> None:
    save(capture / f"large.{suffix}", picture(5, 800, 600), {Tag.Make: "A"}, {Tag.FocalLengthIn35mmFilm: 50})
    result = ingest(capture, max_size=400)
    assert result.image(f"large.{suffix}").size == (400, 300)
    assert result.image("IMG_1.jpg").size == (400, 300)
    assert result.photo(f"large.{suffix}")["focal_px"] == pytest.approx(50 / 43.267 * 500, rel=1e-3)


def test_sixteen_bit_greyscale_keeps_its_brightness(capture: Path, ingest: Ingest) -> None:
    grey = np.linspace(0, 65535, 400 * 300).reshape(300, 400).astype(np.uint16)
    Image.fromarray(grey).save(capture / "scan.png")
    prepared = np.asarray(ingest(capture).image("scan.png").convert("L"), float)
    assert np.abs(prepared - grey / 257.0).mean() < 2


def test_the_samples_focal_length_refers_to_its_original_size(sample: Path, ingest: Ingest) -> None:
    result = ingest(sample, max_size=500)
    # Bundle adjustment finds 746 / 2.
    assert [photo["focal_px"] for photo in result.record["photos"]] == pytest.approx([726.1 / 2] * 31, abs=0.5)
    assert result.metrics["photos"] == result.metrics["photos_with_gps"] == 31
    assert result.metrics["cameras"] == 1
    first = result.record["photos"][0]
    assert first["gps"] == {"lat": pytest.approx(30.17123), "lon": pytest.approx(-98.0892, abs=1e-4), "alt": 348.9}
    assert first["taken"] == "2014-10-19T13:21:27"


SENSOR: dict[int, Any] = {Tag.FocalLength: 10.0, Tag.FocalPlaneXResolution: 100.0, Tag.FocalPlaneResolutionUnit: 4}


@pytest.mark.parametrize(
    ("detail", "expected"),
    [
        ({}, None),
        ({Tag.FocalLengthIn35mmFilm: 43.267}, 500),
        (SENSOR, 1000),
        ({**SENSOR, Tag.FocalPlaneXResolution: 1000.0, Tag.FocalPlaneResolutionUnit: 3}, 1000),
        ({**SENSOR, Tag.ExifImageWidth: 4000, Tag.ExifImageHeight: 3000}, 100),
        ({**SENSOR, Tag.ExifImageWidth: 3000, Tag.ExifImageHeight: 4000}, 100),
        ({**SENSOR, Tag.ExifImageWidth: 4000, Tag.ExifImageHeight: 4000}, None),
        ({**SENSOR, Tag.FocalPlaneXResolution: 2000.0}, None),
        ({**SENSOR, Tag.FocalPlaneXResolution: 0.0}, None),
        ({**SENSOR, Tag.FocalPlaneXResolution: float("nan")}, None),
        ({**SENSOR, Tag.FocalLengthIn35mmFilm: 43.267}, 500),
        ({**SENSOR, Tag.FocalLengthIn35mmFilm: 84}, 1000),
        ({Tag.FocalLengthIn35mmFilm: 0}, None),
        ({Tag.FocalLengthIn35mmFilm: 60000}, None),
    ],
    ids=[
        "nothing known",
        "35 mm equivalent",
        "sensor resolution",
        "per centimetre",
        "scaled down after shooting",
        "original was turned",
        "cropped after shooting",
        "sensor of a quarter millimetre",
        "no resolution",
        "not a number",
        "contradiction: 35 mm wins",
        "agreement: the sensor is more exact",
        "zero means unknown",
        "nonsense",
    ],
)
def test_focal_length_in_pixels_of_a_400_by_300_photo(detail: dict[int, Any], expected: float | None) -> None:
    assert focal_in_pixels(detail, 400, 300) == (None if expected is None else pytest.approx(expected))


PLACE = {
    Gps.GPSLatitudeRef: "S",
    Gps.GPSLatitude: (30.0, 30.0, 0.0),
    Gps.GPSLongitudeRef: "W",
    Gps.GPSLongitude: (98.0, 0.0, 36.0),
}


@pytest.mark.parametrize(
    ("gps", "expected"),
    [
        ({}, None),
        ({Gps.GPSVersionID: b"\x02\x03\x00\x00"}, None),
        ({Gps.GPSImgDirection: 12.0}, None),
        (PLACE, {"lat": -30.5, "lon": -98.01, "alt": None}),
        ({**PLACE, Gps.GPSAltitude: 12.5}, {"lat": -30.5, "lon": -98.01, "alt": 12.5}),
        ({**PLACE, Gps.GPSAltitude: 12.5, Gps.GPSAltitudeRef: b"\x01"}, {"lat": -30.5, "lon": -98.01, "alt": -12.5}),
        ({**PLACE, Gps.GPSStatus: "A"}, {"lat": -30.5, "lon": -98.01, "alt": None}),
        ({**PLACE, Gps.GPSStatus: "V"}, None),
        ({**PLACE, Gps.GPSLatitude: (0.0, 0.0, 0.0), Gps.GPSLongitude: (0.0, 0.0, 0.0)}, None),
        ({**PLACE, Gps.GPSLatitude: (95.0, 0.0, 0.0)}, None),
        ({**PLACE, Gps.GPSLatitude: (float("nan"), 0.0, 0.0)}, None),
        ({**PLACE, Gps.GPSLatitude: "garbage"}, None),
        ({**PLACE, Gps.GPSLongitudeRef: None}, None),
        ({**PLACE, Gps.GPSLatitudeRef: "\0"}, None),
        ({**PLACE, Gps.GPSLatitudeRef: "W"}, None),
    ],
    ids=[
        "no GPS",
        "version only",
        "direction only",
        "no altitude",
        "no altitude reference",
        "below sea level",
        "status A is a fix",
        "status V is none",
        "null island",
        "beyond the pole",
        "not a number",
        "garbage",
        "no east or west",
        "no north or south",
        "west of the equator",
    ],
)
def test_gps_is_read_with_distrust(gps: dict[int, Any], expected: dict[str, Any] | None) -> None:
    assert read_gps(gps) == (None if expected is None else pytest.approx(expected))


def test_cameras_are_grouped_by_model_lens_focal_length_and_size(capture: Path, ingest: Ingest) -> None:
    canon = {Tag.Make: "Canon", Tag.Model: "EOS"}
    wide, tele = {Tag.FocalLength: 24.0}, {Tag.FocalLength: 70.0}
    save(capture / "a1.jpg", picture(21), canon, wide)
    save(capture / "a2.jpg", picture(22), canon, wide)
    save(capture / "b.jpg", picture(23), canon, tele)
    save(capture / "c.jpg", picture(24, 300, 400), canon, wide)
    result = ingest(capture)
    group = {name: result.photo(f"{name}.jpg")["camera"] for name in ("a1", "a2", "b", "c", "IMG_1", "IMG_2")}
    assert group["a1"] == group["a2"]
    assert group["IMG_1"] == group["IMG_2"]
    assert len(set(group.values())) == result.metrics["cameras"] == 4
    camera = result.record["cameras"][group["c"]]
    assert camera == {
        "id": group["c"],
        "make": "Canon",
        "model": "EOS",
        "lens": "",
        "focal_mm": 24.0,
        "width": 300,
        "height": 400,
    }


def test_useless_files_are_left_out_by_name_with_the_reason(
    capture: Path, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    (capture / "junk.jpg").write_bytes(b"\xff\xd8 not really")
    (capture / "cut.jpg").write_bytes((capture / "IMG_1.jpg").read_bytes()[:900])
    (capture / "IMG_1_copy.jpg").write_bytes((capture / "IMG_1.jpg").read_bytes())
    Image.open(capture / "IMG_2.jpg").save(capture / "IMG_2_as.png")
    save(capture / "icon.png", picture(8, 64, 48))
    save(capture / "poster.png", picture(9, 1200, 900))
    (capture / "notes.txt").write_text("hello")
    (capture / "IMG_3.HEIC").write_bytes(b"....ftypheic")
    (capture / "film.mp4").write_bytes(b"....ftypisom")
    (capture / ".DS_Store").write_bytes(b"hidden")
    (capture / "__MACOSX").mkdir()
    (capture / "__MACOSX" / "._IMG_1.jpg").write_bytes(b"hidden")
    monkeypatch.setattr(stage, "Memory", lambda: pixels.Memory(8_000_000))
    result = ingest(capture)
    assert result.dropped == {
        "junk.jpg": "unreadable",
        "cut.jpg": "unreadable",
        "IMG_1_copy.jpg": "duplicate",
        "IMG_2_as.png": "duplicate",
        "icon.png": "too_small",
        "poster.png": "too_large",
        "notes.txt": "not_a_photo",
        "IMG_3.HEIC": "unreadable",
        "film.mp4": "unreadable",
    }
    assert [photo["source"] for photo in result.record["photos"]] == ["IMG_1.jpg", "IMG_2.jpg", "IMG_10.jpg"]
    told = {warning.code: warning.message for warning in result.context.warnings}
    assert "junk.jpg" in told["photos_unreadable"]
    details = {photo["source"]: photo["detail"] for photo in result.record["dropped"]}
    assert details["junk.jpg"] == "damaged, or none of JPEG, PNG, WebP, TIFF, HEIC, AVIF, RAW"
    assert details["poster.png"].startswith("1200 x 900 pixels take 8.6 MB of memory, and there are 8.0 MB")
    assert "film.mp4" in told["photos_unreadable"]
    assert "notes.txt" not in "".join(told.values())
    assert result.metrics["dropped"] == 9


def test_a_link_does_not_pull_in_files_from_elsewhere(capture: Path, ingest: Ingest, tmp_path: Path) -> None:
    save(tmp_path / "private.jpg", picture(99))
    (capture / "link.jpg").symlink_to(tmp_path / "private.jpg")
    assert ingest(capture).dropped == {"link.jpg": "outside"}


def test_two_photos_are_too_few_and_the_failure_names_them(capture: Path, ingest: Ingest) -> None:
    (capture / "IMG_10.jpg").write_bytes(b"broken")
    with pytest.raises(UnreadableCapture, match=r"2 of 3 files .*IMG_1\.jpg, IMG_2\.jpg.*IMG_10\.jpg: unreadable") as e:
        ingest(capture)
    assert "at least 3 photos" in e.value.hint


def test_a_capture_that_is_not_there_is_unreadable(tmp_path: Path, ingest: Ingest) -> None:
    with pytest.raises(UnreadableCapture, match="no capture"):
        ingest(tmp_path / "nowhere")


def test_a_blurred_photo_scores_far_lower_than_a_sharp_one(sample: Path) -> None:
    sharp = Image.open(sample / "IMG_9380.jpg")
    blurred = sharp.resize((100, 75)).resize(sharp.size, Image.Resampling.BICUBIC)
    assert blur_score(blurred) < 0.2 * blur_score(sharp)
    assert blur_score(sharp.resize((500, 375), Image.Resampling.BOX)) == pytest.approx(blur_score(sharp), rel=0.1)


def test_damaged_exif_does_not_cost_the_photo(capture: Path, ingest: Ingest) -> None:
    picture(31).save(capture / "odd.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff\x00\x01")
    photo = ingest(capture).photo("odd.jpg")
    assert (photo["focal_px"], photo["gps"], photo["taken"]) == (None, None, None)


def test_the_record_is_plain_json(capture: Path, ingest: Ingest) -> None:
    text = (ingest(capture).context.output / "photos.json").read_text()
    assert "NaN" not in text
    assert set(json.loads(text)) == {"photos", "cameras", "films", "dropped"}
