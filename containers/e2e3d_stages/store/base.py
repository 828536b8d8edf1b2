"""Bytes in and out of a folder on a disk (`file://`) or a bucket (`s3://`): the same few verbs for both."""

from __future__ import annotations

import datetime as dt
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

# How much of an object is in memory where all of it is read.
CHUNK = 2**20


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


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


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
    def sha256(self, path: str) -> str:
        """SHA-256 of the object's bytes, in hex; they are read a little at a time.

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

    def unfinished(self) -> Iterable[Entry]:
        """What writers have begun and not finished: they are at it, or were killed. A bucket forgets it by a rule."""
        return ()

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
    def remove(self, paths: Iterable[str]) -> None:
        """Remove objects, and nothing else; nothing happens where nothing is.

        :raises Infrastructure: when one of them may still be there.
        """

    def delete(self, prefix: str) -> None:
        """Remove an object, or everything below a folder; nothing happens where nothing is.

        :raises Infrastructure: when something may still be there.
        """
        self.remove(entry.path for entry in self.list(prefix))

    def local_path(self, path: str) -> Path | None:
        """Where the object lies on this machine's disk, or None where it must be fetched.

        :raises InvalidRequest: for a path that leaves the root, or follows a link that does.
        """
        return None
