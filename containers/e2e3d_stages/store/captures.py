"""A capture in its storage, as a prefix or as one zip: its digest, and its files fetched for a stage."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from e2e3d_stages.contract.captures import is_hidden
from e2e3d_stages.contract.messages import InvalidRequest, UnreadableCapture, canonical
from e2e3d_stages.contract.paths import UnsafePath, safe_path, shown
from e2e3d_stages.store.artifacts import Tell, in_parallel, untold
from e2e3d_stages.store.base import Entry, Storage
from e2e3d_stages.store.opening import open_storage

UNSAFE_NAME = "unsafe_name"


@dataclass(frozen=True)
class Source:
    """One file of a capture: its path as the photographer knows it, and where its bytes are on this machine."""

    name: str
    path: Path


@dataclass(frozen=True)
class Refused:
    """A file that did not make it into the image set, and why."""

    source: str
    reason: str
    detail: str


@dataclass(frozen=True)
class LocalCapture:
    """A capture as a stage reads it. Names are for people; no file's place is made of one.

    :param name: of its folder or its one file.
    :param files: what lies in it; of a capture that is one file, that file under the capture's own name.
    :param single: whether it is one file: a zip, or a photo.
    :param left_out: what cannot be a file of it.
    """

    name: str
    files: tuple[Source, ...]
    single: bool = False
    left_out: tuple[Refused, ...] = ()


@dataclass(frozen=True)
class _Listing:
    """What a capture's storage holds, without what is hidden."""

    name: str
    entries: list[Entry]
    left_out: list[Refused]

    @property
    def single(self) -> bool:
        """Whether the storage's root is one file."""
        return [entry.path for entry in self.entries] == [""]


def capture_name(storage: Storage) -> str:
    """The name of the folder or of the file that a storage's root is."""
    return (storage.local_path("") or PurePosixPath(storage.uri)).name


def _listing(storage: Storage) -> _Listing:
    """The files of a capture.

    :raises UnreadableCapture: when there is nothing.
    """
    entries = [entry for entry in storage.list() if not is_hidden(entry.path)]
    if not entries:
        raise UnreadableCapture(
            f"There is no capture at {storage.uri}.", hint="Check the address, and that the photos were uploaded."
        )
    name = capture_name(storage)
    found = _Listing(name, [], [])
    for entry in entries:
        refused = None if len(entries) == 1 and not entry.path else _refused(storage, name, entry.path)
        if refused:
            found.left_out.append(refused)
        else:
            found.entries.append(entry)
    return found


def _refused(storage: Storage, capture: str, path: str) -> Refused | None:
    """What is no file of the capture, though it is listed with it: it may be meant to lie elsewhere."""
    if not path:
        return Refused(shown(capture), UNSAFE_NAME, "An object that is called like the capture itself.")
    try:
        safe_path(path)
        place = storage.local_path(path)
    except UnsafePath as error:
        return Refused(shown(path), UNSAFE_NAME, str(error))
    except InvalidRequest:
        return Refused(path, "outside", "A link to a file outside the capture.")
    if place is not None and place.is_dir():
        return Refused(path, "unreadable", "A folder that must not be read.")
    return None


def capture_digest(storage: Storage) -> str:
    """SHA-256 over the names, sizes and contents of a capture's files: the same wherever they lie.

    :raises UnreadableCapture: when there is nothing.
    """
    found = _listing(storage)
    digests = in_parallel(lambda entry: hashlib.sha256(storage.read(entry.path)).hexdigest(), found.entries)
    listing = [[entry.path, entry.size, digest] for entry, digest in zip(found.entries, digests, strict=True)]
    # What is left out is not read, and told in the artifact all the same.
    listing += [[refused.source, refused.reason] for refused in found.left_out]
    return hashlib.sha256(canonical(listing)).hexdigest()


def fetch_capture(uri: str, into: Path, tell: Tell = untold) -> LocalCapture:
    """The capture's files on this machine's disk, under names of our own; a local capture is used in place.

    :param tell: as in `ArtifactStore.fetch`.
    :raises UnreadableCapture: when there is nothing.
    """
    storage = open_storage(uri)
    found = _listing(storage)
    remote = storage.local_path("") is None
    if remote:
        into.mkdir(parents=True)
    hear = (tell if remote else untold)(sum(entry.size for entry in found.entries))

    def fetch_one(place: int, entry: Entry) -> Source:
        path = storage.local_path(entry.path)
        if path is None:
            path = into / f"fetched-{place:05d}"
            storage.download(entry.path, path)
            hear(entry.size)
        return Source(entry.path or found.name, path)

    files = in_parallel(lambda numbered: fetch_one(*numbered), list(enumerate(found.entries)))
    return LocalCapture(found.name, tuple(files), single=found.single, left_out=tuple(found.left_out))
