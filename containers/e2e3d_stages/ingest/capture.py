"""Which files of a capture are photos, whether they lie in a folder, in a zip, or in a zip in either."""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from e2e3d_stages.contract.captures import (
    HEAD_BYTES,
    MASKS,
    MAX_BYTES,
    MAX_FILES,
    MOST_NOTE_BYTES,
    NOT_A_PHOTO,
    PACKED_SUFFIXES,
    UNSTITCHED_SUFFIXES,
    UNSUPPORTED,
    Kind,
    companions,
    films_of_photos,
    is_hidden,
    kind_by_name,
    kind_of,
    masks_of,
    suffix_of,
)
from e2e3d_stages.contract.damage import is_damage
from e2e3d_stages.contract.messages import Refused, UnreadableCapture
from e2e3d_stages.contract.paths import UnsafePath, safe_path, shown
from e2e3d_stages.store.base import CHUNK
from e2e3d_stages.store.captures import UNSAFE_NAME, LocalCapture, Source, reading
from e2e3d_stages.store.zips import entry_head, entry_name, entry_path, entry_problem, is_folder, open_zip, unreadable

# A zip, and the zips in it.
MAX_ZIP_DEPTH = 2
# Photos hardly shrink in a zip; an uncompressed TIFF of a plain wall may by a factor of 20.
MAX_ZIP_RATIO = 100
# What is as small harms nobody, however well it was compressed.
MIN_SUSPECT_BYTES = 2**20
# Of all notes together that are unpacked.
MOST_NOTES_BYTES = 2**28
_UNPACKED = (Kind.PHOTO, Kind.FILM, Kind.ARCHIVE)
_BOMB = f"unpacks to more than {MAX_ZIP_RATIO} times its size, as a zip bomb does"


@dataclass
class Listed:
    """What lies in a capture.

    :param photos: in natural order, as the films.
    :param refused: what was not taken for a photo, or cannot become one, with the reason.
    :param companions: how many files of each kind accompany photos: depth maps, previews, masks of no photo, …
    :param masks: of photos, by the photo's name.
    :param notes: side files that may say where photos were taken.
    """

    photos: list[Source]
    films: list[Source]
    refused: list[Refused]
    companions: Counter[str] = field(default_factory=Counter)
    masks: dict[str, Source] = field(default_factory=dict)
    notes: list[Source] = field(default_factory=list)


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts `IMG_2` before `IMG_10`, whatever the case of letters."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part] + [(2, 0, name)]


def list_capture(capture: LocalCapture, scratch: Path) -> Listed:
    """What the files of a capture are. Hidden ones and `__MACOSX` folders are passed over in silence.

    :param scratch: where zips are unpacked.
    :raises UnreadableCapture: a zip that is damaged, encrypted, a bomb, or leaves its folder.
    """
    unpacking = _Unpacking(scratch)
    files: list[tuple[Source, Kind]] = []
    refused = list(capture.left_out)
    for found in (each for file in capture.files for each in _opened(file, capture, unpacking)):
        if isinstance(found, Refused):
            refused.append(found)
        else:
            files.append(found)
    files = [(source, kind) for source, kind in files if not is_hidden(source.name)]
    beside = companions({source.name for source, kind in files if kind is Kind.PHOTO})
    photos = [source for source, kind in files if kind is Kind.PHOTO and source.name not in beside]
    films = [source for source, kind in files if kind is Kind.FILM]
    shadows = films_of_photos({film.name for film in films}, {photo.name for photo in photos})
    sources = {source.name: source for source, kind in files if kind is Kind.PHOTO}
    owners = masks_of([name for name, what in beside.items() if what == MASKS], {photo.name for photo in photos})
    refused += [_not_a_photo(source.name, kind) for source, kind in files if kind not in (Kind.PHOTO, Kind.FILM)]
    return Listed(
        photos=sorted(photos, key=lambda photo: natural_order(photo.name)),
        films=sorted((film for film in films if film.name not in shadows), key=lambda film: natural_order(film.name)),
        refused=sorted(
            (item for item in refused if not is_hidden(item.source)), key=lambda item: natural_order(item.source)
        ),
        companions=Counter(what for name, what in beside.items() if name not in owners),
        masks={photo: sources[mask] for mask, photo in owners.items()},
        notes=[source for source, kind in files if kind is Kind.NOTE],
    )


def _not_a_photo(name: str, kind: Kind) -> Refused:
    if kind is Kind.MEDIA:
        what = suffix_of(name)[1:].upper() or "Such a file"
        if kind_by_name(name) in (Kind.PHOTO, Kind.FILM):
            return Refused(name, UNSUPPORTED, f"It is no {what}, whatever its name says: export it as JPEG.")
        if suffix_of(name) in UNSTITCHED_SUFFIXES:
            return Refused(
                name,
                UNSUPPORTED,
                f"{what} holds two unjoined pictures: export it as MP4 by the camera maker's program.",
            )
        if suffix_of(name) in PACKED_SUFFIXES:
            return Refused(name, UNSUPPORTED, f"{what} is not opened: pack it as a zip, or upload the folder itself.")
        return Refused(name, UNSUPPORTED, f"{what} cannot be read: export it as JPEG.")
    if kind is Kind.ARCHIVE:
        return Refused(name, "unreadable", "A zip in a zip in a zip is not opened.")
    return Refused(name, NOT_A_PHOTO, "Not a photo.")


