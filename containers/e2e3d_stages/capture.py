"""A capture: the photos that a person uploaded, as a prefix or as one zip."""

from __future__ import annotations

import hashlib
from pathlib import Path

from e2e3d_stages.contract import UnreadableCapture, canonical
from e2e3d_stages.storage import Entry, Storage, open_storage
from e2e3d_stages.store import Tell, in_parallel, untold


def is_hidden(path: str) -> bool:
    """Whether a file of a capture is one that cameras and file managers leave behind."""
    return any(part.startswith(".") for part in path.split("/"))


def _entries(storage: Storage) -> list[Entry]:
    return [entry for entry in storage.list() if not is_hidden(entry.path)]


def capture_digest(storage: Storage) -> str:
    """SHA-256 over the names, sizes and contents of a capture's files: the same wherever they lie.

    :raises UnreadableCapture: when there is nothing.
    """
    entries = _entries(storage)
    if not entries:
        raise UnreadableCapture(
            f"There is no capture at {storage.uri}.", hint="Check the address, and that the photos were uploaded."
        )
    digests = in_parallel(lambda entry: hashlib.sha256(storage.read(entry.path)).hexdigest(), entries)
    listing = [[entry.path, entry.size, digest] for entry, digest in zip(entries, digests, strict=True)]
    return hashlib.sha256(canonical(listing)).hexdigest()


def fetch_capture(uri: str, into: Path, tell: Tell = untold) -> Path:
    """A local folder with the capture's files, or the path of its one zip; a local capture is used in place.

    :param tell: as in `ArtifactStore.fetch`.
    """
    storage = open_storage(uri)
    in_place = storage.local_path("")
    if in_place is not None:
        return in_place
    entries = _entries(storage)
    hear = tell(sum(entry.size for entry in entries))
    if len(entries) == 1 and not entries[0].path:
        into.mkdir(parents=True)
        target = into / Path(uri).name
        storage.download("", target)
        hear(entries[0].size)
        return target

    def fetch_one(entry: Entry) -> None:
        target = into / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        storage.download(entry.path, target)
        hear(entry.size)

    in_parallel(fetch_one, entries)
    return into
