"""Zips as people make them: opened with care, however their names are written and whatever is damaged in them."""

from __future__ import annotations

import re
import stat
import struct
import unicodedata
import zipfile
from contextlib import suppress
from pathlib import PurePosixPath
from typing import IO, Any

from e2e3d_stages.contract.captures import HEAD_BYTES
from e2e3d_stages.contract.damage import is_damage
from e2e3d_stages.contract.messages import UnreadableCapture
from e2e3d_stages.contract.paths import shown

_ENCRYPTED, _UTF8 = 0x1, 0x800
# PKWARE's APPNOTE.TXT, 4.3.7 and 4.3.12.
_HEADER, _HEADER_SIZE = b"PK\x03\x04", 30
_ENTRY, _ENTRY_SIZE = b"PK\x01\x02", 46
_DEFLATE64 = 9


def open_zip(file: IO[bytes], name: str) -> zipfile.ZipFile:
    """A zip with its table of contents read.

    :param name: for people.
    :raises UnreadableCapture: when there is none that can be read.
    """
    try:
        return zipfile.ZipFile(_Named(file))  # type: ignore[arg-type]
    except Exception as error:
        if not is_damage(error):
            raise
        raise UnreadableCapture(
            f"{shown(name)} is not a zip that can be read: {error}.",
            hint="Upload it again, since it may not have arrived whole; otherwise zip the photos again.",
        ) from None


def is_folder(entry: zipfile.ZipInfo) -> bool:
    """Whether an entry stands for a folder; its name may be empty, which ZipInfo.is_dir does not expect."""
    return entry.filename.endswith("/")


def entry_path(entry: zipfile.ZipInfo) -> str:
    """An entry's path as other zips have it: some programs write backslashes, or `./` before it."""
    return PurePosixPath(entry_name(entry).replace("\\", "/")).as_posix()


def entry_name(entry: zipfile.ZipInfo) -> str:
    """An entry's name as whoever packed it saw it.

    Without a mark it is in code page 437 by the standard. macOS leaves out the mark of UTF-8, which hardly any other
    text happens to be; and in Japanese names the second byte of a sign may be a backslash, which then divides nothing.
    """
    name = entry.filename
    if entry.flag_bits & _UTF8 or name.isascii():
        return name
    data = name.encode("cp437")
    if _is_utf8(data):
        return data.decode()
    if b"\\" in data:
        with suppress(UnicodeDecodeError):
            japanese = data.decode("cp932")
            halved = [sign for sign in japanese if sign.encode("cp932")[1:] == b"\\"]
            if halved and all(unicodedata.category(sign) == "Lo" for sign in halved):
                return japanese
    return name


def entry_head(bundle: zipfile.ZipFile, entry: zipfile.ZipInfo, size: int = HEAD_BYTES) -> bytes:
    """The first bytes of an entry; none of one that is damaged."""
    try:
        with bundle.open(entry) as packed:
            return packed.read(size)
    except Exception as error:
        if not is_damage(error):
            raise
        return b""


def entry_problem(entry: zipfile.ZipInfo) -> str:
    """Why a zip with such an entry is not unpacked at all, in words; nothing when it is harmless."""
    name = entry_name(entry).replace("\\", "/")
    if name.startswith("/") or ".." in name.split("/") or re.match(r"[A-Za-z]:", name):
        return "would be written outside its folder"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "is a link"
    if entry.flag_bits & _ENCRYPTED:
        return "is encrypted"
    return ""


def unreadable(entry: zipfile.ZipInfo, error: Exception) -> str:
    """Why one entry could not be unpacked, in words."""
    if entry.compress_type == _DEFLATE64:
        return (
            "packed with Deflate64, as Windows packs what is larger than 2 GB, which is not read here: zip the photos "
            "in smaller parts, or without compression, or upload the folder itself"
        )
    if isinstance(error, NotImplementedError):
        return f"packed in a way that is not read here ({error}): zip it without compression"
    return f"damaged in its zip: {error or type(error).__name__}"


class _Named:
    """A zip's file in which no name is said to be UTF-8 that is not.

    Python's zipfile refuses a whole zip for one such name; without that mark it is read as code page 437.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        if data.startswith(_HEADER) and len(data) == _HEADER_SIZE:
            place = self._file.tell()
            name = self._file.read(int.from_bytes(data[26:28], "little"))
            self._file.seek(place)
            return _unmarked(data, 6, name)
        return _with_true_marks(data) if data.startswith(_ENTRY) else data


def _with_true_marks(table: bytes) -> bytes:
    """The table of contents, entry by entry."""
    parts, place = [], 0
    while table[place : place + 4] == _ENTRY and place + _ENTRY_SIZE <= len(table):
        lengths = struct.unpack_from("<HHH", table, place + 28)
        end = place + _ENTRY_SIZE + sum(lengths)
        name = table[place + _ENTRY_SIZE : place + _ENTRY_SIZE + lengths[0]]
        parts.append(_unmarked(table[place:end], 8, name))
        place = end
    return b"".join([*parts, table[place:]])


def _unmarked(record: bytes, place: int, name: bytes) -> bytes:
    """A record whose flags, at a place, don't call a name UTF-8 that is not."""
    (flags,) = struct.unpack_from("<H", record, place)
    if not flags & _UTF8 or _is_utf8(name):
        return record
    return record[:place] + struct.pack("<H", flags & ~_UTF8) + record[place + 2 :]


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
