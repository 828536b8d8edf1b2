"""What XMP says beside EXIF: how exactly a drone knew its place, how its gimbal stood, that a photo sees all around."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from e2e3d_stages.ingest.exif import Exif, Gps, number

# https://developers.google.com/streetview/spherical-metadata
_ALL_AROUND = re.compile(r"GPano:ProjectionType\s*(?:=\s*[\"']|>)\s*equirectangular")
# More than any camera writes; what follows may be an extended XMP with a whole picture in it.
MOST_BYTES = 2**18
# In metres. Receivers that say less than the least mean that they do not know.
DEVIATIONS = (0.001, 100.0)
# XMP and EXIF are of one place; in degrees, about 100 m.
SAME_PLACE = 0.001
# Attribute or element; what is nested deeper is of no use here, so that no XML need be parsed.
_TAG = re.compile(r"\b(?:drone-dji|Camera):(\w{1,40})(?:\s*=\s*[\"']([^\"']{1,80})|>([^<]{1,80})<)")
# East, north, up, as DJI's RTK drones write them, and those that follow Pix4D, as senseFly's do.
_STD = (("RtkStdLon", "RtkStdLat", "RtkStdHgt"), ("GPSXYAccuracy", "GPSXYAccuracy", "GPSZAccuracy"))
# The second longitude is how DJI spelt it for years.
_LLA = (("GpsLatitude", "Latitude"), ("GpsLongitude", "GpsLongtitude", "Longitude"), ("AbsoluteAltitude",))


def told_by_xmp(exif: Exif, xmp: Any) -> Exif:
    """The EXIF with what the XMP adds to it; tags as OpenDroneMap reads them, `opendm/photo.py`.

    :param xmp: as Pillow has it: bytes, text, or None.
    """
    if isinstance(xmp, bytes):
        xmp = xmp[:MOST_BYTES].decode("utf-8", "ignore")
    if not isinstance(xmp, str):
        return exif
    xmp = xmp[:MOST_BYTES]
    if _ALL_AROUND.search(xmp):
        exif = replace(exif, all_around=True)
    tags = {name: attribute or element for name, attribute, element in _TAG.findall(xmp)}
    # How a photo that is turned once more was held is not said.
    up = _up(tags) if exif.orientation == 1 else None
    return replace(exif, gps=_exact(exif.gps, tags) if exif.gps else None, up=up)


def _exact(gps: Gps, tags: Mapping[str, str]) -> Gps:
    """The position with its deviations, where they are told, and then with all the digits that XMP has."""
    for names in _STD:
        std = [number(tags.get(name)) for name in names]
        if all(each is not None and DEVIATIONS[0] <= each <= DEVIATIONS[1] for each in std):
            break
    else:
        return gps
    found = [[value for name in names if (value := number(tags.get(name))) is not None] for names in _LLA]
    lat, lon, alt = (values[0] if values else None for values in found)
    if lat is None or lon is None or abs(lat - gps["lat"]) > SAME_PLACE or abs(lon - gps["lon"]) > SAME_PLACE:
        return {**gps, "std": std}
    # Only with RTK an altitude is measured by satellites and not by the air's pressure.
    return {"lat": lat, "lon": lon, "alt": gps["alt"] if alt is None else alt, "std": std}


def _up(tags: Mapping[str, str]) -> tuple[float, float, float] | None:
    """Up as the camera sees it: pitch is 0 at the horizon and -90 downwards, roll is about the viewing axis."""
    pitch, roll = number(tags.get("GimbalPitchDegree")), number(tags.get("GimbalRollDegree"))
    if pitch is None or roll is None or abs(pitch) > 180 or abs(roll) > 180:
        return None
    pitch, roll = math.radians(pitch), math.radians(roll)
    return (-math.cos(pitch) * math.sin(roll), -math.cos(pitch) * math.cos(roll), math.sin(pitch))
