"""Tiny films with the time stamps, the rotation and the colours that a test asks for."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

PLAIN = {"codec": "libx264", "pixels": "yuv420p", "options": {"preset": "ultrafast", "crf": "12", "bf": "0"}}
DEEP = {
    "codec": "libx265",
    "pixels": "yuv420p10le",
    "options": {"preset": "ultrafast", "x265-params": "log-level=none:bframes=0:lossless=1"},
}


def walk(
    count: int, step: int = 8, size: tuple[int, int] = (400, 300), seed: int = 0, detail: int = 25
) -> list[Image.Image]:
    """What a camera sees that goes along a wall, `step` pixels from picture to picture.

    :param detail: size of what is on the wall, in px.
    """
    shape = (size[1] // detail, (size[0] + count * step) // detail, 3)
    cells = np.random.default_rng(seed).integers(0, 255, shape, np.uint8)
    wall = Image.fromarray(cells).resize((size[0] + count * step, size[1]), Image.Resampling.BICUBIC)
    return [wall.crop((at * step, 0, at * step + size[0], size[1])) for at in range(count)]


def film(
    path: Path,
    pictures: Sequence[Image.Image | np.ndarray],
    times: Sequence[float] | None = None,
    *,
    kind: Mapping[str, Any] = PLAIN,
    rotation: int = 0,
    colours: tuple[int, int, int] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a film.

    :param pictures: pictures, or values of 16 bits.
    :param times: in seconds; 20 a second when not given.
    :param rotation: by which a player turns it, in degrees counter-clockwise.
    :param colours: primaries, transfer and matrix, by their numbers in ITU-T H.273.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = [np.asarray(picture) for picture in pictures]
    stamps = [round(1000 * time) for time in (times or [place / 20 for place in range(len(arrays))])]
    with av.open(str(path), "w", options={"movflags": "use_metadata_tags"} if path.suffix != ".webm" else {}) as out:
        stream = out.add_stream(kind["codec"], rate=20, options=dict(kind["options"]))
        stream.height, stream.width = arrays[0].shape[:2]
        stream.pix_fmt = kind["pixels"]
        stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        primaries, transfer, matrix = colours or (1, 1, 6)
        stream.codec_context.color_primaries = primaries
        stream.codec_context.color_trc = transfer
        stream.codec_context.colorspace = matrix
        out.metadata.update(metadata or {})
        for values, stamp in zip(arrays, stamps, strict=True):
            frame = av.VideoFrame.from_ndarray(values, format="rgb24" if values.dtype == np.uint8 else "rgb48le")
            frame = frame.reformat(format=kind["pixels"], dst_colorspace={6: 5, 2: 1}.get(matrix, matrix))
            frame.color_primaries, frame.color_trc = primaries, transfer
            frame.pts, frame.time_base = stamp, Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def with_data(path: Path, tag: bytes, packets: Sequence[bytes], seconds: float) -> Path:
    """Add a track of data to an MP4 whose `moov` is its last box (ISO/IEC 14496-12, 8).

    :param tag: four letters that say what the data are.
    :param seconds: that a packet lasts.
    """
    film = path.read_bytes()
    at = film.rindex(b"moov") - 4
    assert at + int.from_bytes(film[at : at + 4], "big") == len(film)
    length = round(1000 * seconds)
    told = struct.pack(">IIII", 0, 0, 1000, length * len(packets))
    header = _box(b"tkhd", bytes(3) + b"\3" + struct.pack(">IIIII", 0, 0, 9, 0, length * len(packets)) + bytes(60))

    def track(offset: int) -> bytes:
        sizes = b"".join(struct.pack(">I", len(packet)) for packet in packets)
        table = _box(b"stsd", bytes(4) + struct.pack(">I", 1) + _box(tag, bytes(6) + b"\0\1"))
        table += _box(b"stts", bytes(4) + struct.pack(">III", 1, len(packets), length))
        table += _box(b"stsc", bytes(4) + struct.pack(">IIII", 1, 1, len(packets), 1))
        table += _box(b"stsz", bytes(4) + struct.pack(">II", 0, len(packets)) + sizes)
        table += _box(b"stco", bytes(4) + struct.pack(">II", 1, offset))
        where = _box(b"dinf", _box(b"dref", bytes(4) + struct.pack(">I", 1) + _box(b"url ", b"\0\0\0\1")))
        inside = _box(b"minf", _box(b"nmhd", bytes(4)) + where + _box(b"stbl", table))
        kind = _box(b"hdlr", bytes(8) + b"meta" + bytes(13))
        media = _box(b"mdia", _box(b"mdhd", bytes(4) + told + b"\x55\xc4\0\0") + kind + inside)
        return _box(b"trak", header + media)

    movie = film[at + 8 :]
    offset = at + 8 + len(movie) + len(track(0)) + 8
    path.write_bytes(film[:at] + _box(b"moov", movie + track(offset)) + _box(b"mdat", b"".join(packets)))
    return path


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content
