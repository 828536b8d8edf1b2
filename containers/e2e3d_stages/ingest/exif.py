"""What a photo's EXIF says about camera, lens, place and time, read with distrust."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image

from e2e3d_stages.contract.damage import is_damage

Gps = dict[str, Any]

# Diagonal of a 36 x 24 mm frame, on which the 35 mm equivalent is defined (CIPA DCG-001).
FULL_FRAME_DIAGONAL_MM = 43.267
# From the sensors of early phones to medium format.
SENSOR_WIDTH_MM = (2.0, 60.0)
# Focal length over long side: from a fisheye to the longest tele lens that is of any use here.
FOCAL_SHARE = (0.2, 20.0)
# Two ways to the focal length that differ by more than this contradict each other.
FOCAL_AGREEMENT = 0.15
# FocalPlaneResolutionUnit to millimetres; 1 ("no unit") is written by cameras that mean inches.
UNIT_MM = {1: 25.4, 2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
# As ColorSpace says it. Whoever converts a photo may leave everything else.
SRGB = 1

_Tag = ExifTags.Base
_Gps = ExifTags.GPS


@dataclass(frozen=True)
class Exif:
    """A photo's EXIF.

    :param orientation: how the stored picture is to be turned, 1 to 8; 1 is upright.
    :param focal_px: focal length in pixels of the photo as it is stored, None when unknown.
    :param focal_mm: focal length as the lens says it.
    :param gps: `lat`, `lon` in degrees (WGS84), `alt` in metres or None; of a receiver that tells how exact it is also
        `std`, the standard deviations to the east, to the north and upwards in metres.
    :param all_around: whether it says that it is a whole panorama, which is twice as wide as high.
    :param up: unit vector in the upright photo's frame (x right, y down, z forward), of a camera on a gimbal.
    :param adobe: whether its colours are those of Adobe RGB, as cameras say that write no profile (DCF 2.0, 4.7).
    :param taken: capture time, ISO 8601, with offset where the camera wrote one.
    """

    make: str = ""
    model: str = ""
    lens: str = ""
    focal_mm: float | None = None
    focal_px: float | None = None
    gps: Gps | None = None
    taken: str | None = None
    orientation: int = 1
    up: tuple[float, float, float] | None = None
    all_around: bool = False
    adobe: bool = False


def read_exif(read: Callable[[], Image.Exif], size: tuple[int, int]) -> Exif:
    """The EXIF of a photo; a damaged one counts as none, since the pixels may be fine.

    :param read: gives it as Pillow reads it, or raises.
    :param size: of the photo as it is stored, in px.
    """
    try:
        exif = read()
        base, detail, gps = dict(exif), exif.get_ifd(ExifTags.IFD.Exif), exif.get_ifd(ExifTags.IFD.GPSInfo)
    except Exception as error:  # Pillow raises whatever its parser stumbled over
        if not is_damage(error):
            raise
        return Exif()
    return Exif(
        make=printable(base.get(_Tag.Make)),
        model=printable(base.get(_Tag.Model)),
        lens=printable(detail.get(_Tag.LensModel)),
        focal_mm=_positive(detail.get(_Tag.FocalLength)),
        focal_px=focal_in_pixels(detail, *size),
        gps=read_gps(gps),
        taken=_taken(base, detail),
        adobe=_is_adobe(exif, detail),
        orientation=_orientation(base),
    )


def _orientation(base: Mapping[int, Any]) -> int:
    told = _positive(base.get(_Tag.Orientation)) or 1
    return int(told) if 1 <= told <= 8 else 1


def _is_adobe(exif: Image.Exif, detail: Mapping[int, Any]) -> bool:
    try:
        told = exif.get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex)
    except Exception as error:
        if not is_damage(error):
            raise
        return False
    return printable(told) == "R03" and detail.get(_Tag.ColorSpace) != SRGB


def focal_in_pixels(detail: Mapping[int, Any], width: int, height: int) -> float | None:
    """Focal length in pixels of a `width` x `height` image from its Exif IFD, or None.

    The focal plane's resolution counts pixels of the **original** photo. Many programs scale a photo down and keep
    the tag; the original's size then still stands in PixelXDimension.
    """
    original = (_positive(detail.get(_Tag.ExifImageWidth)), _positive(detail.get(_Tag.ExifImageHeight)))
    long_side, original_long = float(max(width, height)), float(max(width, height))
    if original[0] and original[1]:
        original_long = max(original[0], original[1])
        if abs(original_long / min(original[0], original[1]) - long_side / min(width, height)) > 0.03:
            return None  # cropped: nobody knows by how much the rest was scaled
    scale = long_side / original_long
    from_frame = _focal_from_35mm(detail, math.hypot(width, height))
    from_sensor = _focal_from_sensor(detail, original_long)
    focal = from_sensor * scale if from_sensor else from_frame
    if focal and from_frame and abs(focal / from_frame - 1) > FOCAL_AGREEMENT:
        focal = from_frame
    if focal is None or not FOCAL_SHARE[0] <= focal / long_side <= FOCAL_SHARE[1]:
        return None
    return focal


def _focal_from_35mm(detail: Mapping[int, Any], diagonal: float) -> float | None:
    equivalent = _positive(detail.get(_Tag.FocalLengthIn35mmFilm))
    return equivalent / FULL_FRAME_DIAGONAL_MM * diagonal if equivalent else None


def _focal_from_sensor(detail: Mapping[int, Any], original_long: float) -> float | None:
    """Focal length in pixels of the original photo."""
    focal = _positive(detail.get(_Tag.FocalLength))
    resolution = _positive(detail.get(_Tag.FocalPlaneXResolution))
    unit = UNIT_MM.get(int(_positive(detail.get(_Tag.FocalPlaneResolutionUnit)) or 2))
    if not focal or not resolution or not unit:
        return None
    pixels_per_mm = resolution / unit
    if not SENSOR_WIDTH_MM[0] <= original_long / pixels_per_mm <= SENSOR_WIDTH_MM[1]:
        return None  # the tag and the size it should refer to do not fit together
    return focal * pixels_per_mm


def read_gps(gps: Mapping[int, Any]) -> Gps | None:
    """A position from the GPS IFD, or None: the IFD may hold only a version or a direction, or a void fix."""
    if printable(gps.get(_Gps.GPSStatus)).upper().startswith("V"):
        return None
    lat = _angle(gps.get(_Gps.GPSLatitude), printable(gps.get(_Gps.GPSLatitudeRef)), "NS", 90)
    lon = _angle(gps.get(_Gps.GPSLongitude), printable(gps.get(_Gps.GPSLongitudeRef)), "EW", 180)
    alt = number(gps.get(_Gps.GPSAltitude))
    if alt is not None and gps.get(_Gps.GPSAltitudeRef) in (b"\x01", 1, "\x01"):
        alt = -alt
    return place_on_earth(lat, lon, alt)


def place_on_earth(lat: float | None, lon: float | None, alt: float | None) -> Gps | None:
    """A position; None of what is none, as of a receiver that knows nothing yet and says 0, 0."""
    if lat is None or lon is None or (lat == 0 and lon == 0):
        return None
    return {"lat": lat, "lon": lon, "alt": alt} if abs(lat) <= 90 and abs(lon) <= 180 else None


def _angle(value: Any, reference: str, hemispheres: str, limit: float) -> float | None:
    parts = [number(part) for part in value] if isinstance(value, (tuple, list)) else [number(value)]
    if not parts or len(parts) > 3 or any(part is None for part in parts):
        return None
    # Without its hemisphere a position is one of two, or of four, most of them on the other side of the world.
    if reference[:1].upper() not in tuple(hemispheres):
        return None
    degrees = sum(abs(part or 0.0) / 60.0**place for place, part in enumerate(parts))
    if degrees > limit:
        return None
    return -degrees if reference[:1].upper() == hemispheres[1] or (parts[0] or 0) < 0 else degrees


def _taken(base: Mapping[int, Any], detail: Mapping[int, Any]) -> str | None:
    stamp = printable(detail.get(_Tag.DateTimeOriginal)) or printable(base.get(_Tag.DateTime))
    try:
        moment = dt.datetime.strptime(stamp[:19], "%Y:%m:%d %H:%M:%S")
        fraction = printable(detail.get(_Tag.SubsecTimeOriginal))
        if fraction.isdecimal():
            moment = moment.replace(microsecond=int(fraction[:6].ljust(6, "0")))
        offset = printable(detail.get(_Tag.OffsetTimeOriginal))
        return dt.datetime.fromisoformat(moment.isoformat() + offset).isoformat()
    except ValueError:
        return None


def printable(value: Any) -> str:
    """Somebody's words about a camera, without what cannot be shown; empty for None."""
    if isinstance(value, bytes):
        value = value.decode("ascii", "ignore")
    return "".join(each if each.isprintable() else " " for each in str(value)).strip() if value is not None else ""


def number(value: Any) -> float | None:
    """A finite number out of whatever stands where one belongs; None for anything else."""
    try:
        found = float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _positive(value: Any) -> float | None:
    found = number(value)
    return found if found is not None and found > 0 else None
