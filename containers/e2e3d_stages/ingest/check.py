"""Whether photos and films can be read here."""

from __future__ import annotations

from io import BytesIO

import av
import pi_heif
import rawpy
from PIL import Image

from e2e3d_stages.contract.captures import PHOTO_FORMATS
from e2e3d_stages.ingest.pixels import FORMATS
from e2e3d_stages.runtime.checks import noise, versions


def check() -> str:
    """Every format of photos that is taken, and what films are coded as."""
    # Nothing here writes those.
    if not (pi_heif.libheif_info()["decoders"] and rawpy.libraw_version):
        raise RuntimeError("HEIC or raw photos cannot be decoded.")
    for code in ("h264", "hevc", "vp9", "libdav1d"):
        av.Codec(code, "r")
    for name in FORMATS:
        if name != "HEIF":
            file = BytesIO()
            noise().save(file, name)
            Image.open(file, formats=[name]).load()
    return versions("pillow", "numpy", "pi-heif", "rawpy", "av") + f", reads {' '.join(PHOTO_FORMATS)} and films"
