"""Which files a capture holds: a folder, or one zip that is unpacked with care."""

from __future__ import annotations

import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from e2e3d_stages.contract import UnreadableCapture

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"})
OTHER_MEDIA = frozenset(
    {".heic", ".heif", ".avif", ".gif", ".bmp", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".mp4", ".mov", ".avi"}
)

MAX_ZIP_ENTRIES = 20_000
MAX_ZIP_BYTES = 64 * 2**30
# Photos hardly shrink in a zip; an uncompressed TIFF of a plain wall may by a factor of 20.
MAX_ZIP_RATIO = 100
# Small text files compress well and harm nobody.
MIN_SUSPECT_BYTES = 2**20


@dataclass(frozen=True)
class Source:
    """One file of a capture: its path as the photographer knows it, and where its bytes are."""

    name: str
    path: Path


@dataclass(frozen=True)
class Refused:
    """A file that did not make it into the image set, and why."""

    source: str
    reason: str
    detail: str


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts `IMG_2` before `IMG_10`, whatever the case of letters."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part] + [(2, 0, name)]


def list_capture(capture: Path, scratch: Path) -> tuple[list[Source], list[Refused]]:
    """All photo files of a capture in natural order, and the other files with the reason they are left out.

    Hidden files and `__MACOSX` folders are passed over in silence.

    :param capture: a folder, or one zip.
    :param scratch: where a zip is unpacked.
    :raises UnreadableCapture: no such folder or zip; a zip that is damaged, encrypted, a bomb, or leaves its folder.
    """
    if capture.is_dir():
        sources = list(_walk(capture))
    elif capture.is_file() and capture.suffix.lower() in PHOTO_SUFFIXES:
        sources = [Source(capture.name, capture)]
    elif capture.is_file():
        sources = _unpack(capture, scratch)
    else:
        raise UnreadableCapture(
            f"There is no capture at {capture.name}.", hint="Give a folder of photos or one zip of photos."
        )
    photos, refused = [], []
    for source in sorted(sources, key=lambda source: natural_order(source.name)):
        problem = _not_a_photo(source) or _outside(source, capture)
        if problem:
            refused.append(problem)
        else:
            photos.append(source)
    return photos, refused


def _walk(folder: Path) -> Iterator[Source]:
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if not _hidden(name) and path.is_file():
            yield Source(name, path)


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def _not_a_photo(source: Source) -> Refused | None:
    suffix = PurePosixPath(source.name).suffix.lower()
    if suffix in PHOTO_SUFFIXES:
        return None
    if suffix in OTHER_MEDIA:
        return Refused(source.name, "unsupported_format", f"{suffix[1:].upper()} cannot be read: export it as JPEG.")
    return Refused(source.name, "not_a_photo", "Not a JPEG, PNG, WebP or TIFF file.")


def _outside(source: Source, capture: Path) -> Refused | None:
    """A link in a shared folder must not pull in files from elsewhere on this machine."""
    if not source.path.is_symlink() or source.path.resolve().is_relative_to(capture.resolve()):
        return None
    return Refused(source.name, "outside", "A link to a file outside the capture.")


def _unpack(archive: Path, scratch: Path) -> list[Source]:
    try:
        with zipfile.ZipFile(archive) as bundle:
            entries = [entry for entry in bundle.infolist() if not entry.is_dir()]
            _check_zip(entries)
            return [
                _extract(bundle, entry, scratch / f"unpacked-{place:05d}")
                for place, entry in enumerate(entry for entry in entries if not _hidden(entry.filename))
            ]
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError) as error:
        raise UnreadableCapture(
            f"{archive.name} is not a zip that can be read: {error}.", hint="Zip the photos again and upload that."
        ) from None


def _check_zip(entries: list[zipfile.ZipInfo]) -> None:
    """Refuse the whole archive before a byte of it is unpacked."""
    total = sum(entry.file_size for entry in entries)
    if len(entries) > MAX_ZIP_ENTRIES or total > MAX_ZIP_BYTES:
        raise UnreadableCapture(
            f"The zip holds {len(entries)} files of {total / 2**30:.1f} GiB together.",
            hint=f"At most {MAX_ZIP_ENTRIES} files and {MAX_ZIP_BYTES / 2**30:.0f} GiB are unpacked.",
        )
    for entry in entries:
        problem = _zip_problem(entry)
        if problem:
            raise UnreadableCapture(
                f"The zip is refused: {entry.filename[:200]!r} {problem}.",
                hint="Zip only the photos themselves, without a password.",
            )


def _zip_problem(entry: zipfile.ZipInfo) -> str:
    name = entry.filename.replace("\\", "/")
    if name.startswith("/") or ".." in name.split("/") or re.match(r"[A-Za-z]:", name):
        return "would be written outside its folder"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "is a link"
    if entry.flag_bits & 0x1:
        return "is encrypted"
    if entry.file_size > MIN_SUSPECT_BYTES and entry.file_size > MAX_ZIP_RATIO * max(entry.compress_size, 1):
        return f"unpacks to more than {MAX_ZIP_RATIO} times its size, as a zip bomb does"
    return ""


def _extract(bundle: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> Source:
    """Unpack under a name of our own; zipfile itself stops at the declared size and checks the CRC."""
    try:
        with bundle.open(entry) as packed, target.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    except (zipfile.BadZipFile, zlib.error, EOFError):
        # One damaged entry is one unreadable photo, found when it is opened.
        target.write_bytes(b"")
    return Source(entry.filename.replace("\\", "/"), target)
