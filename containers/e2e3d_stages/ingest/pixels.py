"""A photo's file becomes the picture that was seen: upright, in 8-bit sRGB, with nothing that its alpha hides.

What values mean is read from the file and from the data, within a bound of memory that all workers share.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from io import SEEK_END, BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pi_heif
import rawpy
from PIL import ExifTags, Image, ImageCms, ImageFile, PngImagePlugin, UnidentifiedImageError

from e2e3d_stages.contract.captures import HEAD_BYTES, PHOTO_FORMATS, RAW, RAW_SUFFIXES, TIFF, format_of, suffix_of
from e2e3d_stages.contract.damage import is_damage
from e2e3d_stages.contract.formatting import as_size
from e2e3d_stages.ingest.exif import Exif, read_exif
from e2e3d_stages.ingest.tiffs import in_planes, mended, zero_is_white
from e2e3d_stages.ingest.xmp import told_by_xmp
from e2e3d_stages.splats.srgb import ADOBE_GAMMA, ADOBE_TO_SRGB, DISPLAY_P3, P3_TO_SRGB, decoded, encoded

pi_heif.register_heif_opener()
# Pillow's own limit knows neither how small a JPEG is decoded nor how many photos are decoded at once; `Memory` does.
Image.MAX_IMAGE_PIXELS = None
# Photoshop writes a history of megabytes into a PNG. What all texts of one take stays bounded by MAX_TEXT_MEMORY.
PngImagePlugin.MAX_TEXT_CHUNK = 2**24

# As Pillow calls them.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF")
# EXIF orientation to what turns the stored picture upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# A picture as Pillow holds it, 4 bytes a pixel, and its copy while it is turned or converted.
PIXEL_BYTES = 8
# Numbers of 16 or 32 bits, and what they are while they become 8; of each colour, and of alpha.
DEEP_BAND_BYTES = 8
# The coefficients of a progressive JPEG, which the decoder keeps at full size.
PROGRESSIVE_BYTES = 6
RAW_PIXEL_BYTES = 14
MEMORY_BYTES = 2 * 2**30
# Of a JPEG without its end. What is missing becomes grey, which costs a scene little as long as it is little.
MOST_MISSING = 0.1
# What a JPEG ends with; and of how many zeros instead no picture's data would.
END, ZEROS = b"\xff\xd9", 64
# Rows at the bottom that are of one colour where the end is missing.
FLAT = 4
# A PNG's gamma that means sRGB, how near to it another is taken for it, and below which it is none.
SRGB_GAMMA, SAME_GAMMA, LEAST_GAMMA = 1 / 2.2, 0.05, 0.1
# Where there is nothing: neither dark nor bright, and without anything that could be matched.
BACKGROUND = (128, 128, 128)

Values = npt.NDArray[Any]


class Unreadable(Exception):
    """A file that cannot become a picture, and why, in words."""


class TooLarge(Exception):
    """A picture that takes more memory than there is for all, in words."""


class Memory:
    """Bytes that all workers share: who wants to decode a photo waits until there are enough."""

    def __init__(self, most: int = MEMORY_BYTES) -> None:
        self._most = self._free = most
        self._changed = threading.Condition()

    @contextmanager
    def of(self, size: tuple[int, int], count: int) -> Iterator[None]:
        """Take so many bytes for a while.

        :param size: of the picture, in px.
        :raises TooLarge: when there are never as many.
        """
        if count > self._most:
            raise TooLarge(
                f"{size[0]} x {size[1]} pixels take {as_size(count)} of memory, and there are {as_size(self._most)}: "
                "save it smaller, or as a JPEG, which is decoded at a part of its size"
            )
        with self._changed:
            self._changed.wait_for(lambda: self._free >= count)
            self._free -= count
        try:
            yield
        finally:
            with self._changed:
                self._free += count
                self._changed.notify_all()


@dataclass(frozen=True)
class Spread:
    """How the values of one photo with more than 8 bits lie: least, 0.1 %, 99.9 %, most."""

    least: float
    low: float
    high: float
    most: float


@dataclass(frozen=True)
class Range:
    """Which values become black and white.

    :param nominal: whether it is the range that the numbers can have, and not only the one that they happen to have.
    """

    black: float
    white: float
    nominal: bool = True


FULL = Range(0, 65535)
# What whole numbers of 8 to 16 bits can hold.
TOPS = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16))
# Modes whose last value says how opaque a pixel is.
WITH_ALPHA = ("LA", "RGBA")
# A picture that uses less of what its numbers could say would come out flat, as a thermal one does.
USED_SHARE = 0.25
# Of the range of all other values: a value so far away from them stands for none, as -9999 does.
FAR = 4.0


def range_of(spreads: Sequence[Spread], *, integers: bool) -> Range:
    """One range for all photos of one camera, so that the same thing is as bright in each of them.

    It is what the numbers can hold (10, 12, 14 or 16 bits, 0 to 1, 0 to 255), found by the largest one; or, where they
    use little of that, what they do use, but for a thousandth at each end.
    """
    least, most = min(each.least for each in spreads), max(each.most for each in spreads)
    low, high = min(each.low for each in spreads), max(each.high for each in spreads)
    tops = TOPS if integers else (1, 255, 65535)
    top = next((top for top in tops if least >= 0 and most <= top), None)
    if top is not None and high - low >= USED_SHARE * top:
        return Range(0, top)
    return Range(low, high, nominal=False) if high > low else Range(low - 1, low + 1, nominal=False)


@dataclass(frozen=True)
class Glance:
    """What a photo's header tells.

    :param size: in px, as it is stored.
    :param deep: whether its values have more than 8 bits; then how they lie.
    :param integers: of a deep one, whether they are whole numbers.
    :param mode: as Pillow calls how they are stored.
    """

    size: tuple[int, int]
    exif: Exif
    raw: bool = False
    deep: Spread | None = None
    integers: bool = True
    mode: str = ""

    @property
    def camera(self) -> tuple[bool, str, str, str]:
        """Photos of which this is equal get one range."""
        return self.integers, self.exif.make, self.exif.model, self.mode


@dataclass
class Picture:
    """A photo as it is to be seen.

    :param image: upright, RGB.
    :param alpha: of the same size, where it hides something.
    :param remarks: what was done to it that people should know, by the keys of the stage's `REMARKS`, with details.
    """

    image: Image.Image
    alpha: Image.Image | None = None
    remarks: dict[str, str] = field(default_factory=dict)


@contextmanager
def decoding() -> Iterator[None]:
    """What a decoder says of the data in words; what the machine says goes through.

    :raises Unreadable: when the data are at fault.
    """
    try:
        yield
    except (Unreadable, TooLarge):
        raise
    except UnidentifiedImageError:
        raise Unreadable(f"damaged, or none of {', '.join(PHOTO_FORMATS)}") from None
    except Exception as error:
        if not is_damage(error):
            raise
        raise Unreadable(
            f"damaged, not uploaded whole, or of a kind that is not read ({error or type(error).__name__})"
        ) from None


def look(path: Path, name: str, memory: Memory) -> Glance:
    """What there is to know of a photo before it is decoded; one with more than 8 bits a value is decoded for that.

    :param name: in the capture: its suffix tells a raw photo from a TIFF.
    :raises Unreadable: when it is no photo.
    """
    with decoding(), path.open("rb") as file:
        if _is_raw(file, name):
            found = _look_at_raw(file)
            if found is not None:
                return found
        with opened(file) as image:
            # A PNG's own way to its EXIF decodes it.
            exif, size = read_exif(partial(Image.Image.getexif, image), image.size), image.size
            exif = told_by_xmp(exif, image.info.get("xmp"))
            if not _is_deep(image):
                return Glance(size, exif)
            with memory.of(size, _bytes_of(image, size, deep=True)):
                values = _values(image, file)
                if image.mode in WITH_ALPHA:
                    values = values[..., :-1]
                integers = bool(np.issubdtype(values.dtype, np.integer))
                return Glance(size, exif, deep=_spread(values), integers=integers, mode=image.mode)


def opened(file: BinaryIO) -> ImageFile.ImageFile:
    """A picture of which only the header was read.

    :raises Unreadable: when it is of an odd kind, or damaged.
    :raises UnidentifiedImageError: when it is none.
    """
    try:
        return mended(Image.open(file, formats=FORMATS))
    except UnidentifiedImageError:
        file.seek(0)
        found = format_of(file.read(HEAD_BYTES))
        if found not in PHOTO_FORMATS:
            raise
        way = "export it as an ordinary JPEG"
        if found == TIFF:
            way = "save it with one, three or four values of 8 or 16 bits a pixel, or with one of 32 bits"
        raise Unreadable(f"damaged, or {found} of a kind that is not read: {way}") from None


def decode(path: Path, glance: Glance, max_size: int, memory: Memory, values: Range = FULL) -> Picture:
    """The picture, its longest side at most `max_size`.

    :param values: of a photo with more than 8 bits a value.
    :raises Unreadable: when it is damaged.
    :raises TooLarge: when it takes more memory than all may.
    """
    with decoding(), path.open("rb") as file:
        if glance.raw:
            return _develop(file, glance, max_size, memory)
        with opened(file) as image:
            full = image.size
            # JPEG can be decoded at a half or a quarter of its size for a fraction of the time and memory.
            image.draft("RGB", (2 * max_size, 2 * max_size))
            # Of 16 bits a colour Pillow keeps the upper 8, which is right as long as they are all used.
            deep = glance.deep is not None and (image.mode[0] in "IF" or values != FULL)
            with memory.of(full, _bytes_of(image, full, deep=deep)):
                picture = Picture(image)
                if deep:
                    _load_deep(picture, file, values)
                else:
                    _load(picture, file, max_size)
                _finish(picture, min(max_size, max(full)), adobe=glance.exif.adobe)
                return picture


def _bytes_of(image: Image.Image, full: tuple[int, int], *, deep: bool) -> int:
    each = DEEP_BAND_BYTES * max(3, len(image.getbands())) if deep else PIXEL_BYTES
    kept = PROGRESSIVE_BYTES * full[0] * full[1] if image.info.get("progressive") else 0
    return each * image.width * image.height + kept


def _load(picture: Picture, file: BinaryIO, max_size: int) -> None:
    """Decode, and turn upright: a TIFF is by its decoder, a HEIC by its own, of others the orientation still stands."""
    image = picture.image
    jpeg = image.format in ("JPEG", "MPO")
    try:
        image.load()
        cut = jpeg and (_ends_in_nothing(file) or _ends_too_soon(image, file))
    except OSError as error:
        if not jpeg or not is_damage(error):
            raise
        cut = True
    if cut:
        image = _without_end(file, max_size)
        picture.remarks["cut"] = ""
    orientation, info = _orientation(image), image.info
    profile = info.get("icc_profile")
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode in ("L", "LA") else "RGBA")
    elif profile is None or image.mode not in ("L", "CMYK", "LAB"):
        image = image.convert("RGB")
    picture.image = _turned(image, orientation)
    picture.image.info.update(info)


def _load_deep(picture: Picture, file: BinaryIO, values: Range) -> None:
    image = picture.image
    shown = _shown(_values(image, file), values, image.mode, image.info.get("transparency"))
    # Of values that were stretched a profile says nothing any more.
    if values.nominal:
        shown.info |= {name: image.info[name] for name in ("icc_profile", "gamma", "srgb") if name in image.info}
    if values != FULL:
        picture.remarks["range"] = f"{values.black:.6g} to {values.white:.6g}"
    picture.image = _turned(shown, _orientation(image))


def _orientation(image: Image.Image) -> int:
    """How a decoded picture is still to be turned."""
    return read_exif(image.getexif, image.size).orientation


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def _finish(picture: Picture, long_side: int, *, adobe: bool = False) -> None:
    """Scale, convert colours to sRGB, and cover what alpha hides; then nothing but pixels is left."""
    image, profile = picture.image, picture.image.info.get("icc_profile")
    scale = long_side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if image.size != size:
        # Pillow weighs colours by alpha, so that what is hidden does not bleed into what is seen.
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    alpha = image.getchannel("A") if image.mode in WITH_ALPHA else None
    if alpha is not None:
        image = image.convert(image.mode[:-1])
    if profile:
        image = _in_srgb(image, profile, picture)
    image = image.convert("RGB")
    if not profile and picture.image.info.get("nclx_profile", {}).get("color_primaries") == DISPLAY_P3:
        image = _from_p3(image)
    gamma = picture.image.info.get("gamma")
    if gamma and not profile and "srgb" not in picture.image.info:
        image = _from_gamma(image, gamma)
    if adobe and not profile and picture.image.mode in ("RGB", "RGBA"):
        image = _from_adobe(image)
    if alpha is not None and alpha.getextrema()[0] != 255:
        image = Image.composite(image, Image.new("RGB", image.size, BACKGROUND), alpha)
        # A colour that stood for transparent is no value of what it became.
        alpha.info.clear()
        picture.alpha = alpha
        picture.remarks["alpha"] = ""
    image.info.clear()
    picture.image = image


# Colours


def _in_srgb(image: Image.Image, profile: bytes, picture: Picture) -> Image.Image:
    """The picture's colours as its profile means them; one that cannot be used is passed over."""
    try:
        transform = _to_srgb(profile, image.mode)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError, KeyError):
        picture.remarks["profile"] = ""
        return image
    if transform is None:
        return image
    return transform.apply(image)


