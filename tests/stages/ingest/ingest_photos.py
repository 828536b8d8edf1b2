"""Tiny photos with the EXIF that a test asks for, and what a run of the stage leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from e2e3d_stages.runtime.context import StageContext


def picture(seed: int, width: int = 400, height: int = 300) -> Image.Image:
    """A photo like no other: coarse random colours."""
    cells = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)


def save(
    path: Path,
    image: Image.Image,
    base: dict[int, Any] | None = None,
    detail: dict[int, Any] | None = None,
    gps: dict[int, Any] | None = None,
) -> Path:
    """Write a photo with EXIF: main, Exif and GPS tags."""
    exif = Image.Exif()
    exif.update(base or {})
    exif.get_ifd(ExifTags.IFD.Exif).update(detail or {})
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(gps or {})
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif.tobytes())
    return path


@dataclass
class Ingested:
    """What a run of the stage left."""

    context: StageContext
    metrics: dict[str, Any]
    record: dict[str, Any]

    def photo(self, source: str) -> dict[str, Any]:
        """The record of one photo."""
        return next(photo for photo in self.record["photos"] if photo["source"] == source)

    def image(self, source: str) -> Image.Image:
        """The prepared photo."""
        return Image.open(self.context.output / "images" / self.photo(source)["name"])

    @property
    def dropped(self) -> dict[str, str]:
        """Reason by file."""
        return {item["source"]: item["reason"] for item in self.record["dropped"]}


Ingest = Callable[..., Ingested]
