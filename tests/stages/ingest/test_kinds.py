"""What lies in a capture, by content where it is at hand and by name where it is not."""

from __future__ import annotations

import io
import unicodedata
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingest_photos import Ingest, picture, save
from PIL import Image

from e2e3d_stages.contract.captures import (
    Kind,
    companions,
    films_of_photos,
    format_of,
    kind_by_name,
    kind_of,
    kinds_of,
    masks_of,
)


def jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    picture(seed).save(file, "JPEG")
    return file.getvalue()


def sources(result: object) -> set[str]:
    return {photo["source"] for photo in result.record["photos"]}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "name", ["dji_fly_20230207_0_photo_optimized", "a.jfif", "b.HEIC", "c.jpe", "d.jpg_original", "e.2023", "f.png"]
)
def test_a_photo_is_one_whatever_it_is_called(name: str, capture: Path, ingest: Ingest) -> None:
    (capture / name).write_bytes(jpeg(7))
    assert name in sources(ingest(capture))


@pytest.mark.parametrize(
    "name",
    ["Thumbs.db", "desktop.ini", "notes.txt", "flight.SRT", "log", "IMG_1.xmp", "IMG_1.aae", "GX01.THM", "a.kmz"],
)
def test_side_files_neither_warn_nor_condemn(name: str, capture: Path, ingest: Ingest) -> None:
    content = {"GX01.THM": jpeg(8), "a.kmz": b"PK\x03\x04 and so on"}.get(name, b"\0 something else")
    (capture / name).write_bytes(content)
    result = ingest(capture)
    assert result.context.warnings == []
    assert (result.metrics["photos"], result.metrics["other_files"]) == (3, 1)


def test_a_live_photos_film_is_passed_over_and_any_other_is_told(capture: Path, ingest: Ingest) -> None:
    (capture / "IMG_1.MOV").write_bytes(b"\0\0\0\x14ftypqt  " + bytes(100))
    (capture / "walk.MOV").write_bytes(b"\0\0\0\x14ftypqt  " + bytes(100))
    result = ingest(capture)
    assert result.dropped == {"walk.MOV": "unreadable"}
    assert "IMG_1.MOV" not in result.context.warnings[0].message