@lru_cache(maxsize=32)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """What converts pictures of a mode; None where it would change nothing, as the many profiles of sRGB."""
    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if mode != "RGB":
        return transform
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(len(steps), -1, 3)
    changed = np.abs(np.asarray(transform.apply(Image.fromarray(cube)), int) - cube).max()
    return transform if changed > 2 else None


def _from_p3(image: Image.Image) -> Image.Image:
    """Display P3, whose curve is that of sRGB, in sRGB."""
    light = decoded(np.asarray(image, np.float32) / 255) @ P3_TO_SRGB.T
    return Image.fromarray(encoded(light.clip(0, 1)))


def _from_gamma(image: Image.Image, gamma: float) -> Image.Image:
    """By what a PNG says of its curve (PNG, third edition, 11.3.2.2); what is near enough to that of sRGB stays."""
    if not gamma > LEAST_GAMMA or abs(gamma - SRGB_GAMMA) < SAME_GAMMA:
        return image
    curve = encoded((np.arange(256) / 255) ** (1 / gamma))
    return image.point(curve.tolist() * 3)


def _from_adobe(image: Image.Image) -> Image.Image:
    """Adobe RGB in sRGB."""
    light = (np.asarray(image, np.float32) / 255) ** ADOBE_GAMMA @ ADOBE_TO_SRGB.T
    return Image.fromarray(encoded(light.clip(0, 1)))


