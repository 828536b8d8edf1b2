"""How many photos a capture has and how large they are, from a few bytes of it."""

from __future__ import annotations

import io
import zipfile
from contextlib import suppress
from typing import Any

from airflow_provider_e2e3d.captures.listing import Capture
from e2e3d_stages.contract.captures import is_photo
from e2e3d_stages.contract.messages import UnreadableCapture
from e2e3d_stages.store.base import NotFound, Storage

# Enough for a thumbnail, a colour profile and other things that stand before a JPEG's size.
HEADER_BYTES = 256 * 1024

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
# Start of frame, whichever way it is coded: ITU-T T.81, table B.1.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def long_side(data: bytes) -> int | None:
    """Longest side in px of the JPEG or PNG that begins so, or None where that is not told."""
    if data.startswith(_PNG) and len(data) >= 24:
        return max(int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"))
    place = 2 if data.startswith(_JPEG) else len(data)
    while place + 9 <= len(data) and data[place] == 0xFF:
        if data[place + 1] in _FRAMES:
            return max(
                int.from_bytes(data[place + 5 : place + 7], "big"), int.from_bytes(data[place + 7 : place + 9], "big")
            )
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None


# A zip's table of contents is never as large.
_MOST_BYTES = 32 * 2**20


def look_at(storage: Storage, capture: Capture) -> tuple[int, int | None]:
    """How many photos there are, and the longest side of one of them in px where it tells; few bytes are read."""
    if not capture.zipped:
        return capture.photos, long_side(_header(storage, capture.first_photo))
    try:
        with zipfile.ZipFile(io.BufferedReader(_Parts(storage, capture.size), HEADER_BYTES)) as bundle:
            photos = [entry for entry in bundle.infolist() if is_photo(entry.filename)]
            if not photos:
                return 0, None
            with bundle.open(photos[0]) as file:
                return len(photos), long_side(file.read(HEADER_BYTES))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise UnreadableCapture(
            f"{storage.uri} is not a zip that can be read: {error}.", hint="Zip the photos again and upload that."
        ) from None


def _header(storage: Storage, photo: str) -> bytes:
    """The first bytes of a photo; none of one that is gone, or is a link to elsewhere."""
    with suppress(NotFound):
        return storage.read_part(photo, 0, HEADER_BYTES) if photo else b""
    return b""


class _Parts(io.RawIOBase):
    """A stored file of which only the parts that somebody looks at are fetched."""

    def __init__(self, storage: Storage, size: int) -> None:
        self._storage, self._size, self._place = storage, size, 0

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
        data = self._storage.read_part("", self._place, wanted) if wanted > 0 else b""
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
