"""Which files of a capture are photos: those of a folder, or of one zip that is unpacked with care."""

from __future__ import annotations

import re
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from e2e3d_stages.contract.captures import NOT_A_PHOTO, OTHER_MEDIA, PHOTO_SUFFIXES, is_hidden, suffix_of
from e2e3d_stages.contract.messages import Refused, UnreadableCapture
from e2e3d_stages.contract.paths import UnsafePath, safe_path, shown
from e2e3d_stages.store.captures import UNSAFE_NAME, LocalCapture, Source

MAX_ZIP_ENTRIES = 20_000
MAX_ZIP_BYTES = 64 * 2**30
# Photos hardly shrink in a zip; an uncompressed TIFF of a plain wall may by a factor of 20.
MAX_ZIP_RATIO = 100
# Small text files compress well and harm nobody.
MIN_SUSPECT_BYTES = 2**20


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts `IMG_2` before `IMG_10`, whatever the case of letters."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part] + [(2, 0, name)]


def list_capture(capture: LocalCapture, scratch: Path) -> tuple[list[Source], list[Refused]]:
    """All photo files of a capture in natural order, and the other files with the reason they are left out.

    Hidden files and `__MACOSX` folders are passed over in silence.

    :param scratch: where a zip is unpacked.
    :raises UnreadableCapture: a zip that is damaged, encrypted, a bomb, or leaves its folder.
    """
    files: list[Source | Refused] = [*capture.files, *capture.left_out]
    if capture.single and suffix_of(capture.name) not in PHOTO_SUFFIXES:
        files = _unpack(capture, scratch)
    photos, refused = [], []
    for file in sorted(files, key=lambda file: natural_order(_name(file))):
        if is_hidden(_name(file)):
            continue
        kept = file if isinstance(file, Refused) else _not_a_photo(file) or file
        if isinstance(kept, Source):
            photos.append(kept)
        else:
            refused.append(kept)
    return photos, refused


def _name(file: Source | Refused) -> str:
    return file.source if isinstance(file, Refused) else file.name


def _not_a_photo(source: Source) -> Refused | None:
    suffix = suffix_of(source.name)
    if suffix in PHOTO_SUFFIXES:
        return None
    if suffix in OTHER_MEDIA:
        return Refused(source.name, "unsupported_format", f"{suffix[1:].upper()} cannot be read: export it as JPEG.")
    return Refused(source.name, NOT_A_PHOTO, "Not a JPEG, PNG, WebP or TIFF file.")


def _unpack(capture: LocalCapture, scratch: Path) -> list[Source | Refused]:
    try:
        with zipfile.ZipFile(capture.files[0].path) as bundle:
            entries = [entry for entry in bundle.infolist() if not entry.is_dir()]
            _check_zip(entries)
            return [
                _extract(bundle, entry, scratch / f"unpacked-{place:05d}")
                for place, entry in enumerate(entry for entry in entries if not is_hidden(_path_of(entry)))
            ]
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError) as error:
        raise UnreadableCapture(
            f"{shown(capture.name)} is not a zip that can be read: {error}.",
            hint="Zip the photos again and upload that.",
        ) from None


def _path_of(entry: zipfile.ZipInfo) -> str:
    """An entry's path as other zips have it: some programs write backslashes, or `./` before it."""
    return PurePosixPath(entry.filename.replace("\\", "/")).as_posix()


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
                f"The zip is refused: {shown(entry.filename)!r} {problem}.",
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


def _extract(bundle: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> Source | Refused:
    """Unpack under a name of our own; zipfile itself stops at the declared size and checks the CRC."""
    try:
        name = safe_path(_path_of(entry))
    except UnsafePath as error:
        return Refused(shown(entry.filename), UNSAFE_NAME, str(error))
    try:
        with bundle.open(entry) as packed, target.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    except (zipfile.BadZipFile, zlib.error, EOFError):
        # One damaged entry is one unreadable photo, found when it is opened.
        target.write_bytes(b"")
    return Source(name, target)