# Values of more than 8 bits


def _is_deep(image: Image.Image) -> bool:
    # What alpha was multiplied with Pillow divides by it, and there are no lower bytes of that.
    return image.mode[0] in "IF" or (";16" in _packing(image) and "a" not in _packing(image))


def _packing(image: Image.Image) -> str:
    """How a file's values become bytes, by Pillow's name: `RGB;16B` has two bytes a value, the high one first."""
    tiles = getattr(image, "tile", None)
    options = tiles[0].args if tiles else ""
    return str(options[0] if isinstance(options, tuple) and options else options)


def _values(image: Image.Image, file: BinaryIO) -> Values:
    """Values as the file has them, height x width, and x colours and alpha where there are several.

    :raises Unreadable: where their lower bytes count and Pillow does not give them.
    """
    packing = _packing(image)
    image.load()
    if image.mode[0] in "IF":
        return 65535 - np.asarray(image) if zero_is_white(image) else np.asarray(image)
    upper = np.asarray(image, np.uint16) * 256
    if in_planes(image) or packing.startswith("LA"):
        if upper[..., :1].max() < 2**14:
            raise Unreadable("its values have fewer than 16 bits in a layout that is not read so: save it with 8 bits")
        return upper + 255
    # Pillow keeps the upper byte of a colour of 16 bits. Read with its bytes swapped, it keeps the lower one.
    again = opened(file)
    swapped = packing[:-1] + {"B": "L", "L": "B", "N": "B"}.get(packing[-1], packing[-1])
    again.tile = [
        tile._replace(args=(swapped, *tile.args[1:]) if isinstance(tile.args, tuple) else swapped)
        for tile in again.tile
    ]
    again.load()
    return upper + np.asarray(again, np.uint16)


