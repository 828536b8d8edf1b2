"""What of a photo does not count, by the mask beside it and by its own alpha.

White counts and black does not, as COLMAP, nerfstudio, OpenSplat and Brush have it, unless the masks of a capture make
sense only the other way round.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps

from e2e3d_stages.ingest.pixels import TURNS, Memory, Unreadable, decoding, opened

# Cells of the small pictures by which masks are judged, and how wide their border is.
CELLS, BORDER = 64, 3
# By how much a mask's shape may differ from its photo's: rounding of both.
SHAPE = 0.02
# Of a mask's pixels, those between black and white: what a soft edge has. Maps of classes have more.
MOST_BETWEEN = 0.1
# Of a mask, below which nothing is bright.
NOTHING = 0.002
# Of the masks, from which on what they say is no accident.
SOME, MOST, NEARLY_ALL = 0.3, 0.5, 0.9
# A thing in the middle takes as much of a photo.
LEAST_THING = 0.05
# What reading one takes, a pixel: of one byte, and of more.
GREY_BYTES, OTHER_BYTES = 8, 24

Values = npt.NDArray[np.uint8]
Kept = npt.NDArray[np.bool_]
Size = tuple[int, int]


@dataclass(frozen=True)
class Mask:
    """A mask as it was drawn, upright and as large as its photo.

    :param path: a grey picture.
    :param cells: the same in `CELLS` x `CELLS`.
    """

    path: Path
    cells: Values


@dataclass(frozen=True)
class Seen:
    """How a photo lies that has a mask.

    :param stored: its size in its file, in px.
    :param size: as it was prepared.
    :param orientation: by its EXIF.
    :param upright: whether the capture's masks are.
    """

    stored: Size
    size: Size
    orientation: int
    upright: bool = False


@dataclass(frozen=True)
class Reading:
    """How the masks of a capture are read.

    :param threshold: values above are bright.
    :param inverted: whether what is dark counts, and not what is bright.
    """

    threshold: float
    inverted: bool

    def kept(self, values: Values) -> Kept:
        """What counts."""
        return (values > self.threshold) ^ self.inverted


def are_upright(shapes: Iterable[tuple[Path, Size, Size]]) -> bool:
    """Whether the program that drew the masks of a capture turned its photos upright before.

    Of a photo that is turned by a quarter its mask tells, of one that stands on its head it does not.

    :param shapes: of each mask its file, and its photo's size as it is stored and as it is seen.
    """
    votes = []
    for path, stored, seen in shapes:
        if not _alike(stored, seen):
            with suppress(Unreadable), decoding(), path.open("rb") as file, opened(file) as image:
                votes.append(_alike(image.size, seen))
    return sum(votes) > len(votes) / 2


def load(path: Path, photo: Seen, target: Path, memory: Memory) -> Mask:
    """Write a mask as its photo is to be seen.

    One of the shape that the photo is stored in is turned as the photo is; one that is upright already, also by an EXIF
    of its own, is left.

    :raises Unreadable: when it is damaged, of another shape, or has more than two values.
    :raises TooLarge: when it takes more memory than there is.
    """
    with decoding(), path.open("rb") as file, opened(file) as image, memory.of(image.size, _bytes_of(image)):
        upright = photo.upright or image.getexif().get(ExifTags.Base.Orientation) in TURNS
        grey = _grey(ImageOps.exif_transpose(image))
        if _alike(grey.size, photo.stored) and not (upright and _alike(grey.size, photo.size)):
            grey = grey.transpose(TURNS[photo.orientation]) if photo.orientation in TURNS else grey
        elif not _alike(grey.size, photo.size):
            raise Unreadable(f"its shape, {grey.width} x {grey.height}, is not the photo's")
        values = np.asarray(grey)
        top = int(values.max())
        if np.mean((values > top / 4) & (values < 3 * top / 4)) > MOST_BETWEEN:
            raise Unreadable("it has more than two values, as maps of classes have")
        cells = np.asarray(grey.resize((CELLS, CELLS), Image.Resampling.BOX))
        prepared = grey.resize(photo.size, Image.Resampling.BOX)
    prepared.save(target)
    return Mask(target, cells)


def _bytes_of(image: Image.Image) -> int:
    return image.width * image.height * (GREY_BYTES if image.mode in ("1", "L") else OTHER_BYTES)


def _grey(image: Image.Image) -> Image.Image:
    if image.mode[0] in "IF":
        values = np.nan_to_num(np.asarray(image, np.float32)).clip(0, 65535)
        top = float(values.max())
        brightest = top if top > 255 or image.mode == "F" else 255
        return Image.fromarray((values * (255 / max(brightest, 1e-6)) + 0.5).astype(np.uint8))
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
        if alpha.getextrema()[0] != alpha.getextrema()[1]:
            return alpha
    return image.convert("L")


def _alike(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return bool(abs(np.log(one[0] / one[1] * other[1] / other[0])) <= SHAPE)


def reading_of(masks: Sequence[Values]) -> Reading:
    """How to read the masks of a capture, by their cells.

    Dark counts where a third of the masks would leave nothing of their photos, as where only a few photos show what
    was to be hidden, and the others don't show something in their middle; and where nearly all would leave
    everything but a thing in the middle.
    """
    threshold = max(int(cells.max()) for cells in masks) / 2
    bright = [cells > threshold for cells in masks]
    shown = [each for each in bright if each.mean() > NOTHING]
    empty = 1 - len(shown) / len(bright)
    if empty == 1:
        return Reading(threshold, inverted=True)
    centred = float(np.mean([_middle(each) > MOST for each in shown]))
    around = [_border(each) > NEARLY_ALL and _middle(each) < 1 - NEARLY_ALL for each in bright]
    hollow = float(np.mean([ring and each.mean() < 1 - LEAST_THING for ring, each in zip(around, bright, strict=True)]))
    return Reading(threshold, inverted=(empty >= SOME and centred < MOST) or hollow >= NEARLY_ALL)


def is_cut_out(kept: Sequence[Kept], photos: int) -> bool:
    """Whether masks cut one thing out of everything around it: then what they hide is empty, and not just unknown.

    Of most photos the mask hides most of the border. Masks that are all the same hide a part of the camera, or what
    its lens does not show.

    :param kept: cells of the masks.
    :param photos: how many there are, also without masks.
    """
    if len(kept) < MOST * photos:
        return False
    same = np.mean([np.array_equal(each, kept[0]) for each in kept[1:]]) if len(kept) > 1 else 0
    return bool(same < NEARLY_ALL and np.median([_border(each) for each in kept]) < MOST)


def _border(cells: Kept) -> float:
    inner = np.ones(cells.shape, bool)
    inner[BORDER:-BORDER, BORDER:-BORDER] = False
    return float(cells[inner].mean())


def _middle(cells: Kept) -> float:
    quarter = slice(3 * CELLS // 8, 5 * CELLS // 8)
    return float(cells[quarter, quarter].mean())