LAYOUTS = {
    "nerfstudio": (["images/f_1.png"], ["images_2/f_1.png", "images_8/f_1.png", "masks/f_1.png", "masks_2/f_1.png"]),
    "COLMAP": (["images/a/1.jpg"], ["masks/a/1.jpg.png", "depth_maps/a/1.jpg.png"]),
    "COLMAP, beside": (["1.jpg"], ["1.jpg.png"]),
    "Polycam": (
        ["keyframes/images/17.jpg"],
        ["keyframes/corrected_images/17.jpg", "keyframes/depth/17.png", "keyframes/confidence/17.png"],
    ),
    "OpenSplat": (["images/1.jpg"], ["segmentation/1.png", "dynamic_masks/1.png"]),
    "NeuS": (["image/000.png"], ["mask/000.png"]),
    "beside them": (["a/x.jpg", "a/y_1.tif"], ["a/x_mask.png", "a/y_1.mask.png", "a/y_1_depth.tif", "a/x-normal.png"]),
    "Mip-NeRF 360 without the originals": (["images_2/1.jpg"], ["images_4/1.jpg", "images_8/1.jpg"]),
    "in a folder of the scene": (["mask/images/1.jpg"], ["mask/masks/1.png"]),
    "Synology": (["1.jpg"], ["@eaDir/1.jpg"]),
    "words of other folders": (
        ["images/1.jpg", "images/2.jpg"],
        ["segmentation_masks/1.png", "fg_mask/2.png", "silhouettes/1.png", "alpha/1.png", "lidar_depth/1.png"],
    ),
    "words of tools": (
        ["images/1.jpg", "images/2.jpg", "images/3.jpg"],
        ["sam2/1.png", "seg/2.png", "fg/1.png", "disp/1.png", "omni_normal/2.png", "uncertainty/1.png"]
        + ["images/1_disp.png", "images/2-disparity.png"],
    ),
    "words of folders, which are not all": (
        ["images/1.jpg", "images/2.jpg"],
        ["images_mask/1.png", "depth16/1.png", "previews/2.jpg", "_mask/1.jpg"],
    ),
    "instant-ngp": (["images/0001.jpg"], ["images/dynamic_mask_0001.png"]),
    "Blender": (["test/r_0.png"], ["test/r_0_depth_0001.png", "test/r_0_normal_0001.png"]),
    "7-Scenes": (["s/frame-0.color.png", "s/frame-1.color.png"], ["s/frame-0.depth.png", "s/frame-1.depth.png"]),
    "Replica": (["results/frame00000.jpg"], ["results/depth00000.png"]),
    "of ARKit": (["frame_00001.jpg"], ["depth_00001.png", "conf_00001.png"]),
    "BlendedMVS": (["blended_images/0.jpg"], ["blended_images/0_masked.jpg", "rendered_depth_maps/0.png"]),
    "folders that only sound so": (
        ["street/1.jpg", "face mask shop/7.jpg", "face mask/images/1.jpg", "Sam/8.jpg", "fg/9.jpg"],
        [],
    ),
    "names that only sound so": (["house_mask.jpg", "mask of Zorro 2.jpg", "depth_1.jpg", "deep/depth 3.jpg"], []),
    "raw and JPEG of one camera": (["DSC1.JPG"], ["DSC1.NEF"]),
    "photos of a mask": (["mask/1.jpg", "mask/2.jpg"], []),
    "folders of other names": (["images_1/1.jpg", "images_2/7.jpg", "unmasked/1.jpg", "depths of sea/9.jpg"], []),
    "a raw photo alone": (["DSC1.NEF", "DSC2.JPG"], []),
    "a mask of another": (["x.jpg", "z_mask.png"], []),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_companions_of_photos_are_told_from_photos(layout: str) -> None:
    photos, beside = LAYOUTS[layout]
    assert set(companions([*photos, *beside])) == set(beside)


def test_companions_are_told_in_one_line_and_are_not_dropped(capture: Path, ingest: Ingest, tmp_path: Path) -> None:
    capture.rename(tmp_path / "images")
    (tmp_path / "scene").mkdir()
    (tmp_path / "images").rename(tmp_path / "scene" / "images")
    for photo in sorted((tmp_path / "scene" / "images").iterdir()):
        save(tmp_path / "scene" / "masks" / f"of_{photo.name}.png", picture(3).convert("1"))
        save(tmp_path / "scene" / "depth" / f"{photo.stem}.png", picture(4).convert("L"))
        save(tmp_path / "scene" / "images_2" / photo.name, Image.open(photo).resize((200, 150)))
    result = ingest(tmp_path / "scene")
    assert sources(result) == {"images/IMG_1.jpg", "images/IMG_2.jpg", "images/IMG_10.jpg"}
    assert result.dropped == {}
    (told,) = result.context.warnings
    assert told.message.endswith("not taken for photos: 3 copies at another size, 3 depth maps, 3 masks.")


def test_a_zip_in_a_folder_and_a_zip_in_a_zip_are_opened(capture: Path, ingest: Ingest, tmp_path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as bundle:
        bundle.writestr("DCIM/IMG_5.jpg", jpeg(5))
        bundle.writestr("DCIM/IMG_5.txt", "notes")
    with zipfile.ZipFile(capture / "more.zip", "w") as bundle:
        bundle.writestr("IMG_4.jpg", jpeg(4))
        bundle.writestr("inner.zip", inner.getvalue())
    result = ingest(capture)
    assert {"more.zip/IMG_4.jpg", "more.zip/inner.zip/DCIM/IMG_5.jpg"} <= sources(result)
    assert result.context.warnings == []


def test_a_zip_three_deep_is_told_and_not_opened(capture: Path, ingest: Ingest) -> None:
    content = jpeg(5)
    for name in ("IMG_5.jpg", "c.zip", "b.zip"):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as bundle:
            bundle.writestr(name, content)
        content = file.getvalue()
    (capture / "a.zip").write_bytes(content)
    assert ingest(capture).dropped == {"a.zip/b.zip/c.zip": "unreadable"}


def test_an_archive_that_is_no_zip_says_what_to_do(capture: Path, ingest: Ingest) -> None:
    (capture / "more.rar").write_bytes(b"Rar!\x1a\x07\x01\0" + bytes(3000))
    result = ingest(capture)
    assert result.dropped == {"more.rar": "unsupported_format"}
    assert result.record["dropped"][0]["detail"].startswith("RAR is not opened: pack it as a zip")


@pytest.mark.parametrize("head", [b"GIF89a", b"8BPS\0\1", b"\0\0\0\x0cJXL \r\n"], ids=["GIF", "PSD", "JPEG XL"])
@pytest.mark.parametrize("suffix", ["jpg", "mp4"])
def test_what_is_not_of_the_kind_that_its_name_says_is_told_so(
    suffix: str, head: bytes, capture: Path, ingest: Ingest
) -> None:
    (capture / f"a.{suffix}").write_bytes(head + bytes(3000))
    (dropped,) = ingest(capture).record["dropped"]
    assert dropped["reason"] == "unsupported_format"
    assert dropped["detail"] == f"It is no {suffix.upper()}, whatever its name says: export it as JPEG."


def test_a_jpeg_of_an_odd_kind_says_what_to_do(capture: Path, ingest: Ingest) -> None:
    twelve_bits = bytearray(jpeg(7))
    twelve_bits[twelve_bits.index(b"\xff\xc0") + 4] = 12
    (capture / "a.jpg").write_bytes(twelve_bits)
    (dropped,) = ingest(capture).record["dropped"]
    assert dropped["detail"] == "damaged, or JPEG of a kind that is not read: export it as an ordinary JPEG"


@pytest.mark.parametrize(("photo", "beside"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_the_same_however_their_accents_are_written(photo: str, beside: str) -> None:
    name, other = (unicodedata.normalize(form, "Fassade/Größé") for form in (photo, beside))
    photos = [f"images/{name}.jpg"]
    mask = f"masks/{other}.png"
    assert companions([*photos, mask]) == {mask: "masks"}
    assert masks_of([mask], photos) == {mask: photos[0]}
    assert films_of_photos([f"images/{other}.mov"], photos) == {f"images/{other}.mov"}


def test_a_broken_zip_beside_photos_costs_only_itself(capture: Path, ingest: Ingest) -> None:
    (capture / "more.zip").write_bytes(b"PK\x03\x04 and then nothing")
    assert ingest(capture).dropped == {"more.zip": "unreadable"}


@pytest.mark.parametrize(
    "name", ["scan.{:03}", "Photo 12.05.2024 10.11.{:02}", "IMG_{}.JPG.{}", "{}.jpg?size=3000&n={}", "IMG_1.jpg ({})"]
)
def test_of_a_listing_photos_whose_names_end_in_numbers_are_counted(name: str) -> None:
    sizes = {name.format(number, number): 50_000 for number in range(50)}
    kinds = kinds_of(sizes, lambda _path: b"\xff\xd8\xff")
    assert list(kinds.values()).count(Kind.PHOTO) == 50


def test_of_a_listing_few_files_are_looked_into_and_markers_are_no_photos() -> None:
    names = [f"dji_{number}_photo" for number in range(500)]
    sizes = {**dict.fromkeys(names, 50_000), "_DONE": 0, "README": 300, "clip.xyz": 9000, "more.zip": 5000}
    asked: list[str] = []

    def head(path: str) -> bytes:
        asked.append(path)
        return b"\xff\xd8\xff" if path.startswith("dji") else b"text"

    kinds = kinds_of(sizes, head)
    assert {path for path, kind in kinds.items() if kind is Kind.PHOTO} == set(names)
    assert kinds["more.zip"] is Kind.ARCHIVE
    assert len(asked) == 2


steps = st.sampled_from(
    ["images", "masks", "mask", "depth", "images_2", "images_4", "a", "..", "", ".x", "x_mask", "1", "x.jpg", "é\udce9"]
    + ["fg masks", "mask_1", "depth1", "normal", "1_masked", "1_depth_1", "alpha", "1.color"]
)
paths = st.builds(
    lambda folders, stem, suffix: "/".join([*folders, stem + suffix]),
    st.lists(steps, max_size=3),
    st.text(max_size=5) | steps,
    st.sampled_from(["", ".jpg", ".JPG", ".png", ".jpg.png", ".NEF", ".mov", ".zip", ".txt", "."]),
)


@pytest.mark.slow
@given(st.lists(paths, max_size=12, unique=True), st.binary(max_size=70))
def test_whatever_the_names_are_something_is_a_photo_where_anything_could_be(names: list[str], head: bytes) -> None:
    found = companions(names)
    assert set(found) <= set(names)
    # Companions have something that they accompany.
    assert not names or set(found) < set(names)
    kinds = kinds_of(dict.fromkeys(names, 5000), lambda _path: head)
    assert set(kinds) <= set(names)
    assert films_of_photos(names, names) == set(names)
    for name in names:
        assert kind_by_name(name) in (None, *Kind)
        assert kind_of(name, head) in Kind
    assert isinstance(format_of(head), str)
