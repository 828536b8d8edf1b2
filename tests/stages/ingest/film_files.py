"""Tiny films with the time stamps, the rotation and the colours that a test asks for."""

from __future__ import annotations

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
