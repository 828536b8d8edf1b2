"""Whatever a photo's bytes and its EXIF are, it becomes a picture or is left out."""

from __future__ import annotations

import io
import math
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from e2e3d_stages.ingest.exif import read_exif
from e2e3d_stages.ingest.pixels import Memory, TooLarge, Unreadable, decode, look

SIZE = (16, 12)
values: Any = st.one_of(
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.builds(IFDRational, st.integers(-10, 2**32), st.integers(0, 2**32)),
    st.lists(st.integers() | st.floats() | st.builds(IFDRational, st.integers(), st.integers(0, 5)), max_size=4).map(
        tuple
    ),
    st.none(),
)


def ifd(tags: Any) -> Any:
    """A directory of tags that are read, with values that need not fit them."""
    return st.dictionaries(st.sampled_from([int(tag) for tag in tags]), values, max_size=8)


@given(base=ifd(ExifTags.Base), detail=ifd(ExifTags.Base), gps=ifd(ExifTags.GPS))
def test_whatever_its_exif_says_figures_are_figures_or_none(base: Any, detail: Any, gps: Any) -> None:
    def read() -> Image.Exif:
        exif = Image.Exif()
        exif.update(base)
        exif.get_ifd(ExifTags.IFD.Exif).update(detail)
        exif.get_ifd(ExifTags.IFD.GPSInfo).update(gps)
        return exif

    found = read_exif(read, SIZE)
    for figure in (found.focal_mm, found.focal_px, *(found.gps.values() if found.gps else ())):
        assert figure is None or math.isfinite(figure)
    assert all(isinstance(word, str) and word.isprintable() for word in (found.make, found.model, found.lens))
    assert found.gps is None or (abs(found.gps["lat"]) <= 90 and abs(found.gps["lon"]) <= 180)


def photo(format_name: str) -> bytes:
    """A small photo with EXIF."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "A camera"
    exif[ExifTags.Base.Orientation] = 6
    file = io.BytesIO()
    Image.effect_noise(SIZE, 90).convert("RGB").save(file, format_name, exif=exif)
    return file.getvalue()


PHOTOS = {name: photo(name) for name in ("JPEG", "PNG", "TIFF", "WEBP")}


@given(data=st.data())
def test_a_photo_that_was_damaged_anywhere_is_a_picture_or_is_left_out(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(PHOTOS)))
    content = bytearray(PHOTOS[name])
    # What counts stands at the beginning.
    for place in data.draw(st.lists(st.integers(0, 99) | st.integers(0, len(content) - 1), max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    del content[data.draw(st.just(len(content)) | st.integers(0, len(content))) :]
    memory = Memory(1 << 28)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo"
        path.write_bytes(content)
        try:
            picture = decode(path, look(path, f"photo.{name.lower()}", memory), 8, memory)
        except (Unreadable, TooLarge):
            return
        assert max(picture.image.size) <= 8
        assert picture.image.mode == "RGB"
