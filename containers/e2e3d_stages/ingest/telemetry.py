"""Where a camera was while it filmed, as it wrote that into a track of its film: GoPro's GPMF, and CAMM.

Formats: https://github.com/gopro/gpmf-parser and https://developers.google.com/streetview/publish/camm-spec.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from e2e3d_stages.ingest.exif import Gps, place_on_earth

# From this fix on, a receiver knows latitude and longitude, and from the second one on also the height.
FLAT_FIX, FULL_FIX = 2, 3
# Latitude, longitude, height and two speeds; of newer cameras also days, seconds, dilution of precision, and fix.
_GPS5 = np.dtype([("place", ">i4", 3), ("speeds", ">i4", 2)])
_GPS9 = np.dtype([("place", ">i4", 3), ("more", ">i4", 4), ("precision", ">u2"), ("fix", ">u2")])
# By their types: latitude, longitude and height; and the same behind a time and a fix.
_CAMM_PLACE, _CAMM_FIX = 5, 6


def places_in(packet: bytes) -> list[Gps]:
    """The places that one packet of a film's data tells, in their order in time; none of a packet of another kind."""
    if packet[:4] == b"DEVC":
        return [gps for stream in _streams(packet) for gps in _told_by_gopro(stream)]
    gps = _told_by_camm(packet)
    return [gps] if gps else []


def _streams(packet: bytes) -> Iterator[dict[bytes, bytes]]:
    """What the sensors of each device tell, by four letters."""
    for device, inside in _pairs(packet):
        for key, content in _pairs(inside) if device == b"DEVC" else ():
            if key == b"STRM":
                yield dict(_pairs(content))


def _pairs(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and contents, padded to four bytes."""
    place = 0
    while place + 8 <= len(data):
        key, _, size, count = struct.unpack_from(">4sBBH", data, place)
        yield key, data[place + 8 : place + 8 + size * count]
        place += 8 + -(-size * count // 4) * 4


def _told_by_gopro(stream: dict[bytes, bytes]) -> Iterator[Gps]:
    kind = next((kind for kind in (b"GPS9", b"GPS5") if kind in stream), b"")
    scale = np.frombuffer(stream.get(b"SCAL", b"")[: len(stream.get(b"SCAL", b"")) // 4 * 4], ">i4")[:3]
    if not kind or len(scale) < 3 or not scale.all():
        return
    layout = _GPS9 if kind == b"GPS9" else _GPS5
    whole = len(stream[kind]) // layout.itemsize * layout.itemsize
    rows: Any = np.frombuffer(stream[kind][:whole], layout)
    of_all = int.from_bytes(stream.get(b"GPSF", b"\0\0\0\3"), "big")
    for row in rows:
        fix = int(row["fix"]) if layout is _GPS9 else of_all
        if FLAT_FIX <= fix <= FULL_FIX and (gps := _place(*(row["place"] / scale).tolist(), fix=fix)):
            yield gps


def _told_by_camm(packet: bytes) -> Gps | None:
    kind = int.from_bytes(packet[2:4], "little")
    if packet[:2] == bytes(2) and kind == _CAMM_PLACE and len(packet) == 28:
        return _place(*struct.unpack("<3d", packet[4:]), fix=FULL_FIX)
    if packet[:2] == bytes(2) and kind == _CAMM_FIX and len(packet) == 60:
        _, fix, lat, lon, alt = struct.unpack("<dI2df", packet[4:36])
        return _place(lat, lon, alt, fix=fix) if fix >= FLAT_FIX else None
    return None


def _place(lat: float, lon: float, alt: float, *, fix: int) -> Gps | None:
    return place_on_earth(lat, lon, alt if fix >= FULL_FIX and math.isfinite(alt) else None)
