"""What drones say in XMP, right and wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from ingest_photos import Ingest, picture
from PIL import ExifTags, Image

from e2e3d_stages.ingest.exif import Exif
from e2e3d_stages.ingest.xmp import told_by_xmp

PLACE = {"lat": 30.123, "lon": -98.456, "alt": 300.0}
RTK = (
    '<rdf:Description drone-dji:RtkFlag="50" drone-dji:RtkStdLon="0.012" drone-dji:RtkStdLat="0.011" '
    'drone-dji:RtkStdHgt="0.025" drone-dji:GpsLatitude="+30.12300012" drone-dji:GpsLongitude="-98.45600034" '
    'drone-dji:AbsoluteAltitude="+301.25" drone-dji:GimbalPitchDegree="-60.00" drone-dji:GimbalRollDegree="+0.00"/>'
)


def test_rtk_gives_a_position_with_its_deviations_and_the_gimbal_says_what_is_up() -> None:
    exif = told_by_xmp(Exif(gps=PLACE), RTK.encode())
    assert exif.gps == {"lat": 30.12300012, "lon": -98.45600034, "alt": 301.25, "std": [0.012, 0.011, 0.025]}
    assert exif.up == pytest.approx((0, -0.5, -0.866), abs=1e-3)


def test_elements_and_the_names_of_pix4d_are_read_too() -> None:
    xmp = "<Camera:GPSXYAccuracy>0.5</Camera:GPSXYAccuracy><Camera:GPSZAccuracy>0.9</Camera:GPSZAccuracy>"
    assert told_by_xmp(Exif(gps=PLACE), xmp).gps == {**PLACE, "std": [0.5, 0.5, 0.9]}


@pytest.mark.parametrize(
    ("there", "instead"),
    [
        ('StdLat="0.011"', 'StdLat="nan"'),
        ('StdLat="0.011"', 'StdLat="0"'),
        ('StdLat="0.011"', 'StdLat="-1"'),
        ('StdLat="0.011"', 'StdLat="9e99"'),
        ('StdLat="0.011"', f'StdLat="{"1" * 400}"'),
        ("RtkStdLat", "SomethingElse"),
    ],
)
def test_deviations_that_make_no_sense_are_none_and_cost_nothing_else(there: str, instead: str) -> None:
    exif = told_by_xmp(Exif(gps=PLACE), RTK.replace(there, instead))
    assert exif.gps == PLACE
    assert exif.up is not None


def test_a_position_in_xmp_that_is_elsewhere_is_not_believed() -> None:
    exif = told_by_xmp(Exif(gps=PLACE), RTK.replace("+30.1", "+31.1"))
    assert exif.gps == {**PLACE, "std": [0.012, 0.011, 0.025]}


@pytest.mark.parametrize("xmp", [None, b"", b"\xff\x00<x", "<a" * 10_000, "drone-dji:RtkStdLat=", 7])
def test_what_is_no_xmp_says_nothing(xmp: object) -> None:
    assert told_by_xmp(Exif(gps=PLACE), xmp) == Exif(gps=PLACE)


def test_what_xmp_says_is_in_the_record(tmp_path: Path, ingest: Ingest) -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(
        {1: "N", 2: (30.0, 7.0, 22.8), 3: "W", 4: (98.0, 27.0, 21.6), 5: b"\0", 6: 300.0}
    )
    (tmp_path / "capture").mkdir()
    for number in range(3):
        xmp = {"xmp": RTK.encode()} if number else {}
        picture(number).save(tmp_path / "capture" / f"DJI_{number}.jpg", exif=exif.tobytes(), **xmp)
    done = ingest(tmp_path / "capture")
    assert done.photo("DJI_1.jpg")["gps"]["std"] == [0.012, 0.011, 0.025]
    assert done.photo("DJI_1.jpg")["up"] == pytest.approx([0, -0.5, -0.866], abs=1e-3)
    assert "std" not in done.photo("DJI_0.jpg")["gps"]
    assert "up" not in done.photo("DJI_0.jpg")