def _spread(values: Values) -> Spread:
    flat = values.reshape(-1)
    known = flat[np.isfinite(flat)]
    if not known.size:
        raise Unreadable("it has no values but infinite ones and such as are no numbers")
    if values.ndim == 2:
        known = _without_none(known)
    low, high = np.percentile(known[:: max(1, known.size // 500_000)], (0.1, 99.9))
    return Spread(float(known.min()), float(low), float(high), float(known.max()))


def _without_none(known: Values) -> Values:
    """Values without the least and the greatest, where these stand for pixels of which nothing is known."""
    for extreme in (known.min(), known.max()):
        rest = known[known != extreme]
        if rest.size:
            least, most = float(rest.min()), float(rest.max())
            gap = max(least - float(extreme), float(extreme) - most)
        if rest.size and gap > FAR * (most - least) > 0:
            known = rest
    return known


def _shown(values: Values, shown: Range, mode: str, transparent: Any) -> Image.Image:
    """What is seen of values.

    :param mode: as Pillow calls how they are stored.
    :param transparent: the value that stands for transparent, or one of each colour; None without one.
    """
    ranges = [shown] * (values.shape[2] if values.ndim == 3 else 1)
    if mode in WITH_ALPHA:
        ranges[-1] = Range(0, next(top for top in TOPS if values[..., -1].max() <= top))
    each = np.moveaxis(np.atleast_3d(values), 2, 0)
    bands = [_eight_bits(band, wanted) for band, wanted in zip(each, ranges, strict=True)]
    image = Image.merge(mode, bands) if len(bands) > 1 else bands[0]
    if isinstance(transparent, (int, tuple)):
        image.putalpha(Image.fromarray((values != transparent).reshape(*values.shape[:2], -1).any(axis=2)))
    return image


def _eight_bits(values: Values, shown: Range) -> Image.Image:
    known = np.asarray(values, np.float32).clip(shown.black, shown.white)
    scaled = (known - shown.black) * (255 / (shown.white - shown.black))
    return Image.fromarray((np.nan_to_num(scaled).clip(0, 255) + 0.5).astype(np.uint8))


# JPEGs without their end


def _ends_in_nothing(file: BinaryIO) -> bool:
    """Whether a JPEG breaks off in zeros, as a copy does whose room was taken before its bytes came.

    A decoder takes them for a picture. Behind a whole one they do no harm.
    """
    file.seek(-min(ZEROS, file.seek(0, SEEK_END)), SEEK_END)
    if file.read().strip(b"\0"):
        return False
    file.seek(0)
    data = file.read().rstrip(b"\0")
    if data.endswith(END):
        return False
    image = Image.open(BytesIO(data), formats=["JPEG"])
    image.draft("RGB", (1, 1))
    try:
        image.load()
    except OSError:
        return True
    return False


def _ends_too_soon(image: Image.Image, file: BinaryIO) -> bool:
    """Whether a JPEG that was cut off was given an end again, as programs do that repair it.

    A decoder makes one colour of what is missing, which is why others are not looked at.
    """
    bottom = image.crop((0, max(0, image.height - FLAT), *image.size)).getextrema()
    if any(least != most for least, most in (bottom if isinstance(bottom[0], tuple) else (bottom,))):
        return False
    file.seek(0)
    return _missing(_unended(file.read())) > 0


def _unended(data: bytes) -> bytes:
    """A JPEG without an end; half a marker would make one with what is put behind it."""
    return data.rstrip(b"\0").removesuffix(END).rstrip(b"\xff")


def _without_end(file: BinaryIO, max_size: int) -> Image.Image:
    """What there is of a JPEG that was cut off; the rest is grey.

    :raises Unreadable: when too much is missing.
    """
    file.seek(0)
    data = _unended(file.read())
    if _missing(data) > MOST_MISSING:
        raise Unreadable(f"cut off: more than {MOST_MISSING:.0%} of it is missing")
    image = _ended(data, 2 * max_size)
    image.load()
    return image


def _ended(data: bytes, size: int) -> Image.Image:
    image = Image.open(BytesIO(data + END), formats=["JPEG"])
    image.draft("RGB", (size, size))
    return image


def _missing(data: bytes) -> float:
    """Which share of a cut off JPEG no byte of it determines: what differs when another end is made up."""
    width, height = Image.open(BytesIO(data), formats=["JPEG"]).size
    noise = np.random.default_rng(0).integers(0, 255, min(width * height // 2, 2**26), np.uint8).tobytes()
    one, other = (np.asarray(_ended(each, 1)) for each in (data, data + noise))
    return float((one != other).reshape(*one.shape[:2], -1).any(axis=2).mean())


# Raw photos


def _is_raw(file: BinaryIO, name: str) -> bool:
    head = file.read(HEAD_BYTES)
    file.seek(0)
    kind = format_of(head)
    return kind == RAW or (kind == TIFF and (suffix_of(name) in RAW_SUFFIXES or head[8:10] == b"CR" or _is_dng(file)))


def _is_dng(file: BinaryIO) -> bool:
    exif = Image.Exif()
    try:
        exif.load_from_fp(file)
        return ExifTags.Base.DNGVersion in exif
    except Exception as error:
        if not is_damage(error):
            raise
        return False
    finally:
        file.seek(0)


def _look_at_raw(file: BinaryIO) -> Glance | None:
    """None where it is an ordinary TIFF after all."""
    try:
        with rawpy.imread(file) as photo:
            file.seek(0)
            size = (photo.sizes.width, photo.sizes.height)
            return Glance(size, _raw_exif(photo, file, size), raw=True)
    except rawpy.LibRawFileUnsupportedError:
        file.seek(0)
        return None


def _raw_exif(photo: Any, file: BinaryIO, size: tuple[int, int]) -> Exif:
    def stored() -> Image.Exif:
        if format_of(file.read(HEAD_BYTES)) != TIFF:
            preview: Image.Exif = Image.open(BytesIO(photo.extract_thumb().data), formats=["JPEG"]).getexif()
            return preview
        file.seek(0)
        exif = Image.Exif()
        exif.load_from_fp(file)
        return exif

    return read_exif(stored, size)


def _develop(file: BinaryIO, glance: Glance, max_size: int, memory: Memory) -> Picture:
    """By the camera's own white balance, and without brightening each photo by its own content."""
    half = max(glance.size) >= 2 * max_size
    with memory.of(glance.size, RAW_PIXEL_BYTES * glance.size[0] * glance.size[1]):
        with rawpy.imread(file) as photo:
            # LibRaw turns it upright.
            pixels = photo.postprocess(use_camera_wb=True, no_auto_bright=True, output_bps=8, half_size=half)
        picture = Picture(Image.fromarray(pixels))
        _finish(picture, min(max_size, max(glance.size)))
        return picture
