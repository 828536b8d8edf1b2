"""Photo, render and difference as small JPEGs that can be looked at side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.float32]

JPEG_QUALITY = 82
THUMBNAIL_WIDTH = 960
THUMBNAIL_ASPECT = 16 / 9
# A mean difference of the channels of this much (of 1) is shown in the brightest colour.
FULL_DIFFERENCE = 0.25
_HEAT = np.array([[8, 10, 18], [88, 24, 92], [214, 62, 64], [252, 186, 72], [255, 252, 226]]) / 255


def read_photo(path: Path) -> Image.Image:
    """A photo as RGB."""
    with Image.open(path) as file:
        photo: Image.Image = file.convert("RGB")
    return photo


def resized(photo: Image.Image, width: int, height: int) -> Picture:
    """A photo scaled to that size: (height, width, 3) in 0 to 1."""
    if photo.size != (width, height):
        photo = photo.resize((width, height), Image.Resampling.LANCZOS)
    picture: Picture = np.asarray(photo).astype(np.float32)
    picture /= 255
    return picture


def scaled(picture: Picture, width: int, height: int) -> Picture:
    """A render, float32 in 0 to 1, scaled as `resized` does with photos."""
    if picture.shape[:2] == (height, width):
        return picture
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in picture.transpose(2, 0, 1)]
    smaller = [np.asarray(plane.resize((width, height), Image.Resampling.LANCZOS)) for plane in planes]
    return np.stack(smaller, axis=2).clip(0, 1)


def blurred(photo: Picture) -> Picture:
    """The photo scaled to a quarter of its size and back: a picture without detail that scores well all the same."""
    image = _image(photo)
    width, height = image.size
    small = image.resize((max(1, width // 4), max(1, height // 4)), Image.Resampling.BOX)
    return resized(small.resize((width, height), Image.Resampling.BICUBIC), width, height)


def difference(render: Picture, photo: Picture) -> Picture:
    """Where two pictures differ: black where they are equal, over violet and orange to white at `FULL_DIFFERENCE`."""
    error = np.abs(render - photo).mean(axis=2) / FULL_DIFFERENCE
    stops = np.linspace(0, 1, len(_HEAT))
    return np.stack([np.interp(error, stops, _HEAT[:, channel]) for channel in range(3)], axis=2).astype(np.float32)


def save(picture: Picture, path: Path, long_side: int) -> None:
    """Write a picture in 0 to 1 as JPEG, no larger than that."""
    image = _image(picture)
    image.thumbnail((long_side, long_side), Image.Resampling.LANCZOS)
    image.save(path, quality=JPEG_QUALITY, optimize=True)


def save_thumbnail(picture: Picture, path: Path) -> None:
    """Write the middle of a picture as a wide JPEG."""
    image = _image(picture)
    width = min(image.width, int(image.height * THUMBNAIL_ASPECT))
    height = min(image.height, int(width / THUMBNAIL_ASPECT))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    image = image.crop((left, top, left + width, top + height))
    image.thumbnail((THUMBNAIL_WIDTH, THUMBNAIL_WIDTH), Image.Resampling.LANCZOS)
    image.save(path, quality=JPEG_QUALITY, optimize=True)


def _image(picture: Picture) -> Image.Image:
    return Image.fromarray((picture.clip(0, 1) * 255 + 0.5).astype(np.uint8))
