"""A capture in its storage, as a prefix or as one file: its listing, and its files fetched for a stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from e2e3d_stages.contract.captures import MAX_BYTES, MAX_FILES, is_hidden
from e2e3d_stages.contract.formatting import as_size
from e2e3d_stages.contract.messages import (
    CaptureChanged,
    CaptureFile,
    CaptureListing,
    Infrastructure,
    InvalidRequest,
    Refused,
    UnreadableCapture,
)
from e2e3d_stages.contract.paths import UnsafePath, safe_path, shown
from e2e3d_stages.store.artifacts import TransferProgress, in_parallel, unreported
from e2e3d_stages.store.base import Entry, NotFound, Storage, file_digest

UNSAFE_NAME = "unsafe_name"
# How many changed files a failure names.
NAMED = 5


@dataclass(frozen=True)
class Source:
    """One file of a capture: its path as the photographer knows it, and where its bytes are on this machine."""

    name: str
    path: Path


@dataclass(frozen=True)
class LocalCapture:
    """A capture as a stage reads it. Names are for people; no file's place is made of one.

    :param name: of its folder or its one file.
    :param files: what lies in it; of a capture that is one file, that file under the capture's own name.
    :param single: whether it is one file: a zip, a film, or a photo.
    :param left_out: what cannot be a file of it.
    """

    name: str
    files: tuple[Source, ...]
    single: bool = False
    left_out: tuple[Refused, ...] = ()


@contextmanager
def reading(name: str) -> Iterator[None]:
    """What a disk says of a file of a capture, told without where it lies.

    :raises NotFound: when it is gone.
    :raises Infrastructure: the photo may be fine.
    """
    try:
        yield
    except FileNotFoundError:
        raise NotFound(name) from None
    except OSError as error:
        raise Infrastructure(
            f"{shown(name)} could not be read: {error.strerror or type(error).__name__}.",
            hint="Look at the disk or the share that it lies on, and at who may read it; then clear the task.",
        ) from error


def capture_name(storage: Storage) -> str:
    """The name of the folder or of the file that a storage's root is."""
    return (storage.local_path("") or PurePosixPath(storage.uri)).name


def list_capture_files(storage: Storage) -> CaptureListing:
    """The files of a capture with their digests; each is read once, a little at a time.

    :raises UnreadableCapture: when there is nothing, or more than a run may take.
    :raises CaptureChanged: when one of them goes away meanwhile.
    :raises Infrastructure: when one of them cannot be read.
    """
    entries, left_out = _entries(storage)

    def read(entry: Entry) -> CaptureFile:
        name = entry.path or capture_name(storage)
        try:
            with reading(name):
                return CaptureFile(path=entry.path, size=entry.size, sha256=storage.sha256(entry.path))
        except NotFound:
            raise _changed([name], len(entries)) from None

    files = in_parallel(read, entries)
    return CaptureListing(files=tuple(files), left_out=tuple(left_out))


def _entries(storage: Storage) -> tuple[list[Entry], list[Refused]]:
    """What can be a file of a capture, and what cannot; nothing that is hidden."""
    entries: list[Entry] = []
    size = 0
    for entry in storage.list():
        if is_hidden(entry.path):
            continue
        entries.append(entry)
        size += entry.size
        if len(entries) > MAX_FILES or size > MAX_BYTES:
            raise UnreadableCapture(
                f"{storage.uri} holds more than {MAX_FILES} files or {as_size(MAX_BYTES)}.",
                hint="Give a folder with the photos of one scene, or thin them out.",
            )
    if not entries:
        raise UnreadableCapture(
            f"There is no capture at {storage.uri}.", hint="Check the address, and that the photos were uploaded."
        )
    if [entry.path for entry in entries] == [""]:
        return entries, []
    refused = {entry.path: _refused(storage, entry.path) for entry in entries}
    return [entry for entry in entries if not refused[entry.path]], list(filter(None, refused.values()))


def _refused(storage: Storage, path: str) -> Refused | None:
    """What is no file of the capture, though it is listed with it: it may be meant to lie elsewhere."""
    if not path:
        return Refused(shown(capture_name(storage)), UNSAFE_NAME, "An object that is called like the capture itself.")
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


def fetch_capture(
    storage: Storage, listing: CaptureListing, into: Path, progress: TransferProgress = unreported
) -> LocalCapture:
    """The listed files on this machine's disk, under names of our own; a local capture is used in place.

    :param progress: as in `ArtifactStore.fetch`.
    :raises CaptureChanged: when one of them is not what it was when it was listed.
    """
    remote = storage.local_path("") is None
    if remote:
        into.mkdir(parents=True)
    name = capture_name(storage)
    moved = progress(sum(file.size for file in listing.files))

    def fetch_one(place: int, file: CaptureFile) -> Source | None:
        source = Source(file.path or name, storage.local_path(file.path) or into / f"fetched-{place:05d}")
        try:
            if remote:
                storage.download(file.path, source.path)
            with reading(source.name):
                intact = source.path.stat().st_size == file.size and file_digest(source.path) == file.sha256
        except NotFound:
            return None
        moved(file.size)
        return source if intact else None

    files = in_parallel(lambda numbered: fetch_one(*numbered), list(enumerate(listing.files)))
    changed = [file.path or name for file, found in zip(listing.files, files, strict=True) if found is None]
    if changed:
        raise _changed(changed, len(files))
    single = [file.path for file in listing.files] == [""]
    return LocalCapture(name, tuple(filter(None, files)), single=single, left_out=listing.left_out)


def _changed(files: Sequence[str], of: int) -> CaptureChanged:
    named = ", ".join(map(shown, files[:NAMED])) + (" and others" if len(files) > NAMED else "")
    return CaptureChanged(
        f"{len(files)} of the capture's {of} files changed or went away since the run began: {named}.",
        hint="The next try takes the capture as it is then. Start a run when its upload is over.",
    )
