"""What a file's values mean is what the prepared photo shows."""

from __future__ import annotations

import errno
import io
import re
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ingest_photos import Ingest, Ingested, picture, save
from odd_files import ADOBE_RGB, DISPLAY_P3, SRGB, cmyk_profile, grey_profile, raw_photo, rgb_profile, tiff
from PIL import ExifTags, Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from e2e3d_stages.contract.messages import Infrastructure
from e2e3d_stages.ingest.pixels import Memory, TooLarge

FILES = Path(__file__).parent / "files"
# What JPEG at quality 95 does to such pictures.
NEAR = 3.0


def error(image: Image.Image, truth: Image.Image | np.ndarray) -> float:
    """Mean difference, in levels of 255."""
    expected = Image.fromarray(np.asarray(truth)).convert("RGB")
    return float(np.abs(np.asarray(image.convert("RGB"), float) - np.asarray(expected, float)).mean())


def warned(result: Ingested) -> dict[str, str]:
    return {warning.code: warning.message for warning in result.context.warnings}


def grey(seed: int) -> np.ndarray:
    return np.asarray(picture(seed).convert("L"))


def in_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """The picture of the same colours, in another profile's numbers."""
    wanted = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    converted = ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), wanted)
    assert converted is not None
    return converted


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
@pytest.mark.parametrize(
    ("orientation", "stored_by"),
    [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90), (7, Image.Transpose.TRANSVERSE)],
)
def test_a_photo_of_any_format_is_turned_once(
    suffix: str, orientation: int, stored_by: Image.Transpose, capture: Path, ingest: Ingest
) -> None:
    upright = picture(5, 300, 400)
    save(capture / f"turned.{suffix}", upright.transpose(stored_by), {ExifTags.Base.Orientation: orientation})
    result = ingest(capture)
    assert result.image(f"turned.{suffix}").size == (300, 400)
    assert error(result.image(f"turned.{suffix}"), upright) < 4


def test_a_heic_is_turned_once_and_its_colours_are_those_of_its_profile(capture: Path, ingest: Ingest) -> None:
    # picture(5, 300, 400) in Display P3, stored turned by 90 degrees, with EXIF that says so, too.
    (capture / "IMG_7.HEIC").write_bytes((FILES / "turned-p3.heic").read_bytes())
    result = ingest(capture)
    assert result.image("IMG_7.HEIC").size == (300, 400)
    assert error(result.image("IMG_7.HEIC"), picture(5, 300, 400)) < 4
    assert result.record["cameras"][result.photo("IMG_7.HEIC")["camera"]]["make"] == "Apple"
    assert result.photo("IMG_7.HEIC")["focal_px"] == pytest.approx(26 / 43.267 * 500, rel=0.01)


def test_a_heic_may_say_its_colours_by_a_number(capture: Path, ingest: Ingest) -> None:
    # Colours of Display P3, and no profile but `color_primaries=12`.
    (capture / "IMG_7.HEIC").write_bytes((FILES / "p3-by-number.heic").read_bytes())
    result = ingest(capture)
    assert error(result.image("IMG_7.HEIC"), np.clip(np.asarray(picture(7)), 60, 190)) < NEAR


@pytest.mark.parametrize("profile", [rgb_profile(DISPLAY_P3), rgb_profile(ADOBE_RGB, 2.2)], ids=["P3", "Adobe RGB"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "avif"])
def test_colours_are_converted_from_the_profile_that_they_are_in(
    profile: bytes, suffix: str, capture: Path, ingest: Ingest
) -> None:
    truth = Image.fromarray(np.clip(np.asarray(picture(7)), 60, 190))
    stored = in_profile(truth, profile)
    assert error(stored, truth) > 5
    stored.save(capture / f"wide.{suffix}", icc_profile=profile, quality=95)
    result = ingest(capture)
    assert error(result.image(f"wide.{suffix}"), truth) < NEAR
    assert result.context.warnings == []


@pytest.mark.parametrize(("space", "converted"), [(0xFFFF, True), (1, False)])
def test_a_camera_may_say_adobe_rgb_in_its_exif_alone(
    space: int, converted: bool, capture: Path, ingest: Ingest
) -> None:
    truth = Image.fromarray(np.clip(np.asarray(picture(7)), 60, 190))
    stored = in_profile(truth, rgb_profile(ADOBE_RGB, 2.2))
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ColorSpace] = space
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.IFD.Interop] = {1: "R03"}
    stored.save(capture / "_DSC1.JPG", exif=exif, quality=95)
    assert error(ingest(capture).image("_DSC1.JPG"), truth if converted else stored) < NEAR


