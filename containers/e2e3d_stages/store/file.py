"""`file://` storage: a folder on a disk."""

from __future__ import annotations

import datetime as dt
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit
from uuid import uuid4

from e2e3d_stages.contract.messages import InvalidRequest, now
from e2e3d_stages.contract.paths import UnsafePath, inside
from e2e3d_stages.store.base import Entry, NotFound, Storage

# What a disk says of a name under which nothing can be read; outside its root a storage has nothing.
_NOTHING_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError, InvalidRequest)
_ASIDE = ".writing-"


class FileStorage(Storage):
    """A folder on a disk."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise InvalidRequest(f"{uri} is not a local path.", hint="Write file:///absolute/path.")
        self.root = Path(unquote(parts.path))

    def local_path(self, path: str) -> Path:
        try:
            return inside(self.root, path) if path else self.root
        except UnsafePath as error:
            raise InvalidRequest(str(error), hint=f"Only what lies in {self.uri} itself is read and written.") from None

    def uri_of(self, path: str) -> str:
        return super().uri_of(quote(path))

    def clock(self) -> dt.datetime:
        return now()

    def read(self, path: str) -> bytes:
        try:
            return self.local_path(path).read_bytes()
        except _NOTHING_THERE:
            raise NotFound(self.uri_of(path)) from None

    def read_part(self, path: str, start: int, size: int) -> bytes:
        try:
            with self.local_path(path).open("rb") as file:
                file.seek(start)
                return file.read(size)
        except _NOTHING_THERE:
            raise NotFound(self.uri_of(path)) from None

    def write(self, path: str, data: bytes) -> None:
        with self._aside(path) as temporary:
            temporary.write_bytes(data)
            temporary.replace(self.local_path(path))

    def create(self, path: str, data: bytes) -> bool:
        with self._aside(path) as temporary:
            temporary.write_bytes(data)
            try:
                # link, unlike rename, refuses a name that exists.
                os.link(temporary, self.local_path(path))
            except FileExistsError:
                return False
            return True

    def list(self, prefix: str = "") -> Iterator[Entry]:
        start = self.local_path(prefix)
        if start.is_file():
            yield _entry_of(prefix, start)
            return
        for file in _files_below(start):
            if not file.name.startswith(_ASIDE):
                # What went away since its folder was read was never there.
                with suppress(FileNotFoundError):
                    yield _entry_of(file.relative_to(self.root).as_posix(), file)

    def folders(self, prefix: str = "") -> Iterator[str]:
        start = self.local_path(prefix)
        if start.is_dir():
            yield from sorted(child.name for child in start.iterdir() if child.is_dir())

    def upload(self, source: Path, path: str) -> None:
        with self._aside(path) as temporary:
            shutil.copyfile(source, temporary)
            temporary.replace(self.local_path(path))

    def download(self, path: str, target: Path) -> None:
        try:
            shutil.copyfile(self.local_path(path), target)
        except FileNotFoundError:
            raise NotFound(self.uri_of(path)) from None

    def copy(self, source: str, target: str) -> None:
        self.upload(self.local_path(source), target)

    def delete(self, prefix: str) -> None:
        place = self.local_path(prefix)
        if place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)

    @contextmanager
    def _aside(self, path: str) -> Iterator[Path]:
        """A temporary name beside the target, gone at the end unless it was renamed."""
        folder = self.local_path(path).parent
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{_ASIDE}{uuid4().hex}"
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


def _files_below(folder: Path) -> Iterator[Path]:
    """Every file, in the order of their paths, of which one folder at a time is kept; links to folders not followed.

    A folder that must not be read is listed as if it were a file: it costs its capture something, and no other.
    """
    try:
        with os.scandir(folder) as listing:
            # `a-b` goes before `a/b`, as in a bucket.
            children = sorted((f"{it.name}/" if it.is_dir(follow_symlinks=False) else it.name) for it in listing)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in children:
        child = folder / name
        if name.endswith("/"):
            try:
                yield from _files_below(child)
            except PermissionError:
                yield child
        elif child.is_file():
            yield child


def _entry_of(path: str, file: Path) -> Entry:
    told = file.stat()
    # A copy may keep its original's time of change; that of the inode it cannot.
    arrived = dt.datetime.fromtimestamp(told.st_ctime, dt.timezone.utc)
    return Entry(path, told.st_size, arrived, tag=f"{told.st_mtime_ns:x}")
