"""What people uploaded, as one listing of a root shows it: which captures there are, and which are complete."""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from e2e3d_stages.contract.captures import (
    BOX_BYTES,
    HEAD_BYTES,
    Kind,
    is_hidden,
    kind_by_name,
    kinds_of,
    lacks_its_end,
)
from e2e3d_stages.contract.messages import canonical
from e2e3d_stages.contract.paths import path_problem, shown
from e2e3d_stages.store.base import Entry, NotFound, Storage
from e2e3d_stages.store.captures import capture_name

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Capture:
    """A folder of photos and films, one zip or one film, directly below a root.

    :param name: of the folder or the file, as its root lists it.
    :param uri: where it is.
    :param photos: how many files are photos, without those in zips.
    :param single: whether it is one file: a zip or a film.
    :param size: of all files, in bytes.
    :param arrived: when its newest file came.
    :param fingerprint: differs when a file comes, goes or changes; not the digest of the contents, which nobody read.
    :param files: names of the files directly in it that are not called like photos: one may be a marker.
    :param first_photo: where one of its photos is, below `uri`; empty where there is none.
    :param zips: where its zips are, below `uri`, and how large; the one at `uri` itself is ''.
    :param films: how many files are films, without those in zips.
    :param cut_off: a film that lacks its end, as one that is still being written; empty where there is none.
    """

    name: str
    uri: str
    photos: int
    single: bool
    size: int
    arrived: dt.datetime
    fingerprint: str
    files: frozenset[str]
    first_photo: str = ""
    zips: tuple[tuple[str, int], ...] = ()
    films: int = 0
    cut_off: str = ""

    @property
    def counted(self) -> bool:
        """Whether `photos` are all there are: nobody has looked into a zip or a film."""
        return not self.zips and not self.films


def captures_below(storage: Storage) -> Iterator[Capture]:
    """Every capture below a root, by one paged listing, of which one capture at a time is kept.

    A capture is a folder, however deep its photos lie in it, one zip or one film. Other files beside them are passed
    over, and so is what is hidden, and what has no name that a folder could have: it would stand for the root, or for a
    place elsewhere.
    """
    files: list[Capture] = []
    # A listing is in the order of paths, so a folder's files come together.
    for name, group in groupby(storage.list(), key=lambda entry: entry.path.split("/", 1)[0]):
        if is_hidden(name):
            continue
        if problem := path_problem(name):
            log.info("%r below %s is no capture: %s", shown(name), storage.uri, problem)
            continue
        entries = list(group)
        capture = _capture(storage, name, storage.uri_of(name), entries, inside=len(name) + 1)
        # A bucket may hold a folder of a file's name, which comes later, and is what lies at their address.
        place = entries[-1].path[: len(name) + 1]
        yield from (each for each in files if f"{each.name}/" < place)
        files = [each for each in files if f"{each.name}/" >= place and (capture is None or each.name != name)]
        if capture is not None and capture.single:
            files.append(capture)
        elif capture is not None:
            yield capture
    yield from files


def capture_at(storage: Storage) -> Capture | None:
    """The one capture that a storage's root is, or None while nothing lies there."""
    return _capture(storage, capture_name(storage), storage.uri, list(storage.list()), inside=0)


def _capture(storage: Storage, name: str, uri: str, entries: list[Entry], *, inside: int) -> Capture | None:
    """A capture from its files, or None for what is none.

    :param storage: what was listed.
    :param inside: where in an entry's path the path inside the capture begins; one file has none.
    """
    files = {entry.path[inside:]: entry for entry in entries}
    seen = {path: entry for path, entry in files.items() if not is_hidden(path or name)}
    single = seen.keys() == {""}
    if single:
        files = seen
    else:
        # An object that is called like the folder is none of its files.
        for listed in (files, seen):
            listed.pop("", None)
    named = kind_by_name(name)
    if not seen or (single and named not in (Kind.ARCHIVE, Kind.FILM)):
        return None
    kinds = {"": named} if named else {}
    if not single:
        kinds = kinds_of({path: entry.size for path, entry in seen.items()}, partial(_head, storage, seen))
    photos = [path for path, kind in kinds.items() if kind is Kind.PHOTO]
    films = [path for path, kind in kinds.items() if kind is Kind.FILM]
    # A name on a disk may be no text.
    listing = [[path.encode(errors="backslashreplace").decode(), it.size, it.tag] for path, it in seen.items()]
    return Capture(
        name=name,
        uri=uri,
        photos=len(photos),
        single=single,
        size=sum(entry.size for entry in seen.values()),
        arrived=max(entry.arrived for entry in files.values()),
        fingerprint=hashlib.sha256(canonical(listing)).hexdigest()[:16],
        files=frozenset(
            path
            for path in files
            if "/" not in path and (is_hidden(path) or path_problem(path) or kind_by_name(path) is not Kind.PHOTO)
        ),
        first_photo=photos[0] if photos else "",
        zips=tuple((path, seen[path].size) for path, kind in kinds.items() if kind is Kind.ARCHIVE),
        films=len(films),
        cut_off=next((path or name for path in films if _is_cut_off(storage, seen[path])), ""),
    )


def _is_cut_off(storage: Storage, film: Entry) -> bool:
    # In a bucket nothing is seen before it is whole.
    if storage.local_path("") is None:
        return False
    with suppress(NotFound, OSError):
        return lacks_its_end(film.size, lambda place: storage.read_part(film.path, place, BOX_BYTES))
    return False


def _head(storage: Storage, entries: dict[str, Entry], path: str) -> bytes:
    """The first bytes of a file; none of one that is gone, or a link to elsewhere: that is for ingest to tell."""
    with suppress(NotFound, OSError):
        return storage.read_part(entries[path].path, 0, HEAD_BYTES)
    return b""