@pytest.mark.parametrize(("gamma", "seen"), [(1.0, "light"), (0.45455, "stored"), (0.0, "stored")])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_png_may_say_its_curve_by_a_gamma(bits: int, gamma: float, seen: str, capture: Path, ingest: Ingest) -> None:
    stored = np.asarray(picture(7))
    told = PngInfo()
    told.add(b"gAMA", struct.pack(">I", round(gamma * 100_000)))
    values = stored if bits == 8 else stored[..., 0].astype(np.uint16) * 257
    Image.fromarray(values).save(capture / "a.png", pnginfo=told)
    light = stored / 255
    curved = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    truth = {"light": (255 * curved + 0.5).astype(np.uint8), "stored": stored}[seen]
    assert error(ingest(capture).image("a.png"), truth if bits == 8 else truth[..., 0]) < NEAR


def test_a_png_may_tell_a_long_history(capture: Path, ingest: Ingest) -> None:
    told = PngInfo()
    told.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>" * 300_000, zip=True)
    picture(7).save(capture / "a.png", pnginfo=told)
    assert error(ingest(capture).image("a.png"), picture(7)) < NEAR


def test_a_profile_that_is_srgb_changes_no_pixel(capture: Path, ingest: Ingest) -> None:
    picture(7).save(capture / "with.jpg", icc_profile=rgb_profile(SRGB))
    picture(7).save(capture / "without.jpg")
    # Equal pixels are a copy.
    assert ingest(capture).dropped == {"without.jpg": "duplicate"}


@pytest.mark.parametrize("nothing", [-9999, 3.4028235e38, -32768])
def test_what_stands_for_nothing_in_a_deep_picture_does_not_flatten_the_rest(
    nothing: float, capture: Path, ingest: Ingest
) -> None:
    values = 20 + grey(11).astype(np.float32) / 255 * 20
    values[:100, :100] = nothing
    Image.fromarray(values).save(capture / "heights.tif")
    shown = np.asarray(ingest(capture).image("heights.tif").convert("L"), float)
    assert shown[110:, 110:].std() > 0.9 * grey(11)[110:, 110:].std()
    assert np.corrcoef(shown[110:, 110:].ravel(), grey(11)[110:, 110:].ravel())[0, 1] > 0.99


def test_a_strange_picture_does_not_change_the_range_of_others_of_no_camera(capture: Path, ingest: Ingest) -> None:
    (capture / "a.png").write_bytes(wide_png(np.asarray(picture(21), int) * 257))
    Image.fromarray(grey(9).astype(np.int32) * 1_000_000).save(capture / "b.tif")
    assert error(ingest(capture).image("a.png"), picture(21)) < NEAR


def test_a_tiff_of_a_kind_that_is_not_read_says_what_to_do(capture: Path, ingest: Ingest) -> None:
    whole = (capture / "IMG_1.jpg").with_suffix(".tif")
    Image.fromarray(grey(9).astype(np.float32)).save(whole)
    # 32 bits a value become 64: what is told, and not what is there.
    whole.write_bytes(whole.read_bytes().replace(b"\2\1\3\0\1\0\0\0\x20\0", b"\2\1\3\0\1\0\0\0\x40\0"))
    result = ingest(capture)
    assert "save it with" in next(item["detail"] for item in result.record["dropped"])


def test_grey_and_cmyk_have_profiles_too(capture: Path, ingest: Ingest) -> None:
    Image.fromarray(np.full((300, 400), 128, np.uint8)).save(capture / "grey.jpg", icc_profile=grey_profile(1.0))
    dark = Image.fromarray(np.full((300, 400), 64, np.uint8))
    dark.putalpha(Image.fromarray(np.full((300, 400), 255, np.uint8)))
    dark.save(capture / "opaque.png", icc_profile=grey_profile(1.0))
    ink = Image.new("CMYK", (400, 300), (255, 0, 0, 0))
    ink.paste((0, 0, 0, 0), (0, 0, 200, 300))
    ink.save(capture / "print.jpg", icc_profile=cmyk_profile())
    result = ingest(capture)
    # Half of the light is 188 in sRGB, a quarter 137; L* 50 is 119.
    assert np.asarray(result.image("grey.jpg")).mean() == pytest.approx(188, abs=2)
    assert np.asarray(result.image("opaque.png")).mean() == pytest.approx(137, abs=2)
    printed = np.asarray(result.image("print.jpg"), int)
    assert np.abs(printed[:, 250:] - 119).max() < 5
    assert printed[:, :150].min() > 250


