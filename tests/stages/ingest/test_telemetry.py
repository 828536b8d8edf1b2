"""Cameras that write where they are into their films: each frame has the place of its moment."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from film_files import film, walk, with_data
from hypothesis import given
from hypothesis import strategies as st
from ingest_photos import Ingest

from e2e3d_stages.ingest.telemetry import places_in


def pair(key: bytes, kind: bytes, size: int, content: bytes) -> bytes:
    """A key, what is said of its content, and that, padded."""
    return key + struct.pack(">cBH", kind, size, len(content) // size) + content + bytes(-len(content) % 4)


def of_device(*pairs: bytes) -> bytes:
    stream = pair(b"STRM", b"\0", 1, b"".join(pairs))
    other = pair(b"STRM", b"\0", 1, pair(b"ACCL", b"s", 6, bytes(12)))
    return pair(b"DEVC", b"\0", 1, pair(b"DVNM", b"c", 1, b"Camera") + other + stream)


def gps5(places: Sequence[tuple[float, float, float]], fix: int = 3) -> bytes:
    rows = b"".join(
        struct.pack(">5i", round(lat * 1e7), round(lon * 1e7), round(alt * 1000), 1, 1) for lat, lon, alt in places
    )
    scale = struct.pack(">5i", 10**7, 10**7, 1000, 1000, 100)
    return of_device(
        pair(b"GPSF", b"L", 4, struct.pack(">I", fix)), pair(b"SCAL", b"l", 4, scale), pair(b"GPS5", b"l", 20, rows)
    )


def gps9(places: Sequence[tuple[float, float, float]], fix: int = 3) -> bytes:
    rows = b"".join(
        struct.pack(">7i2H", round(lat * 1e7), round(lon * 1e7), round(alt * 1000), 1, 1, 9000, 5, 120, fix)
        for lat, lon, alt in places
    )
    scale = struct.pack(">9i", 10**7, 10**7, 1000, 1000, 100, 1, 1000, 100, 1)
    return of_device(pair(b"TYPE", b"c", 1, b"lllllllSS"), pair(b"SCAL", b"l", 4, scale), pair(b"GPS9", b"?", 32, rows))


def camm(kind: int, lat: float, lon: float, alt: float, fix: int = 3) -> bytes:
    if kind == 5:
        return struct.pack("<HH3d", 0, 5, lat, lon, alt)
    return struct.pack("<HHdI2d7f", 0, 6, 1.4e9, fix, lat, lon, alt, 3, 5, 0, 0, 0, 1)


PLACES = [(48.1 + n / 1000, -11.5, 520.0 + n) for n in range(20)]
GOPRO = [(b"gpmd", [make(PLACES[at : at + 5]) for at in range(0, 20, 5)], 0.5) for make in (gps5, gps9)]
CAMM = [(b"camm", [camm(kind, *place) for place in PLACES], 0.1) for kind in (5, 6)]


@pytest.mark.parametrize(("tag", "packets", "seconds"), [*GOPRO, *CAMM], ids=["GPS5", "GPS9", "CAMM 5", "CAMM 6"])
def test_each_frame_has_the_place_of_its_moment(
    tag: bytes, packets: list[bytes], seconds: float, tmp_path: Path, ingest: Ingest
) -> None:
    with_data(film(tmp_path / "capture" / "walk.mp4", walk(40)), tag, packets, seconds)
    done = ingest(tmp_path / "capture", frames=10)
    photos = done.record["photos"]
    assert done.metrics["photos_with_gps"] == len(photos) >= 8
    for photo in photos:
        at = round(done.record["films"][0]["frames"][photo["name"]] * 10)
        # Two moments are as near to a frame that lies between them.
        near = [PLACES[place] for place in (at - 1, at, at + 1) if 0 <= place < 20]
        assert any(photo["gps"] == pytest.approx({"lat": a, "lon": b, "alt": c}, abs=1e-4) for a, b, c in near)


@pytest.mark.parametrize("make", [gps5, gps9])
def test_what_a_gopro_says_before_it_knows_is_not_believed(make: Any) -> None:
    assert places_in(make(PLACES[:2], fix=0)) == []
    assert [each["alt"] for each in places_in(make(PLACES[:2], fix=2))] == [None, None]
    assert places_in(make([(0, 0, 0), (95, 3, 0), PLACES[3]])) == [
        pytest.approx({"lat": 48.103, "lon": -11.5, "alt": 523})
    ]


def test_what_a_phone_says_before_it_knows_is_not_believed() -> None:
    assert places_in(camm(6, 48.1, -11.5, 520, fix=0)) == []
    assert places_in(camm(6, 48.1, -11.5, 520, fix=2)) == [{"lat": 48.1, "lon": -11.5, "alt": None}]
    assert places_in(camm(5, float("nan"), -11.5, 520)) == []
    assert places_in(camm(5, 48.1, -11.5, float("inf"))) == [{"lat": 48.1, "lon": -11.5, "alt": None}]


@pytest.mark.parametrize(
    "packet",
    [b"", b"DEVC", gps5(PLACES)[:-7], bytes(60), b"{}", of_device()],
    ids=["nothing", "a name", "cut off", "zeros", "other data", "no GPS"],
)
def test_a_film_with_strange_data_is_a_film(packet: bytes, tmp_path: Path, ingest: Ingest) -> None:
    with_data(film(tmp_path / "capture" / "walk.mp4", walk(12)), b"gpmd", [packet or b"x"], 0.5)
    assert ingest(tmp_path / "capture").metrics["photos"] >= 3


@given(st.sampled_from([gps5(PLACES), gps9(PLACES), camm(5, *PLACES[0]), camm(6, *PLACES[0])]), st.data())
def test_whatever_a_packet_holds_its_places_are_on_earth(packet: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(packet) - 1))
    damaged = packet[:at] + data.draw(st.binary(min_size=1, max_size=4)) + packet[at + data.draw(st.integers(0, 4)) :]
    for gps in places_in(damaged):
        assert abs(gps["lat"]) <= 90
        assert abs(gps["lon"]) <= 180
