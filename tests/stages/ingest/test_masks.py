"""Masks beside photos and in them: which belongs to which, what is white, and how they lie on the photo."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from ingest_photos import Ingest, Ingested, picture, save
from PIL import ExifTags, Image, ImageDraw

from e2e3d_stages.contract.captures import companions, masks_of
from e2e3d_stages.contract.figures import UPLOADED

SIZE = (400, 300)
Box = tuple[int, int, int, int]


def drawn(box: Box | None, size: tuple[int, int] = SIZE, *, ground: int = 0, ink: int = 255) -> Image.Image:
    """A mask with a rectangle."""
    mask = Image.new("L", size, ground)
    if box:
        ImageDraw.Draw(mask).rectangle(box, fill=ink)
    return mask


def lay_out(folder: Path, masks: list[Image.Image], suffix: str = ".png") -> Path:
    """As many photos in `images/`, and masks in `masks/`."""
    for number, mask in enumerate(masks):
        save(folder / "images" / f"{number}.jpg", picture(number, *SIZE))
        (folder / "masks").mkdir(exist_ok=True)
        mask.save(folder / "masks" / f"{number}{suffix}")
    return folder


def kept(result: Ingested, source: str) -> np.ndarray:
    """Where a prepared photo counts."""
    with Image.open(result.context.output / "masks" / f"{result.photo(source)['name']}.png") as mask:
        assert mask.mode == "1"
        assert mask.size == result.image(source).size
        return np.asarray(mask)


def told(result: Ingested) -> dict[str, str]:
    return {advice.code: advice.message for advice in result.context.warnings}


BELONG = {
    "COLMAP": ("images/a/1.jpg", "masks/a/1.jpg.png"),
    "nerfstudio": ("images/1.jpg", "masks/1.png"),
    "OpenSplat": ("images/1.jpg", "segmentation/1.png"),
    "beside it": ("a/x.jpg", "a/x_mask.png"),
    "beside it, with its suffix": ("x.jpg", "x.jpg.png"),
    "instant-ngp": ("images/1.jpg", "images/dynamic_mask_1.png"),
    "DTU": ("image/000001.png", "mask/001.png"),
    "before its name": ("a/x1.jpg", "a/mask_x1.png"),
    "in a folder of another name": ("images/1.jpg", "foreground_masks/1.png"),
    "in a zip": ("scene.zip/images/1.jpg", "scene.zip/masks/1.png"),
    "in a zip of its own": ("photos.zip/1.jpg", "masks/1.png"),
}


@pytest.mark.parametrize("layout", BELONG)
def test_a_mask_belongs_to_the_photo_of_its_name_in_its_folder(layout: str) -> None:
    photo, mask = BELONG[layout]
    others = [photo.replace("1", "2"), photo.replace("a/", "b/")] if layout != "beside it, with its suffix" else []
    photos = {photo, *others}
    assert companions([*photos, mask])[mask] == "masks"
    assert masks_of([mask], photos) == {mask: photo}


def test_a_mask_of_two_photos_alike_belongs_to_none_and_a_photo_has_one_mask() -> None:
    assert masks_of(["masks/1.png"], {"left/1.jpg", "right/1.jpg"}) == {}
    assert masks_of(["masks/1.png", "masks_2/1.png"], {"images/1.jpg"}) == {"masks/1.png": "images/1.jpg"}


def test_white_counts_and_is_told(ingest: Ingest, tmp_path: Path) -> None:
    result = ingest(
        lay_out(tmp_path / "scene", [drawn((50 * n, 0, 50 * n + 40, 80), ground=255, ink=0) for n in range(4)])
    )
    assert result.metrics["photos_with_mask"] == 4
    assert not kept(result, "images/1.jpg")[10:70, 60:80].any()
    assert kept(result, "images/1.jpg")[100:].all()
    assert "4 photos count only where their masks are white" in told(result)["masks"]
    assert "companions" not in told(result)
    assert result.record["masks"] == {"cut_out": False}


def test_what_cuts_one_thing_out_of_everything_is_a_cut_out(ingest: Ingest, tmp_path: Path) -> None:
    result = ingest(lay_out(tmp_path / "scene", [drawn((120 + n, 80, 260, 220)) for n in range(4)]))
    assert result.record["masks"] == {"cut_out": True}
    assert "around it nothing is drawn" in told(result)["masks"]
    assert kept(result, "images/0.jpg")[100:200, 130:250].all()


def test_a_photo_that_its_mask_hides_as_a_whole_is_left_out_and_told(ingest: Ingest, tmp_path: Path) -> None:
    shown = [drawn((40 * at, 60, 40 * at + 200, 240)) for at in range(4)]
    result = ingest(lay_out(tmp_path / "scene", [*shown, drawn(None)]))
    assert result.metrics["photos"] == 4
    assert result.dropped == {"images/4.jpg": "hidden"}
    assert "hidden as a whole by their masks: images/4.jpg" in told(result)["photos_hidden"]
    # Nobody could have placed it.
    assert UPLOADED.of_metrics({"ingest": result.metrics}) == 4


def test_masks_that_are_all_the_same_hide_the_camera_and_cut_nothing_out(ingest: Ingest, tmp_path: Path) -> None:
    circle = Image.new("L", SIZE, 0)
    ImageDraw.Draw(circle).ellipse((50, 0, 350, 300), fill=255)
    assert ingest(lay_out(tmp_path / "scene", [circle] * 4)).record["masks"] == {"cut_out": False}


def test_a_thing_in_black_before_a_white_border_counts(ingest: Ingest, tmp_path: Path) -> None:
    masks = [drawn((120 + n, 60, 280, 240), ground=255, ink=0) for n in range(4)]
    result = ingest(lay_out(tmp_path / "scene", masks))
    assert kept(result, "images/0.jpg")[100:200, 150:250].all()
    assert not kept(result, "images/0.jpg")[:50].any()
    assert "where their masks are black" in told(result)["masks"]
    assert result.record["masks"] == {"cut_out": True}


def test_what_only_some_photos_show_in_white_is_what_does_not_count(ingest: Ingest, tmp_path: Path) -> None:
    people = [drawn(None), drawn((0, 0, 60, 90)), drawn(None), drawn((300, 50, 390, 200))]
    result = ingest(lay_out(tmp_path / "scene", people))
    assert not kept(result, "images/1.jpg")[:80, :50].any()
    assert kept(result, "images/1.jpg")[:, 100:].all()
    assert result.metrics["photos_with_mask"] == 2


@pytest.mark.parametrize("upright", [False, True], ids=["as stored", "upright"])
def test_a_mask_is_turned_with_its_photo_unless_it_is_upright_already(
    upright: bool, ingest: Ingest, tmp_path: Path
) -> None:
    folder = tmp_path / "scene"
    # Stored lying on its side: the upper left corner as stored is the upper right one as seen.
    masks = [drawn((0, 0, 99, 99), ground=255, ink=0) for _ in range(3)]
    if upright:
        masks = [mask.transpose(Image.Transpose.ROTATE_270) for mask in masks]
    lay_out(folder, masks)
    for number in range(3):
        photo = folder / "images" / f"{number}.jpg"
        save(photo, picture(number, *SIZE), {ExifTags.Base.Orientation: 6})
    mask = kept(ingest(folder), "images/0.jpg")
    assert mask.shape == (400, 300)
    assert not mask[:90, 210:].any()
    assert mask[110:].all()
    assert mask[:, :190].all()


@pytest.mark.parametrize(
    ("orientation", "stored_by"),
    [
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (6, Image.Transpose.ROTATE_90),
    ],
)
def test_a_mask_that_says_itself_how_it_lies_is_turned_once(
    orientation: int, stored_by: Image.Transpose, ingest: Ingest, tmp_path: Path
) -> None:
    upright = drawn((0, 0, 99, 99), (400, 300) if orientation < 5 else (300, 400), ground=255, ink=0)
    folder = lay_out(tmp_path / "scene", [upright] * 3)
    for number in range(3):
        exif = {ExifTags.Base.Orientation: orientation}
        save(folder / "images" / f"{number}.jpg", picture(number, *upright.size).transpose(stored_by), exif)
        save(folder / "masks" / f"{number}.png", upright.transpose(stored_by), exif)
    mask = kept(ingest(folder), "images/0.jpg")
    assert not mask[:95, :95].any()
    assert mask[105:].all()
    assert mask[:, 105:].all()


@pytest.mark.parametrize("upright", [False, True])
def test_masks_of_photos_on_their_heads_lie_as_the_others_do(upright: bool, ingest: Ingest, tmp_path: Path) -> None:
    other = drawn((0, 0, 9, 9), (300, 400), ground=255, ink=0)
    others = [other if upright else other.transpose(Image.Transpose.ROTATE_90)] * 2
    folder = lay_out(tmp_path / "scene", [drawn((0, 0, 99, 99), ground=255, ink=0), *others])
    for number, orientation in enumerate((3, 6, 8)):
        save(folder / "images" / f"{number}.jpg", picture(number, *SIZE), {ExifTags.Base.Orientation: orientation})
    mask = kept(ingest(folder), "images/0.jpg")
    assert mask.sum() == pytest.approx(120_000 - 10_000)
    assert bool(mask[:90, :90].any()) is not upright


@pytest.mark.parametrize("top", [0.999, 1.0, 255.0, 4095, 65535])
def test_a_mask_is_white_where_its_numbers_are_greatest(top: float, ingest: Ingest, tmp_path: Path) -> None:
    values = np.asarray(drawn((0, 0, 99, 99), ground=1, ink=0)) * np.asarray(top)
    mask = Image.fromarray(values.astype(np.float32 if isinstance(top, float) else np.uint16))
    result = ingest(lay_out(tmp_path / "scene", [mask] * 3, ".tif"))
    assert not kept(result, "images/0.jpg")[:98, :98].any()
    assert kept(result, "images/0.jpg")[102:].all()


def test_a_mask_of_another_size_is_scaled_and_one_of_another_shape_is_told(ingest: Ingest, tmp_path: Path) -> None:
    masks = [drawn((0, 0, 400, 99), (800, 600), ground=1, ink=0), *[drawn(None, (300, 300), ground=1)] * 3]
    result = ingest(lay_out(tmp_path / "scene", masks))
    assert not kept(result, "images/0.jpg")[:48, :198].any()
    assert kept(result, "images/0.jpg")[52:].all()
    assert result.metrics["photos_with_mask"] == 1
    assert "3 masks could not be used" in told(result)["masks_not_used"]


def test_a_mask_that_would_fill_the_memory_is_not_decoded(tmp_path: Path, ingest: Ingest) -> None:
    lay_out(tmp_path / "capture", [drawn((100, 100, 300, 200))] * 4)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 30_000, 8, 0, 0, 0, 0))
    picture_of_it = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    (tmp_path / "capture" / "masks" / "0.png").write_bytes(picture_of_it)
    words = told(ingest(tmp_path / "capture"))["masks_not_used"]
    assert "40000 x 30000 pixels take" in words


def test_maps_of_classes_and_damaged_masks_are_no_masks(ingest: Ingest, tmp_path: Path) -> None:
    classes = Image.fromarray(np.tile(np.arange(400, dtype=np.uint16) // 80, (300, 1)).astype(np.uint8))
    folder = lay_out(tmp_path / "scene", [classes] * 3)
    (folder / "masks" / "2.png").write_bytes((folder / "masks" / "2.png").read_bytes()[:60])
    result = ingest(folder)
    assert result.metrics["photos_with_mask"] == 0
    assert not (result.context.output / "masks").exists()
    assert "more than two values" in told(result)["masks_not_used"]


def test_what_alpha_hides_does_not_count(capture: Path, ingest: Ingest) -> None:
    image = picture(6, *SIZE).convert("RGBA")
    image.paste((9, 9, 9, 0), (200, 0, 400, 300))
    image.save(capture / "cut.png")
    result = ingest(capture)
    assert kept(result, "cut.png")[:, :198].all()
    assert not kept(result, "cut.png")[:, 202:].any()
    assert "the other 3 photos as a whole" in told(result)["masks"]


def test_without_masks_nothing_of_them_is_written(capture: Path, ingest: Ingest) -> None:
    result = ingest(capture)
    assert "masks" not in result.record
    assert not (result.context.output / "masks").exists()
    assert result.context.warnings == []
