"""How many photos and films a capture has and how large photos are, from a few bytes of it."""

from __future__ import annotations

import io
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from airflow_provider_e2e3d.captures.listing import Capture
from e2e3d_stages.contract.captures import FACES, Kind, has_panorama_shape, kinds_of
from e2e3d_stages.contract.damage import is_damage
from e2e3d_stages.contract.messages import UnreadableCapture
from e2e3d_stages.contract.paths import shown
from e2e3d_stages.store.base import NotFound, Storage
from e2e3d_stages.store.zips import entry_head, entry_path, is_folder, open_zip

# Enough for a thumbnail, a colour profile and other things that stand before a JPEG's size.
HEADER_BYTES = 256 * 1024


def size_of(data: bytes) -> tuple[int, int] | None:
    """Width and height in px of the photo that begins so, or None where that is not told."""
    # It takes a sixth of a second to import, which reading a DAG file need not.
    import imagesize

    try:
        width, height = imagesize.get(io.BytesIO(data))
    except Exception as error:
        if not is_damage(error):
            raise
        return None
    return (width, height) if min(width, height) > 0 else None


# A zip's table of contents is never as large.
_MOST_BYTES = 32 * 2**20
MOST_ZIPS = 20


@dataclass(frozen=True)
class Content:
    """What a capture holds.

    :param photos: with one for each side of those that see all around.
    :param side: the longest of one of its photos, in px, where it tells.
    """

    photos: int
    films: int = 0
    side: int | None = None

    @classmethod
    def like(cls, photos: int, films: int, first: bytes) -> Content:
        """So many photos, all as large as the one that begins so."""
        size = size_of(first)
        if size and has_panorama_shape(size):
            return cls(photos * FACES, films, size[0] // FACES)
        return cls(photos, films, max(size) if size else None)

    def with_more(self, other: Content) -> Content:
        """Both together."""
        return Content(self.photos + other.photos, self.films + other.films, self.side or other.side)


def look_at(storage: Storage, capture: Capture) -> Content:
    """What a capture holds; few bytes are read.

    :raises UnreadableCapture: when there are photos that cannot be counted so.
    """
    if len(capture.zips) > MOST_ZIPS:
        raise UnreadableCapture(
            f"The photos of {storage.uri} lie in {len(capture.zips)} zips, which are too many to look into.",
            hint=f"Upload the photos themselves, or at most {MOST_ZIPS} zips.",
        )
    content = Content.like(capture.photos, capture.films, _header(storage, capture.first_photo))
    for path, size in capture.zips:
        content = content.with_more(_look_into(_Parts(storage, path, 0, size), path or capture.name, depth=1))
    return content


def _look_into(file: _Parts, name: str, depth: int) -> Content:
    with open_zip(io.BufferedReader(file, HEADER_BYTES), name) as bundle:
        entries = {entry_path(entry): entry for entry in bundle.infolist() if not is_folder(entry)}
        sizes = {path: entry.file_size for path, entry in entries.items()}
        kinds = kinds_of(sizes, lambda path: entry_head(bundle, entries[path]))
        photos = [entries[path] for path, kind in kinds.items() if kind is Kind.PHOTO]
        first = entry_head(bundle, photos[0], HEADER_BYTES) if photos else b""
        content = Content.like(len(photos), sum(kind is Kind.FILM for kind in kinds.values()), first)
        inner = [entries[path] for path, kind in kinds.items() if kind is Kind.ARCHIVE]
        for entry in inner[:MOST_ZIPS] if depth == 1 else []:
            if entry.compress_type != zipfile.ZIP_STORED:
                raise UnreadableCapture(
                    f"{shown(name)} holds another zip, whose photos are counted only when it is unpacked.",
                    hint="Zip the photos themselves to know beforehand what they take.",
                )
            content = content.with_more(_look_into(file.part(entry), entry_path(entry), depth + 1))
        return content


def _header(storage: Storage, photo: str) -> bytes:
    """The first bytes of a photo; none of one that is gone, or is a link to elsewhere."""
    with suppress(NotFound):
        return storage.read_part(photo, 0, HEADER_BYTES) if photo else b""
    return b""


class _Parts(io.RawIOBase):
    """A stored file, or a part of it, of which only what somebody looks at is fetched."""

    def __init__(self, storage: Storage, path: str, start: int, size: int) -> None:
        self._storage, self._path, self._start, self._size, self._place = storage, path, start, size, 0

    def part(self, entry: zipfile.ZipInfo) -> _Parts:
        """An entry of the zip that this is, which was stored as it is."""
        header = self._storage.read_part(self._path, self._start + entry.header_offset, 30)
        skipped = 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        return _Parts(self._storage, self._path, self._start + entry.header_offset + skipped, entry.file_size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._place)
        if wanted > _MOST_BYTES:
            raise zipfile.BadZipFile("its table of contents is too large")
        data = self._storage.read_part(self._path, self._start + self._place, wanted) if wanted > 0 else b""
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