def test_a_broken_profile_costs_only_itself_and_is_told(capture: Path, ingest: Ingest) -> None:
    picture(7).save(capture / "odd.jpg", icc_profile=b"no profile")
    picture(8).convert("L").save(capture / "mismatch.png", icc_profile=rgb_profile(DISPLAY_P3))
    result = ingest(capture)
    assert error(result.image("odd.jpg"), picture(7)) < 4
    assert "cannot be used; they were taken for sRGB (2): mismatch.png, odd.jpg." in warned(result)["photos_profile"]


def deep(kind: str, seed: int) -> tuple[Image.Image | bytes, np.ndarray]:
    """A picture of many bits, and how it is to look."""
    truth = grey(seed)
    twelve = (truth.astype(int) * 4095 // 255).astype(np.uint16)
    return {
        "16 bits": lambda: Image.fromarray(truth.astype(np.uint16) * 257),
        "12 in 16 bits": lambda: Image.fromarray(twelve),
        "0 to 1": lambda: Image.fromarray(truth.astype(np.float32) / 255),
        "0 to 255": lambda: Image.fromarray(truth.astype(np.float32)),
        "32-bit": lambda: Image.fromarray(truth.astype(np.int32) * 257),
    }[kind](), truth


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("16 bits", "png"),
        ("16 bits", "tif"),
        ("12 in 16 bits", "png"),
        ("12 in 16 bits", "tif"),
        ("0 to 1", "tif"),
        ("0 to 255", "tif"),
        ("32-bit", "tif"),
    ],
)
def test_more_bits_than_eight_are_shown_by_what_they_can_hold(
    kind: str, suffix: str, capture: Path, ingest: Ingest
) -> None:
    image, truth = deep(kind, 9)
    assert isinstance(image, Image.Image)
    image.save(capture / f"deep.{suffix}")
    result = ingest(capture)
    assert error(result.image(f"deep.{suffix}"), truth) < NEAR
    assert ("photos_range" in warned(result)) == (kind not in ("16 bits", "32-bit"))


def test_twelve_bits_of_each_colour_in_sixteen_are_not_dark(capture: Path, ingest: Ingest) -> None:
    def values(seed: int, top: int) -> np.ndarray:
        return np.asarray(picture(seed), int) * top // 255

    (capture / "deep.tif").write_bytes(tiff(values(21, 4095).astype(np.uint16), photometric=2))
    (capture / "deep.png").write_bytes(wide_png(values(22, 4095)))
    (capture / "full.tif").write_bytes(tiff(values(23, 65535).astype(np.uint16), photometric=2, make=b"B"))
    result = ingest(capture)
    for name, seed in (("deep.tif", 21), ("deep.png", 22), ("full.tif", 23)):
        assert error(result.image(name), picture(seed)) < NEAR
    assert "0 to 4095 became black to white" in warned(result)["photos_range"]
    assert "(2): deep.png, deep.tif." in warned(result)["photos_range"]


def wide_png(values: np.ndarray, transparent: tuple[int, ...] = ()) -> bytes:
    """A PNG of 16 bits a value: grey, grey and alpha, RGB or RGBA.

    :param transparent: the value of each colour that stands for it.
    """

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    stored = np.atleast_3d(values).astype(">u2")
    height, width, bands = stored.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)
    parts = [chunk(b"IHDR", header)]
    if transparent:
        parts.append(chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)))
    rows = b"".join(b"\0" + row.tobytes() for row in stored)
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("planes", [False, True])
def test_a_tiff_is_read_however_its_values_lie(
    order: str, packed: bool, planes: bool, capture: Path, ingest: Ingest
) -> None:
    layout: dict[str, Any] = {"order": order, "packed": packed, "planes": planes}
    rgb, ink = np.asarray(picture(31)), np.dstack([255 - np.asarray(picture(32)), np.zeros((300, 400, 1), np.uint8)])
    clear = np.dstack([picture(33), np.full((300, 400), 255, np.uint8)])
    wide = np.uint16(257)
    for name, content in {
        "rgb8.tif": tiff(rgb, photometric=2, **layout),
        "rgb16.tif": tiff(np.asarray(picture(34)) * wide, photometric=2, **layout),
        "cmyk.tif": tiff(ink, photometric=5, **layout),
        "rgba.tif": tiff(clear * wide, photometric=2, extra=2, **layout),
        "grey16.tif": tiff(grey(35) * wide, photometric=1, make=b"B", **layout),
        "dark is much.tif": tiff(255 - grey(36), photometric=0, **layout),
        "dark is much 16.tif": tiff((255 - grey(37)) * wide, photometric=0, make=b"C", **layout),
        "float.tif": tiff(grey(38).astype(np.float32) / 255, photometric=1, make=b"D", **layout),
    }.items():
        (capture / name).write_bytes(content)
    result = ingest(capture)
    assert result.dropped == {}
    for name, seed in (("rgb8", 31), ("cmyk", 32), ("rgba", 33), ("rgb16", 34)):
        assert error(result.image(f"{name}.tif"), picture(seed)) < NEAR
    for name, seed in (("grey16", 35), ("dark is much", 36), ("dark is much 16", 37), ("float", 38)):
        assert error(result.image(f"{name}.tif"), grey(seed)) < NEAR