def _opened(file: Source, capture: LocalCapture, unpacking: _Unpacking) -> Iterator[tuple[Source, Kind] | Refused]:
    """A file of a capture and what it is; of a zip what lies in it, under names that begin with the zip's."""
    with reading(file.name), file.path.open("rb") as opened:
        kind = kind_of(file.name, opened.read(HEAD_BYTES))
    if capture.single and kind not in (Kind.PHOTO, Kind.FILM):
        # What is given by itself is a photo, a film or a zip, and says of itself when it is neither.
        with reading(file.name):
            yield from unpacking.unpack(file, inside="")
    elif kind is Kind.ARCHIVE:
        try:
            with reading(file.name):
                yield from unpacking.unpack(file, inside=f"{file.name}/")
        except UnreadableCapture as error:
            yield Refused(file.name, "unreadable", f"{error.message} {error.hint}")
    else:
        yield file, kind


class _Unpacking:
    """Zips of one capture, unpacked under names of our own and within limits that hold for all of them together."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._entries = self._bytes = self._files = self._note_bytes = 0

    def unpack(self, zipped: Source, *, inside: str, depth: int = 1) -> Iterator[tuple[Source, Kind] | Refused]:
        """What lies in a zip; only what may be a photo, a film, or another zip, takes room on the disk.

        :param inside: what the names of its files begin with.
        :raises UnreadableCapture: one that is damaged as a whole, or refused.
        """
        with zipped.path.open("rb") as file, open_zip(file, zipped.name) as bundle:
            entries = [
                entry for entry in bundle.infolist() if not is_folder(entry) and not is_hidden(entry_path(entry))
            ]
            self._admit(entries, zipped.path.stat().st_size)
            for entry in entries:
                name = inside + entry_path(entry)
                try:
                    safe_path(name)
                except UnsafePath as error:
                    yield Refused(shown(name), UNSAFE_NAME, str(error))
                    continue
                kind = _kind(bundle, entry)
                if kind in (Kind.PHOTO, Kind.FILM) or (kind is Kind.ARCHIVE and depth < MAX_ZIP_DEPTH):
                    found = self._extract(bundle, entry, name)
                    if kind is Kind.ARCHIVE and isinstance(found, Source):
                        yield from self._unpack_inner(found, depth + 1)
                    else:
                        yield found if isinstance(found, Refused) else (found, kind)
                elif kind is Kind.NOTE and (note := self._note(bundle, entry, name)):
                    yield note, kind
                else:
                    yield Source(name, zipped.path), Kind.SIDE if kind is Kind.NOTE else kind

    def _note(self, bundle: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str) -> Source | None:
        """A note, unpacked; None of one that is too large or damaged, and then says nothing."""
        self._note_bytes += entry.file_size
        if entry.file_size > MOST_NOTE_BYTES or self._note_bytes > MOST_NOTES_BYTES:
            return None
        found = self._extract(bundle, entry, name)
        return found if isinstance(found, Source) else None

    def _unpack_inner(self, zipped: Source, depth: int) -> Iterator[tuple[Source, Kind] | Refused]:
        try:
            yield from self.unpack(zipped, inside=f"{zipped.name}/", depth=depth)
        except UnreadableCapture as error:
            yield Refused(zipped.name, "unreadable", f"{error.message} {error.hint}")
        finally:
            zipped.path.unlink()

    def _admit(self, entries: list[zipfile.ZipInfo], size: int) -> None:
        """Refuse a whole zip before a byte of it is unpacked.

        :param size: of the zip, in bytes.
        """
        wanted = [entry for entry in entries if kind_by_name(entry_path(entry)) in _UNPACKED]
        self._entries += len(entries)
        self._bytes += sum(entry.file_size for entry in wanted)
        if self._entries > MAX_FILES or self._bytes > MAX_BYTES:
            raise UnreadableCapture(
                f"The zip holds {self._entries} files of {self._bytes / 2**30:.1f} GiB together.",
                hint=f"At most {MAX_FILES} files and {MAX_BYTES / 2**30:.0f} GiB are unpacked.",
            )
        problems = ((entry, entry_problem(entry)) for entry in entries)
        bombs = ((entry, _BOMB) for entry in wanted if _is_bomb(entry))
        for entry, problem in (*problems, *bombs):
            if problem:
                raise UnreadableCapture(
                    f"The zip is refused: {shown(entry_name(entry))!r} {problem}.",
                    hint="Zip only the photos themselves, without a password.",
                )
        if self._bytes > max(MIN_SUSPECT_BYTES, MAX_ZIP_RATIO * size):
            raise UnreadableCapture(f"The zip is refused: it {_BOMB}.", hint="Zip only the photos themselves.")

    def _extract(self, bundle: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str) -> Source | Refused:
        """Unpack one entry; zipfile itself stops at the declared size and checks the CRC."""
        if _is_bomb(entry):
            return Refused(name, "unreadable", f"It {_BOMB}.")
        target = self._scratch / f"unpacked-{self._files:05d}"
        self._files += 1
        try:
            with bundle.open(entry) as packed, target.open("wb") as unpacked:
                while chunk := packed.read(CHUNK):
                    unpacked.write(chunk)
        except Exception as error:
            if not is_damage(error):
                raise
            target.unlink(missing_ok=True)
            return Refused(name, "unreadable", unreadable(entry, error))
        return Source(name, target)


def _kind(bundle: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Kind:
    """By content where it can be read, else by name."""
    head = entry_head(bundle, entry)
    return kind_of(entry_path(entry), head) if head else kind_by_name(entry_path(entry)) or Kind.SIDE


def _is_bomb(entry: zipfile.ZipInfo) -> bool:
    return entry.file_size > max(MIN_SUSPECT_BYTES, MAX_ZIP_RATIO * entry.compress_size)
