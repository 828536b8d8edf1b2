"""`file://` storage: a folder on a disk."""

from __future__ import annotations

import datetime as dt
import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, unquote, urlsplit
from uuid import uuid4

from e2e3d_stages.contract.messages import Infrastructure, InvalidRequest, now
from e2e3d_stages.contract.paths import UnsafePath, inside, stay_inside
from e2e3d_stages.store.base import CHUNK, Entry, NotFound, Storage, file_digest

# What a disk says of a name under which nothing can be read.
_NOTHING_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_ASIDE = ".writing-"
# A name on a disk need be no text: a byte of it that is none stands in a path as `\xe9`.
_NO_TEXT = re.compile(r"\\x([89a-f][0-9a-f])")


class FileStorage(Storage):
    """A folder on a disk."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise InvalidRequest(f"{uri} is not a local path.", hint="Write file:///absolute/path.")
        self.root = _as_stored(Path(unquote(parts.path)))

    def local_path(self, path: str) -> Path:
        try:
            found = inside(self.root, path) if path else self.root
            return stay_inside(self.root, _as_stored(found)) if "\\x" in path else found
        except UnsafePath as error:
            raise InvalidRequest(str(error), hint=f"Only what lies in {self.uri} itself is read and written.") from None

    def uri_of(self, path: str) -> str:
        return super().uri_of(quote(path))

    def clock(self) -> dt.datetime:
        return now()

    def read(self, path: str) -> bytes:
        with self._reading(path) as place:
            return place.read_bytes()

    def read_part(self, path: str, start: int, size: int) -> bytes:
        with self._reading(path) as place, place.open("rb") as file:
            file.seek(start)
            return file.read(size)

    def sha256(self, path: str) -> str:
        try:
            return file_digest(self.local_path(path))
        except _NOTHING_THERE:
            raise NotFound(self.uri_of(path)) from None

    def write(self, path: str, data: bytes) -> None:
        with self._aside(path) as (temporary, file):
            file.write(data)
            self._name(temporary, file, path)

    def create(self, path: str, data: bytes) -> bool:
        with self._aside(path) as (temporary, file):
            file.write(data)
            return self._name(temporary, file, path, only_if_free=True)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        start = self.local_path(prefix)
        if start.is_file():
            yield _entry_of(prefix, start)
            return
        for file in _files_below(start):
            if not file.name.startswith(_ASIDE):
                # What went away since its folder was read was never there.
                with suppress(FileNotFoundError):
                    yield _entry_of(_as_text(file.relative_to(self.root).as_posix()), file)

    def unfinished(self) -> Iterator[Entry]:
        for file in _files_below(self.root):
            if file.name.startswith(_ASIDE):
                with suppress(FileNotFoundError):
                    yield _entry_of(_as_text(file.relative_to(self.root).as_posix()), file)

    def folders(self, prefix: str = "") -> Iterator[str]:
        start = self.local_path(prefix)
        if start.is_dir():
            yield from sorted(_as_text(child.name) for child in start.iterdir() if child.is_dir())

    def upload(self, source: Path, path: str) -> None:
        with source.open("rb") as data, self._aside(path) as (temporary, file):
            shutil.copyfileobj(data, file, CHUNK)
            self._name(temporary, file, path)

    def download(self, path: str, target: Path) -> None:
        with self._reading(path) as place:
            shutil.copyfile(place, target)

    def copy(self, source: str, target: str) -> None:
        place = self.local_path(source)
        with self._reading(source):
            self.upload(place, target)

    def remove(self, paths: Iterable[str]) -> None:
        for path in paths:
            place = self.local_path(path)
            with suppress(*_NOTHING_THERE), self._told(path):
                place.unlink()
                # A folder is there as long as something is in it, as in a bucket.
                with suppress(OSError):
                    while (place := place.parent) != self.root:
                        place.rmdir()

    @contextmanager
    def _reading(self, path: str) -> Iterator[Path]:
        """Where an object lies; tells what is not there, and nothing is outside the root."""
        try:
            place = self.local_path(path)
        except InvalidRequest:
            raise NotFound(self.uri_of(path)) from None
        try:
            with self._told(path):
                yield place
        except _NOTHING_THERE:
            raise NotFound(self.uri_of(path)) from None

    @contextmanager
    def _told(self, path: str) -> Iterator[None]:
        """Tell what a disk refuses from a disk that fails."""
        try:
            yield
        except _NOTHING_THERE:
            raise
        except PermissionError as error:
            raise InvalidRequest(
                f"The disk refused access to {self.uri_of(path)}: {error.strerror}.",
                hint="Check whose the folder is, and as whom Airflow and the stages run.",
            ) from error
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise Infrastructure(
                f"The disk {'is full' if full else 'failed'} at {self.uri_of(path)}: {error.strerror or error}.",
                hint=f"{'Free disk space' if full else 'Look at the disk or the share'}, then clear the task.",
            ) from error

    @contextmanager
    def _aside(self, path: str) -> Iterator[tuple[Path, BinaryIO]]:
        """A file under a temporary name beside the target, gone at the end unless `_name` renamed it."""
        target = self.local_path(path)
        temporary = target.with_name(f"{_ASIDE}{uuid4().hex}")
        with self._told(path):
            with _open_in_new_folder(temporary) as file:
                try:
                    yield temporary, file
                finally:
                    temporary.unlink(missing_ok=True)

    def _name(self, temporary: Path, file: BinaryIO, path: str, *, only_if_free: bool = False) -> bool:
        """Give what was written its name, after its bytes are on the disk: a power loss leaves both or neither."""
        file.flush()
        os.fsync(file.fileno())
        target = self.local_path(path)
        if only_if_free:
            try:
                # link, unlike rename, refuses a name that exists.
                os.link(temporary, target)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP):
                    raise
                raise InvalidRequest(
                    f"The file system of {self.uri} knows no hard links, so that nobody could claim anything.",
                    hint="Put the store on one that does, as ext4, XFS or NFS, or use a bucket.",
                ) from error
        else:
            temporary.replace(target)
        _sync(target.parent)
        return True


def _as_text(path: str) -> str:
    return os.fsencode(path).decode(errors="backslashreplace")


def _as_stored(path: Path) -> Path:
    """The path with the bytes that its text stands for, where nothing is called like the text itself."""
    if "\\x" not in str(path) or os.path.lexists(path):
        return path
    return Path(_NO_TEXT.sub(lambda byte: os.fsdecode(bytes.fromhex(byte[1])), str(path)))


def _open_in_new_folder(file: Path) -> BinaryIO:
    """Open a new file for writing, its folder made and on the disk."""
    while True:
        # Whoever removes the last file of a folder meanwhile removes the folder with it.
        with suppress(FileNotFoundError):
            missing = [folder for folder in (file.parent, *file.parent.parents) if not folder.exists()]
            for folder in reversed(missing):
                folder.mkdir(exist_ok=True)
                _sync(folder.parent)
            return file.open("xb")


def _sync(folder: Path) -> None:
    """Let a folder's names reach the disk."""
    with suppress(FileNotFoundError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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
