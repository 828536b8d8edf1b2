"""Whether a store does what claims and commits rely on, tried on a few bytes of its own."""

from __future__ import annotations

import datetime as dt
from uuid import uuid4

from e2e3d_stages.contract.messages import InvalidRequest, now
from e2e3d_stages.store.base import NotFound, Storage

# Ages are counted in days, and S3 itself refuses who is a quarter of an hour off.
LONGEST_SKEW = dt.timedelta(minutes=1)


def probe(storage: Storage) -> list[str]:
    """Try it; returns what was found, a line each.

    :raises InvalidRequest: when runs that share the store could do their work twice, or lose it.
    """
    folder = f"probes/{uuid4().hex}"
    path = f"{folder}/object"
    try:
        return [
            _creates_once(storage, path),
            _shows_at_once(storage, folder, path),
            _removes(storage, folder, path),
            _tells_the_time(storage),
        ]
    finally:
        storage.delete(folder)


def _creates_once(storage: Storage, path: str) -> str:
    first = storage.create(path, b"first")
    second = storage.create(path, b"second")
    if not first or second or storage.read(path) != b"first":
        raise InvalidRequest(
            f"{storage.uri} lets a second writer replace what a first one created, so that two runs could hold one "
            "attempt, and an artifact could change.",
            hint="The server ignores `If-None-Match: *`. Use a newer one, or another: AWS S3, MinIO and Ceph's gateway "
            "know conditional writes.",
        )
    return "create: what is there is never replaced"


def _shows_at_once(storage: Storage, folder: str, path: str) -> str:
    storage.write(path, b"third")
    listed = [entry.path for entry in storage.list(folder)]
    parent, _, name = folder.rpartition("/")
    if storage.read(path) != b"third" or listed != [path] or name not in storage.folders(parent):
        raise InvalidRequest(
            f"{storage.uri} does not show what was just written.",
            hint="Use a server whose reads and listings are strongly consistent; put no cache in front of it.",
        )
    return "read and list: what was written is there at once"


def _removes(storage: Storage, folder: str, path: str) -> str:
    storage.remove([path])
    try:
        storage.read(path)
    except NotFound:
        if not list(storage.list(folder)):
            return "remove: what was removed is gone at once"
    raise InvalidRequest(
        f"{storage.uri} still shows what was just removed.",
        hint="Use a server whose reads and listings are strongly consistent, and a bucket without object lock.",
    )


def _tells_the_time(storage: Storage) -> str:
    ahead = (storage.clock() - now()).total_seconds()
    far = abs(ahead) > LONGEST_SKEW.total_seconds()
    told = f"clock: {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
    return f"{told}; set one of them right, or files seem older or younger than they are" if far else told
