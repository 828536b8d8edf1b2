"""Prepare a capture's photos: upright, resized, without EXIF, and a record of what their EXIF said."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from statistics import median
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from e2e3d_stages.contract.captures import NOT_A_PHOTO
from e2e3d_stages.contract.messages import Refused, UnreadableCapture
from e2e3d_stages.ingest.capture import list_capture
from e2e3d_stages.ingest.exif import Exif, read_exif
from e2e3d_stages.ingest.params import Params
from e2e3d_stages.ingest.poses import refuse_turned, take_poses
from e2e3d_stages.runtime.context import StageContext
from e2e3d_stages.store.captures import UNSAFE_NAME, Source

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")
JPEG_QUALITY = 95
# EXIF orientation to what turns the stored picture upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MIN_PHOTOS = 3
BLUR_SIZE = 500
# Each worker holds one decoded photo, up to half a gigabyte at Pillow's own pixel limit.
MAX_WORKERS = 8
NAMED_IN_WARNING = 10
REASONS = {
    "unreadable": "cannot be read",
    "duplicate": "are copies of other photos",
    "too_small": "are too small",
    "too_large": "have too many pixels",
    "outside": "are links to files outside the capture",
    UNSAFE_NAME: "have names that no file can have",
    "unsupported_format": "are in a format that is not supported",
    NOT_A_PHOTO: "are no photos",
}


@dataclass(frozen=True)
class Prepared:
    """One photo, ready under a temporary name."""

    source: str
    path: Path
    content: str
    pixels: str
    width: int
    height: int
    focal_px: float | None
    blur: float
    exif: Exif


def run(context: StageContext) -> dict[str, Any]:
    """Write `images/` and `photos.json`; also `poses/`, the capture's own COLMAP model, when there is to be one.

    :return: counts of photos given, usable and dropped, cameras, photos with GPS and focal length, median blur score.
    :raises UnreadableCapture: fewer than three usable photos, a zip that is refused, or poses that cannot fit.
    """
    assert context.capture is not None
    sources, dropped = list_capture(context.capture, context.scratch)
    if context.params.poses:
        take_poses(context.capture, context.params.poses, context.output / "poses")
        dropped = [item for item in dropped if not item.source.startswith(f"{context.params.poses}/")]
    prepared = []
    seen: dict[str, str] = {}
    for done, result in enumerate(_prepare_all(context, sources), start=1):
        context.progress(done, len(sources), "photos", phase="preparing photos")
        if isinstance(result, Prepared):
            result = _refuse_copy(result, seen)
        if isinstance(result, Prepared):
            prepared.append(result)
        else:
            dropped.append(result)
    if len(prepared) < MIN_PHOTOS:
        raise _too_few(prepared, dropped)
    if context.params.poses:
        refuse_turned(prepared)
    _warn_about(dropped, context)
    return _write(context, prepared, dropped)


def _prepare_all(context: StageContext, sources: list[Source]) -> Iterator[Prepared | Refused]:
    """Results in the sources' order; Pillow works outside Python's lock, so that threads are enough."""
    pool = ThreadPoolExecutor(min(context.threads, MAX_WORKERS))
    folder = context.scratch / "prepared"
    folder.mkdir()
    try:
        targets = [folder / f"{place}.jpg" for place in range(len(sources))]
        for result in pool.map(lambda source, target: prepare(source, target, context.params), sources, targets):
            context.check_stop()
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def prepare(source: Source, target: Path, params: Params) -> Prepared | Refused:
    """Read one photo and write it upright, resized and without EXIF to `target`."""
    try:
        with source.path.open("rb") as file:
            content = _file_digest(file)
            file.seek(0)
            with Image.open(file, formats=FORMATS) as stored:
                if max(stored.size) < params.min_size:
                    return Refused(source.name, "too_small", f"{stored.width} x {stored.height} pixels")
                exif = read_exif(stored)
                stored_long = max(stored.size)
                image = _resized(stored, exif.orientation, params.max_size)
    except Image.DecompressionBombError as error:
        return Refused(source.name, "too_large", str(error))
    except UnidentifiedImageError:
        return Refused(source.name, "unreadable", f"damaged, or none of {', '.join(FORMATS)}")
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises whatever a decoder stumbled over
        return Refused(source.name, "unreadable", str(error) or type(error).__name__)
    image.save(target, "JPEG", quality=JPEG_QUALITY)
    scale = max(image.size) / stored_long
    return Prepared(
        source=source.name,
        path=target,
        content=content,
        pixels=hashlib.sha256(image.tobytes()).hexdigest(),
        width=image.width,
        height=image.height,
        focal_px=exif.focal_px * scale if exif.focal_px else None,
        blur=blur_score(image),
        exif=exif,
    )


def _file_digest(file: Any) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(2**20):
        digest.update(chunk)
    return digest.hexdigest()


def _resized(image: Image.Image, orientation: int, max_size: int) -> Image.Image:
    """The photo upright in 8-bit RGB, its longest side at most `max_size`."""
    long_side = min(max_size, max(image.size))
    # JPEG can be decoded at a half or a quarter of its size for a fraction of the time and memory.
    image.draft("RGB", (2 * max_size, 2 * max_size))
    if image.mode.startswith("I"):
        # 16-bit greyscale: Pillow would clip it instead of scaling it.
        image = Image.fromarray((np.asarray(image, np.float32) / 257).clip(0, 255).astype(np.uint8))
    upright = image.convert("RGB")
    if orientation in TURNS:
        upright = upright.transpose(TURNS[orientation])
    scale = long_side / max(upright.size)
    size = (max(1, round(upright.width * scale)), max(1, round(upright.height * scale)))
    if upright.size != size:
        upright = upright.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    upright.info.clear()
    return upright


def blur_score(image: Image.Image) -> float:
    """Variance of the Laplacian of the grey photo, scaled so that its longest side has 500 pixels; low is blurred."""
    scale = BLUR_SIZE / max(image.size)
    size = (max(3, round(image.width * scale)), max(3, round(image.height * scale)))
    grey = np.asarray(image.convert("L").resize(size, Image.Resampling.BOX), np.float32)
    neighbours = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return round(float(np.var(neighbours - 4 * grey[1:-1, 1:-1])), 2)


def _refuse_copy(photo: Prepared, seen: dict[str, str]) -> Prepared | Refused:
    """A second copy adds no view; the first in natural order stays."""
    original = seen.get(photo.content) or seen.get(photo.pixels)
    if original is None:
        seen[photo.content] = seen[photo.pixels] = photo.source
        return photo
    photo.path.unlink()
    same = "file" if photo.content in seen else "picture"
    return Refused(photo.source, "duplicate", f"The same {same} as {original}.")


def _too_few(prepared: list[Prepared], dropped: list[Refused]) -> UnreadableCapture:
    usable = ", ".join(photo.source for photo in prepared) or "none"
    named = dropped[:NAMED_IN_WARNING]
    reasons = "; ".join(f"{item.source}: {item.reason.replace('_', ' ')} ({item.detail})" for item in named)
    return UnreadableCapture(
        f"Only {len(prepared)} of {len(prepared) + len(dropped)} files are usable photos (usable: {usable})."
        + (f" Left out: {reasons}." if reasons else ""),
        hint=f"A scene needs at least {MIN_PHOTOS} photos, better 30, taken all around it with much overlap.",
        details={
            "usable": [photo.source for photo in prepared],
            "dropped": [vars(item) for item in dropped],
        },
    )


def _warn_about(dropped: list[Refused], context: StageContext) -> None:
    for reason, count in Counter(item.reason for item in dropped).items():
        names = [item.source for item in dropped if item.reason == reason]
        more = f" and {count - NAMED_IN_WARNING} more" if count > NAMED_IN_WARNING else ""
        context.warn(
            f"photos_{reason}",
            f"{count} {'file was' if count == 1 else 'files were'} left out because they {REASONS[reason]}: "
            f"{', '.join(names[:NAMED_IN_WARNING])}{more}.",
            "Nothing to do if that is intended; otherwise export or upload these files again.",
        )


def _write(context: StageContext, prepared: list[Prepared], dropped: list[Refused]) -> dict[str, Any]:
    folder = context.output / "images"
    folder.mkdir()
    cameras: dict[tuple[Any, ...], int] = {}
    photos = []
    for place, photo in enumerate(prepared, start=1):
        name = photo_name(place, len(prepared), photo.source)
        photo.path.replace(folder / name)
        photos.append(
            {
                "name": name,
                "source": photo.source,
                "width": photo.width,
                "height": photo.height,
                "focal_px": round(photo.focal_px, 3) if photo.focal_px else None,
                "camera": cameras.setdefault(_camera_of(photo), len(cameras)),
                "gps": photo.exif.gps,
                "taken": photo.exif.taken,
                "blur": photo.blur,
            }
        )
    record = {
        "photos": photos,
        "cameras": [
            dict(zip(("id", "make", "model", "lens", "focal_mm", "width", "height"), (number, *group[:6]), strict=True))
            for group, number in cameras.items()
        ],
        "dropped": [vars(item) for item in dropped],
    }
    (context.output / "photos.json").write_text(
        json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return {
        "files_given": len(prepared) + len(dropped),
        "photos": len(photos),
        "dropped": len(dropped),
        "other_files": sum(item.reason == NOT_A_PHOTO for item in dropped),
        "cameras": len(cameras),
        "photos_with_gps": sum(photo.exif.gps is not None for photo in prepared),
        "photos_with_focal": sum(photo.focal_px is not None for photo in prepared),
        "long_side": max(max(photo.width, photo.height) for photo in prepared),
        "blur_median": round(median(photo.blur for photo in prepared), 2),
    }


def photo_name(place: int, count: int, source: str) -> str:
    """A unique name for the photo at a place, counted from one; names sort in the order of the capture."""
    digits = max(3, len(str(count)))
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", PurePosixPath(source).stem)[:60].strip("_") or "photo"
    return f"{place:0{digits}d}_{stem}.jpg"


def _camera_of(photo: Prepared) -> tuple[Any, ...]:
    """Photos share intrinsics when all of this is equal; digital zoom shows only in the focal length in pixels."""
    exif = photo.exif
    focal_px = round(photo.focal_px) if photo.focal_px else None
    return (exif.make, exif.model, exif.lens, exif.focal_mm, photo.width, photo.height, focal_px)