@pytest.mark.parametrize("times", [1, 256, 257])
def test_a_palette_may_be_written_with_eight_bits_or_with_sixteen(times: int, capture: Path, ingest: Ingest) -> None:
    image = picture(31).quantize(256)
    colours = np.reshape(image.getpalette(), (256, 3)) * times
    (capture / "map.tif").write_bytes(tiff(np.asarray(image), photometric=3, colours=colours))
    assert error(ingest(capture).image("map.tif"), image.convert("RGB")) < 6


def test_fewer_than_sixteen_bits_are_bright_beside_alpha_and_in_ink_too(capture: Path, ingest: Ingest) -> None:
    def twelve(*bands: Any) -> np.ndarray:
        return (np.dstack(bands).astype(int) * 4095 // 255).astype(np.uint16)

    opaque = np.full((300, 400), 255)
    opaque[:, 300:] = 0
    ink = 255 - np.asarray(picture(42), int)
    (capture / "rgba.png").write_bytes(wide_png(twelve(picture(41), opaque)))
    (capture / "rgba.tif").write_bytes(tiff(twelve(picture(43), opaque), photometric=2, extra=2))
    (capture / "cmyk.tif").write_bytes(tiff(twelve(ink, 0 * opaque), photometric=5))
    result = ingest(capture)
    assert error(result.image("cmyk.tif"), picture(42)) < NEAR
    for name, seed in (("rgba.png", 41), ("rgba.tif", 43)):
        shown = np.asarray(picture(seed)).copy()
        shown[:, 300:] = 128
        assert error(result.image(name), shown) < NEAR


@pytest.mark.parametrize(
    "content",
    [
        tiff(np.full((300, 400, 3), 4095, np.uint16), photometric=2, planes=True),
        wide_png(np.full((300, 400, 2), 4095)),
    ],
    ids=["in planes", "grey and alpha"],
)
def test_bits_that_are_not_read_are_told_and_not_guessed(content: bytes, capture: Path, ingest: Ingest) -> None:
    (capture / "odd").write_bytes(content)
    (dropped,) = ingest(capture).record["dropped"]
    assert (dropped["source"], dropped["reason"]) == ("odd", "unreadable")
    assert "fewer than 16 bits in a layout that is not read so: save it with 8 bits" in dropped["detail"]


@pytest.mark.parametrize("kind", ["RGB", "RGB of 16 bits", "grey", "grey of 16 bits", "grey of 12 bits"])
def test_one_colour_may_stand_for_transparent(kind: str, capture: Path, ingest: Ingest) -> None:
    top = 4095 if "12" in kind else 65535 if "16" in kind else 255
    seen = np.minimum(np.asarray(picture(44)) if "RGB" in kind else grey(44), 254)
    values = seen.astype(int) * top // 255
    values[:, 300:] = top
    if top == 255:
        key = (255, 255, 255) if "RGB" in kind else 255
        Image.fromarray(values.astype(np.uint8)).save(capture / "cut out.png", transparency=key)
    else:
        (capture / "cut out.png").write_bytes(wide_png(values, (top,) * (3 if "RGB" in kind else 1)))
    result = ingest(capture)
    assert result.metrics["photos_with_mask"] == 1
    shown = seen.copy()
    shown[:, 300:] = 128
    assert error(result.image("cut out.png"), shown) < NEAR


def test_thermal_photos_are_stretched_the_same_way_in_the_whole_capture(capture: Path, ingest: Ingest) -> None:
    # Hundredths of a kelvin: from 20 °C to 40 °C, and a second photo that shows only the colder half.
    truth = grey(9).astype(float)
    warm = 29315 + truth / 255 * 2000
    Image.fromarray(warm.astype(np.uint16)).save(capture / "t1.tif")
    Image.fromarray(np.minimum(warm, 30315).astype(np.uint16)).save(capture / "t2.tif")
    Image.fromarray(20 + grey(11).astype(np.float32) / 255 * 20).save(capture / "celsius.tif")
    result = ingest(capture)
    t1, t2 = (np.asarray(result.image(f"t{n}.tif").convert("L"), float) for n in (1, 2))
    assert np.percentile(t1, 1) < 25
    assert np.percentile(t1, 99) > 200
    (told, _) = sorted(warning.message for warning in result.context.warnings)
    cold = (truth > 40) & (truth < 110)
    assert np.abs(t1 - t2)[cold].mean() < 2
    assert t2.max() < 140
    assert np.asarray(result.image("celsius.tif").convert("L")).std() > 30
    assert re.fullmatch(
        r"Photos with more than 8 bits a value: 2\d\.\d+ to 3\d\.\d+ became black to white, the same way in all "
        r"photos of one camera \(1\): celsius\.tif\.",
        told,
    )


def test_what_is_no_number_is_black_and_a_picture_of_nothing_else_is_none(capture: Path, ingest: Ingest) -> None:
    values = grey(9).astype(np.float32) / 255
    values[:100] = np.nan
    Image.fromarray(values).save(capture / "holes.tif")
    Image.fromarray(np.full((300, 400), np.inf, np.float32)).save(capture / "void.tif")
    result = ingest(capture)
    prepared = np.asarray(result.image("holes.tif").convert("L"), int)
    assert prepared[:95].max() < 10
    assert np.abs(prepared[110:] - grey(9)[110:]).mean() < NEAR
    assert result.dropped == {"void.tif": "unreadable"}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_what_alpha_hides_is_not_seen(mode: str, suffix: str, capture: Path, ingest: Ingest) -> None:
    image = picture(6, 800, 600).convert("RGBA")
    image.paste((255, 0, 255, 0), (400, 0, 800, 600))
    if mode == "LA":
        image = image.convert("LA")
    elif mode == "P":
        if suffix != "png":
            pytest.skip("has no palettes with alpha")
        image = image.quantize(200)
    image.save(capture / f"cut out.{suffix}", **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    result = ingest(capture, max_size=400)
    prepared = np.asarray(result.image(f"cut out.{suffix}"), int)
    # Also not at the edge, where pixels of both sides become one.
    assert np.abs(prepared[:, 208:] - 128).max() < 12
    seen = picture(6, 400, 300).convert("L" if mode == "LA" else "RGB").convert("RGB")
    assert np.abs(prepared[:, :190] - np.asarray(seen, int)[:, :190]).mean() < 8
    assert "transparent in places" in warned(result)["photos_alpha"]


def test_alpha_that_hides_nothing_is_no_matter(capture: Path, ingest: Ingest) -> None:
    picture(6).convert("RGBA").save(capture / "opaque.png")
    result = ingest(capture)
    assert error(result.image("opaque.png"), picture(6)) < NEAR
    assert result.context.warnings == []


def encoded(seed: int, **options: Any) -> bytes:
    file = io.BytesIO()
    picture(seed).save(file, "JPEG", quality=90, **options)
    return file.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("missing", [1, 2, 100])
def test_a_jpeg_without_its_end_is_used_and_told(
    missing: int, progressive: bool, capture: Path, ingest: Ingest
) -> None:
    (capture / "cut.jpg").write_bytes(encoded(5, progressive=progressive)[:-missing])
    result = ingest(capture)
    assert np.median(np.abs(np.asarray(result.image("cut.jpg"), int) - np.asarray(picture(5), int))) < 3
    assert "Photos that lack their end" in warned(result)["photos_cut"]


def test_a_jpeg_of_which_much_is_missing_is_left_out(capture: Path, ingest: Ingest) -> None:
    whole = encoded(5)
    for share in (0.05, 0.3, 0.8):
        (capture / f"{share}.jpg").write_bytes(whole[: int(share * len(whole))])
    result = ingest(capture)
    assert set(result.dropped) == {"0.05.jpg", "0.3.jpg", "0.8.jpg"}
    assert "more than 10% of it is missing" in result.record["dropped"][-1]["detail"]


@pytest.mark.parametrize("progressive", [False, True])
def test_zeros_in_place_of_a_jpegs_end_are_no_picture(progressive: bool, capture: Path, ingest: Ingest) -> None:
    whole = encoded(5, progressive=progressive)
    little, much = int(0.98 * len(whole)), int(0.2 * len(whole))
    (capture / "little.jpg").write_bytes(whole[:little] + bytes(len(whole) - little + 5000))
    (capture / "padded.jpg").write_bytes(encoded(6) + bytes(5000))
    if not progressive:
        (capture / "much.jpg").write_bytes(whole[:much] + bytes(len(whole) - much + 5000))
    result = ingest(capture)
    assert result.dropped == ({} if progressive else {"much.jpg": "unreadable"})
    assert "(1): little.jpg." in warned(result)["photos_cut"]
    assert error(result.image("little.jpg"), picture(5)) < 8
    assert error(result.image("padded.jpg"), picture(6)) < NEAR


def test_a_jpeg_that_was_cut_off_and_ended_again_is_known_by_what_it_lacks(capture: Path, ingest: Ingest) -> None:
    whole = encoded(5)
    (capture / "much.jpg").write_bytes(whole[: int(0.3 * len(whole))] + b"\xff\xd9")
    (capture / "little.jpg").write_bytes(whole[: int(0.93 * len(whole))] + b"\xff\xd9")
    bordered = picture(6)
    bordered.paste((0, 0, 0), (0, 250, 400, 300))
    bordered.save(capture / "bordered.jpg")
    result = ingest(capture)
    assert result.dropped == {"much.jpg": "unreadable"}
    assert "(1): little.jpg." in warned(result)["photos_cut"]
    assert error(result.image("bordered.jpg"), bordered) < NEAR


@pytest.mark.slow
def test_two_hundred_megapixels_are_a_photo(capture: Path, ingest: Ingest) -> None:
    picture(5).resize((16320, 12240), Image.Resampling.NEAREST).save(capture / "phone.jpg", quality=20)
    result = ingest(capture)
    assert result.image("phone.jpg").size == (1600, 1200)
    assert error(result.image("phone.jpg").resize((400, 300), Image.Resampling.BOX), picture(5)) < 6


def test_photos_share_one_budget_of_memory() -> None:
    memory = Memory(100)
    entered: list[int] = []
    inside = threading.Event()

    def second() -> None:
        with memory.of((1, 1), 60):
            entered.append(2)
            inside.set()

    with memory.of((1, 1), 60):
        other = threading.Thread(target=second)
        other.start()
        assert not inside.wait(0.05)
        entered.append(1)
    other.join(5)
    assert entered == [1, 2]
    with pytest.raises(TooLarge, match="30000 x 30000 pixels take"):
        with memory.of((30000, 30000), 101):
            pass


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOSPC])
def test_a_sick_disk_is_no_bad_photo(
    number: int, capture: Path, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sick(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 1000:
                raise OSError(number, "the disk says", "/mnt/nfs/photo.jpg")
            return super().read(min(size if size and size > 0 else 512, 512))

    well = Path.open

    def opened(path: Path, *mode: str, **options: Any) -> Any:
        return Sick(path.read_bytes()) if path.name == "IMG_2.jpg" and mode else well(path, *mode, **options)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(Infrastructure, match=r"^IMG_2.jpg could not be read: the disk says\.$"):
        ingest(capture)


def developed(orientation: int, ingest: Ingest, capture: Path, name: str) -> np.ndarray:
    linear = np.tile(np.linspace(0, 1, 400), (300, 1))
    (capture / name).write_bytes(raw_photo(linear, orientation))
    return np.asarray(ingest(capture).image(name).convert("L"), float)


@pytest.mark.parametrize("name", ["IMG_7.DNG", "no suffix"])
def test_a_raw_photo_is_developed_without_brightening_it(name: str, capture: Path, ingest: Ingest) -> None:
    shown = developed(1, ingest, capture, name)
    assert shown.shape[0] < shown.shape[1]
    # From black on the left to white on the right, by the curve of BT.709.
    assert shown[:, :8].mean() < 30
    assert shown[:, -8:].mean() > 240
    half = shown[:, shown.shape[1] // 2].mean()
    assert half == pytest.approx(255 * (1.099 * 0.5**0.45 - 0.099), abs=6)


def test_a_raw_photo_is_turned_once(capture: Path, ingest: Ingest) -> None:
    shown = developed(6, ingest, capture, "IMG_7.DNG")
    assert shown.shape[0] > shown.shape[1]
    assert shown[:8].mean() < 30 < 240 < shown[-8:].mean()
