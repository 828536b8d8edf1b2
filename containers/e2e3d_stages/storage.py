"""Bytes in and out of a folder on a disk (`file://`) or a bucket (`s3://`): the same few verbs for both."""

from __future__ import annotations

import datetime as dt
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit
from uuid import uuid4

from e2e3d_stages.contract import InvalidRequest, now
from e2e3d_stages.paths import UnsafePath, inside

_ASIDE = ".writing-"
# What a disk says of a name under which nothing can be read; outside its root a storage has nothing.
_NOTHING_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError, InvalidRequest)


class NotFound(Exception):
    """Nothing is stored under that name."""


@dataclass(frozen=True)
class Entry:
    """One stored object as a listing shows it, without a look at its bytes.

    :param path: below the storage's root.
    :param size: in bytes.
    :param arrived: when it came to lie there, whatever time its maker gave it.
    :param tag: differs when the content does.
    """

    path: str
    size: int
    arrived: dt.datetime
    tag: str


class Storage(ABC):
    """A tree of objects below one root. Paths are relative, with `/`; a write is seen whole or not at all."""

    # Of the bucket, where it is one of AWS itself.
    aws_region: str | None = None
    # How long a store that is busy or away is asked again; None: as long as a stage may well wait.
    patience_seconds: float | None = None

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")

    def uri_of(self, path: str) -> str:
        """The full address of an object."""
        return f"{self.uri}/{path}" if path else self.uri

    @abstractmethod
    def clock(self) -> dt.datetime:
        """The time by the clock that tells when an object arrived."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """The object's bytes.

        :raises NotFound: when there is none.
        """

    @abstractmethod
    def read_part(self, path: str, start: int, size: int) -> bytes:
        """Bytes from a place on: as many as asked for, fewer where the object ends.

        :raises NotFound: when there is none.
        """

    @abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Store, replacing what was there."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Store only where nothing is; False when somebody was first."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every object below a folder, in the order of their paths; nothing for a folder that is not there."""

    @abstractmethod
    def folders(self, prefix: str = "") -> Iterator[str]:
        """Names of the folders directly below a folder."""

    @abstractmethod
    def upload(self, source: Path, path: str) -> None:
        """Store a local file."""

    @abstractmethod
    def download(self, path: str, target: Path) -> None:
        """Fetch an object into a local file.

        :raises NotFound: when there is none.
        """

    @abstractmethod
    def copy(self, source: str, target: str) -> None:
        """Copy within the storage, replacing what was there."""

    @abstractmethod
    def delete(self, prefix: str) -> None:
        """Remove an object, or everything below a folder; nothing happens where nothing is."""

    def local_path(self, path: str) -> Path | None:
        """Where the object lies on this machine's disk, or None where it must be fetched.

        :raises InvalidRequest: for a path that leaves the root, or follows a link that does.
        """
        return None


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
    """Every file, in the order of their paths, of which one folder at a time is kept; links to folders not followed."""
    try:
        with os.scandir(folder) as listing:
            # `a-b` goes before `a/b`, as in a bucket.
            children = sorted((f"{it.name}/" if it.is_dir(follow_symlinks=False) else it.name) for it in listing)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in children:
        child = folder / name
        if name.endswith("/"):
            yield from _files_below(child)
        elif child.is_file():
            yield child


def _entry_of(path: str, file: Path) -> Entry:
    told = file.stat()
    # A copy may keep its original's time of change; that of the inode it cannot.
    arrived = dt.datetime.fromtimestamp(told.st_ctime, dt.timezone.utc)
    return Entry(path, told.st_size, arrived, tag=f"{told.st_mtime_ns:x}")


def open_storage(uri: str, environment: Mapping[str, str] | None = None) -> Storage:
    """Open `file:///folder` or `s3://bucket/prefix`.

    :param environment: S3 credentials and endpoint under the names that boto3 reads (`AWS_ACCESS_KEY_ID`,
        `AWS_ENDPOINT_URL_S3`, …), so MinIO works too; what is not given comes from the process's own environment.
    :raises InvalidRequest: for any other kind of address.
    """
    scheme = urlsplit(uri).scheme
    if scheme == "file":
        return FileStorage(uri)
    if scheme == "s3":
        from e2e3d_stages.s3 import S3Storage

        return S3Storage(uri, environment or {})
    raise InvalidRequest(f"{uri!r} is neither file:// nor s3://.", hint="Write file:///folder or s3://bucket/prefix.")
