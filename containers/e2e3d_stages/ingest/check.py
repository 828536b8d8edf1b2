"""Whether photos can be read here."""

from __future__ import annotations

from io import BytesIO

from PIL import Image

from e2e3d_stages.ingest.stage import FORMATS
from e2e3d_stages.runtime.checks import noise, versions


def check() -> str:
    """Every format of photos that is taken."""
    for name in FORMATS:
        file = BytesIO()
        noise().save(file, name)
        Image.open(file, formats=[name]).load()
    return versions("pillow", "numpy") + f", reads {' '.join(FORMATS)}"
