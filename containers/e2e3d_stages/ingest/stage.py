"""Prepare a capture's photos and films: upright, resized, without EXIF, and a record of what their EXIF said."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from e2e3d_stages.contract.captures import (
    DUPLICATE,
    FACES,
    HIDDEN,
    NOT_A_PHOTO,
    UNCOUNTED,
    UNSUPPORTED,
    UNUSED_FILM,
    has_panorama_shape,
)
from e2e3d_stages.contract.messages import InvalidRequest, Refused, UnreadableCapture
from e2e3d_stages.ingest import films, masks
from e2e3d_stages.ingest.capture import Listed, list_capture
from e2e3d_stages.ingest.copies import Cells, cells_of, copies
from e2e3d_stages.ingest.exif import Exif
from e2e3d_stages.ingest.panoramas import FACE_BYTES, closes, faces
from e2e3d_stages.ingest.params import Params
from e2e3d_stages.ingest.pixels import (
    FULL,
    Glance,
    Memory,
    Picture,
    Range,
    TooLarge,
    Unreadable,
    decode,
    look,
    range_of,
)
from e2e3d_stages.ingest.poses import Pose, no_poses, poses_of, refuse_turned, take_poses
from e2e3d_stages.ingest.positions import Positions, find_positions
from e2e3d_stages.ingest.sharpness import LONG_SIDE, sharpness
from e2e3d_stages.ingest.tracks import Track, place_at, read_track, track_of
from e2e3d_stages.runtime.context import StageContext
from e2e3d_stages.store.base import file_digest
from e2e3d_stages.store.captures import UNSAFE_NAME, Source, reading

JPEG_QUALITY = 95
MIN_PHOTOS = 3
# Of a film that sees all around, however few photos its frames may become.
FEWEST_OF_PANORAMAS = 10
# Of 255: what is less opaque does not count.
OPAQUE = 127
MAX_WORKERS = 8
NAMED_IN_WARNING = 10
REASONS = {
    "unreadable": "cannot be read",
    DUPLICATE: "show the same as other photos",
    "too_small": "are too small",
    "too_large": "take too much memory",
    "outside": "are links to files outside the capture",
    UNSAFE_NAME: "have names that no file can have",
    UNSUPPORTED: "are in a format that is not supported",
    UNUSED_FILM: "are films of which nothing can be used",
    HIDDEN: "are hidden as a whole by their masks",
}
# What was done to photos that are used, and what to do where that is not wanted.
REMARKS = {
    "range": (
        "Photos with more than 8 bits a value: {} became black to white, the same way in all photos of one camera",
        "Nothing to do, unless another range is to be shown: then export them with 8 bits a value.",
    ),
    "alpha": (
        "Photos that are transparent in places, which became grey and count for nothing",
        "Nothing to do if that was cut out on purpose; otherwise export them without transparency.",
    ),
    "cut": ("Photos that lack their end; what is missing of them became grey", "Copy them again from the camera."),
    "profile": (
        "Photos with a colour profile that cannot be used; they were taken for sRGB",
        "Nothing to do if their colours are right; otherwise export them again, as sRGB.",
    ),
}


@dataclass(frozen=True)
class Prepared:
    """One photo, ready under a temporary name.

    :param film: which film it is a frame of.
    :param seconds: its time in that film.
    :param alpha: how opaque it is, where it tells.
    :param panorama: which panorama it is a face of.
    :param turn: from that panorama's axes to its own, 3 x 3.
    """

    source: str
    path: Path
    content: str
    pixels: str
    width: int
    height: int
    focal_px: float | None
    blur: float
    exif: Exif
    stored: tuple[int, int]
    bytes: int
    cells: Cells
    remarks: Mapping[str, str]
    film: str = ""
    seconds: float = 0.0
    alpha: Path | None = None
    panorama: str = ""
    turn: tuple[tuple[float, ...], ...] = ()


def run(context: StageContext) -> dict[str, Any]:
    """Write `images/` and `photos.json`; also `poses/`, the capture's own COLMAP model, when there is to be one.

    What counts of photos that have a mask is in `masks/`. What a file beside the photos says of where they were taken
    is in `photos.json`.

    :return: counts of photos given, usable and dropped, cameras, photos with GPS and focal length, median blur score.
    :raises UnreadableCapture: fewer than three usable photos, a zip that is refused, or poses that cannot fit.
    :raises InvalidRequest: for an end of films that is before their start.
    """
    assert context.capture is not None
    if 0 < context.params.end <= context.params.start:
        raise InvalidRequest(
            f"Films are to end at {context.params.end:g} s and to begin at {context.params.start:g} s.",
            hint="Give an ingest_end after ingest_start, or 0 for the films' own end.",
        )
    listed = list_capture(context.capture, context.scratch)
    dropped = listed.refused
    own = [note for note in listed.notes if note.name == context.params.poses]
    if context.params.poses and not own:
        take_poses(context.capture, context.params.poses, context.output / "poses")
        dropped = [item for item in dropped if not item.source.startswith(f"{context.params.poses}/")]
    tracks, subtitles = _tracks(listed)
    prepared, refused = _once(_prepare_all(context, listed, tracks))
    dropped = [*(item for item in dropped if item.source not in subtitles), *refused]
    if len(prepared) < MIN_PHOTOS:
        raise _too_few(prepared, dropped)
    if context.params.poses:
        refuse_turned(prepared)
    _warn_about(dropped, context)
    _tell_companions(listed.companions, context)
    _remark_on(prepared, context)
    positions = find_positions(own or listed.notes, [photo.source for photo in prepared])
    poses = poses_of(positions, prepared) if own and positions else {}
    if own and not poses:
        raise no_poses(own[0].name)
    if positions:
        dropped = [item for item in dropped if item.source != positions.source]
        _tell_positions(positions, len(prepared), context)
    masked = _mask(prepared, listed.masks, context)
    # Of a panorama's sides nobody need be told.
    hidden = [
        Refused(photo.source, HIDDEN, "Its mask hides all of it.")
        for photo in prepared
        if photo.source in masked.hidden and not photo.panorama
    ]
    _warn_about(hidden, context)
    dropped += hidden
    prepared = [photo for photo in prepared if photo.source not in masked.hidden]
    if len(prepared) < MIN_PHOTOS:
        raise _too_few(prepared, dropped)
    return _write(context, prepared, dropped, masked, positions, poses)


def _tracks(listed: Listed) -> tuple[dict[str, Track], set[str]]:
    """Where films were taken by the subtitles beside them, and which subtitles say so."""
    told = {film.name: note for film in listed.films if (note := track_of(film.name, listed.notes))}
    tracks = {film: track for film, note in told.items() if (track := read_track(note))}
    return tracks, {told[film].name for film in tracks}


def _once(results: Iterable[Prepared | Refused]) -> tuple[list[Prepared], list[Refused]]:
    """Each photo once, and what is none or shows the same as another."""
    prepared, refused = [], []
    seen: dict[str, str] = {}
    for result in results:
        if isinstance(result, Prepared):
            result = _refuse_copy(result, seen)
        if isinstance(result, Prepared):
            prepared.append(result)
        else:
            refused.append(result)
    prepared, twins = _without_twins(prepared)
    return prepared, refused + twins


@dataclass(frozen=True)
class Masked:
    """What the masks of a capture say.

    :param files: of the photos that have one, one bit a pixel, by the photo's name in the capture: white counts.
    :param cut_out: whether what they hide is empty, since they cut one thing out of everything around it.
    :param hidden: of which nothing counts.
    """

    files: Mapping[str, Path]
    cut_out: bool
    hidden: Collection[str]


def _mask(prepared: list[Prepared], sources: Mapping[str, Source], context: StageContext) -> Masked:
    """Read the masks beside the photos and in them, and tell how."""
    drawn: dict[str, masks.Mask] = {}
    unused: list[str] = []
    memory = Memory()
    faces_of: dict[str, list[Prepared]] = {}
    for photo in prepared:
        faces_of.setdefault(photo.panorama or photo.source, []).append(photo)
    drawn_of = [name for name in faces_of if name in sources]
    with reading("a mask"):
        upright = masks.are_upright(
            (sources[name].path, photo.stored, (photo.width, photo.height))
            for name in drawn_of
            if not (photo := faces_of[name][0]).panorama
        )
    for name in drawn_of:
        source = sources[name]
        try:
            with reading(source.name):
                drawn |= _drawn(faces_of[name], source, memory, upright=upright)
        except (Unreadable, TooLarge) as error:
            unused.append(f"{source.name}: {error}")
    how = masks.reading_of([mask.cells for mask in drawn.values()]) if drawn else masks.Reading(0, inverted=False)
    files, cells, hidden = {}, [], []
    for photo in prepared:
        kept = np.ones((photo.height, photo.width), bool)
        if photo.source in drawn:
            kept &= how.kept(np.asarray(Image.open(drawn[photo.source].path)))
        if photo.alpha:
            kept &= np.asarray(Image.open(photo.alpha)) > OPAQUE
        if not kept.any():
            hidden.append(photo.source)
        elif not kept.all():
            files[photo.source] = photo.path.with_suffix(".mask.png")
            image = Image.fromarray(kept)
            image.save(files[photo.source])
            cells.append(np.asarray(image.convert("L").resize((masks.CELLS,) * 2, Image.Resampling.BOX)) > OPAQUE)
    masked = Masked(files, bool(cells) and masks.is_cut_out(cells, len(prepared)), hidden)
    _tell_masks(
        masked,
        unused,
        float(np.mean(cells)) if cells else 1.0,
        len(prepared) - len(hidden),
        context,
        inverted=how.inverted,
    )
    return masked


def _drawn(photos: Sequence[Prepared], source: Source, memory: Memory, *, upright: bool) -> dict[str, masks.Mask]:
    """A mask as its photo was prepared; of a panorama those of its faces, by their names.

    :param upright: whether the masks of the capture are.
    """
    photo = photos[0]
    target, turned = photo.path.with_suffix(".drawn.png"), photo.exif.orientation
    if not photo.panorama:
        size = (photo.width, photo.height)
        seen = masks.Seen(photo.stored, size, turned, upright)
        return {photo.source: masks.load(source.path, seen, target, memory)}
    size = (FACES * photo.width, FACES * photo.width // 2)
    whole = masks.load(source.path, masks.Seen(size, size, turned), target, memory)
    found, by_turn = {}, {face.turn: face for face in photos}
    with memory.of(size, FACE_BYTES * size[0] * size[1]):
        for image, turn in faces(Image.open(whole.path), poles=True):
            face = by_turn.get(tuple(map(tuple, turn.tolist())))
            if face:
                path = face.path.with_suffix(".face.png")
                image.convert("L").save(path)
                found[face.source] = replace(whole, path=path)
    return found


def _tell_masks(
    masked: Masked, unused: list[str], share: float, photos: int, context: StageContext, *, inverted: bool
) -> None:
    if unused:
        context.warn(
            "masks_not_used",
            f"{len(unused)} masks could not be used, so that their photos count as a whole: {_listed(unused)}.",
            "Draw them anew, black and white and of their photo's shape.",
        )
    if masked.files:
        whole = "" if len(masked.files) == photos else f", and the other {photos - len(masked.files)} photos as a whole"
        background = "They cut one thing out: around it nothing is drawn. " if masked.cut_out else ""
        turned = "Read the usual way they would hide what the photos are of. " if inverted else ""
        context.warn(
            "masks",
            f"{len(masked.files)} photos count only where their masks are {'black' if inverted else 'white'}, "
            f"{share:.0%} of them{whole}: for poses, for training and for the figures. {background}{turned}".strip(),
            "Nothing to do if that is right; otherwise exchange black and white, or take the masks out of the capture.",
        )


def _prepare_all(context: StageContext, listed: Listed, tracks: Mapping[str, Track]) -> Iterator[Prepared | Refused]:
    """Photos in their order, and then the frames of films in theirs."""
    folder = context.scratch / "prepared"
    folder.mkdir()
    memory = Memory()
    for done, results in enumerate(_prepare_photos(context, listed.photos, listed.masks, folder, memory), start=1):
        context.progress(done, len(listed.photos), "photos", phase="preparing photos")
        yield from results
    yield from _prepare_films(context, listed.films, tracks, folder, memory)


def _prepare_films(
    context: StageContext, sources: list[Source], tracks: Mapping[str, Track], folder: Path, memory: Memory
) -> Iterator[Prepared | Refused]:
    """The frames of films; a film of which nothing can be used spoils only itself."""
    params, found = context.params, []
    for source in sources:
        with reading(source.name):
            try:
                film = films.look(source, params.start, params.end)
            except (Unreadable, films.Unused) as error:
                yield _refused_film(source, error)
                continue
        if max(film.size) < params.min_size:
            yield Refused(source.name, "too_small", f"{film.size[0]} x {film.size[1]} pixels")
        else:
            found.append(film)
    # One frame of what sees all around becomes several photos.
    most = (
        max(FEWEST_OF_PANORAMAS, params.frames // FACES)
        if any(has_panorama_shape(film.size) for film in found)
        else params.frames
    )
    counts = films.windows([film.seconds for film in found], most) if found else []
    begun = 0.0
    for film, count in zip(found, counts, strict=True):
        size = params.max_size * FACES if has_panorama_shape(film.size) else params.max_size
        frames = films.frames_of(film, count, size, memory, context.threads, context.check_stop)
        with reading(film.source.name):
            try:
                for place, frame in enumerate(frames):
                    told = begun + (frame.seconds - film.start) / film.seconds * count
                    context.progress(min(told, sum(counts)), sum(counts), "frames", phase="choosing frames")
                    exif = _exif_of(film, frame, place, tracks.get(film.source.name, film.track))
                    yield from _prepared_frame(film, frame, exif, place, folder, params.max_size)
            except (Unreadable, films.Unused, TooLarge) as error:
                yield _refused_film(film.source, error)
        begun += count


def _refused_film(source: Source, error: Exception) -> Refused:
    reasons = {TooLarge: "too_large", films.Unused: UNUSED_FILM}
    return Refused(source.name, reasons.get(type(error), "unreadable"), str(error))


def _exif_of(film: films.Film, frame: films.Frame, place: int, track: Track) -> Exif:
    """What is known of a frame; a film itself says only where it began."""
    gps = place_at(track, frame.seconds) if track else film.exif.gps if place == 0 else None
    taken = films.later(film.exif.taken, frame.seconds) if film.exif.taken else None
    return replace(film.exif, gps=gps, taken=taken)


def _prepared_frame(
    film: films.Film, frame: films.Frame, exif: Exif, place: int, folder: Path, max_size: int
) -> Iterator[Prepared]:
    target = folder / f"{hashlib.sha256(film.source.name.encode(errors='replace')).hexdigest()}-{place}.jpg"
    name, image = f"{film.source.name}/{frame.seconds:08.3f} s", frame.image
    if has_panorama_shape(film.size) and closes(image):
        photos = _prepared_faces(name, Picture(image), target, exif, poles=False)
    else:
        image.thumbnail((max_size, max_size), Image.Resampling.LANCZOS)
        photos = [_stored(name, image, target, film.size, exif)]
    for photo in photos:
        yield replace(photo, film=film.source.name, seconds=round(frame.seconds, 3))


def _prepare_photos(
    context: StageContext, sources: list[Source], masked: Collection[str], folder: Path, memory: Memory
) -> Iterator[Sequence[Prepared | Refused]]:
    """Results in the sources' order, several of a panorama.

    :param masked: names of those that have a mask beside them.

    Pillow works outside Python's lock, so that threads are enough.
    """
    pool = ThreadPoolExecutor(min(context.threads, MAX_WORKERS))
    try:
        glances = []
        for glance in pool.map(lambda source: _glance(source, memory, context.params), sources):
            context.check_stop()
            glances.append(glance)
        ranges = _ranges(glances)
        targets = [folder / f"{place}.jpg" for place in range(len(sources))]

        def prepare(source: Source, glance: Glance | Refused, target: Path) -> Sequence[Prepared | Refused]:
            if isinstance(glance, Refused):
                return [glance]
            values, poles = ranges.get(glance.camera, FULL), source.name in masked
            return _prepare(source, glance, target, context.params, memory, values, poles=poles)

        for result in pool.map(prepare, sources, glances, targets):
            context.check_stop()
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def _ranges(glances: list[Glance | Refused]) -> dict[Any, Range]:
    """One range of values for the photos of each camera that have more than 8 bits."""
    deep = [glance for glance in glances if isinstance(glance, Glance) and glance.deep]
    return {
        camera: range_of([it.deep for it in deep if it.camera == camera and it.deep], integers=camera[0])
        for camera in {glance.camera for glance in deep}
    }


def _glance(source: Source, memory: Memory, params: Params) -> Glance | Refused:
    """What a photo's header tells."""
    with reading(source.name):
        try:
            glance = look(source.path, source.name, memory)
        except Unreadable as error:
            return Refused(source.name, "unreadable", str(error))
        except TooLarge as error:
            return Refused(source.name, "too_large", str(error))
    if max(glance.size) < params.min_size:
        return Refused(source.name, "too_small", f"{glance.size[0]} x {glance.size[1]} pixels")
    return glance


def _prepare(
    source: Source, glance: Glance, target: Path, params: Params, memory: Memory, values: Range, *, poles: bool
) -> Sequence[Prepared | Refused]:
    """Read one photo and write it upright, resized and without EXIF to `target`; of a panorama its faces.

    :param poles: whether the poles of a panorama are among them, as they are of one that is transparent in places.
    """
    with reading(source.name):
        try:
            picture = decode(source.path, glance, params.max_size, memory, values)
            if has_panorama_shape(glance.size) and (glance.exif.all_around or closes(picture.image)):
                picture = decode(source.path, glance, params.max_size * FACES, memory, values)
                with memory.of(picture.image.size, FACE_BYTES * picture.image.width * picture.image.height):
                    return _prepared_faces(
                        source.name, picture, target, glance.exif, poles=poles or bool(picture.alpha)
                    )
        except Unreadable as error:
            return [Refused(source.name, "unreadable", str(error))]
        except TooLarge as error:
            return [Refused(source.name, "too_large", str(error))]
        content = file_digest(source.path)
    alpha = None
    if picture.alpha:
        alpha = target.with_suffix(".alpha.png")
        picture.alpha.save(alpha)
    photo = _stored(source.name, picture.image, target, glance.size, glance.exif)
    size = source.path.stat().st_size
    return [replace(photo, content=content, bytes=size, remarks=picture.remarks, alpha=alpha)]


def _prepared_faces(name: str, picture: Picture, target: Path, exif: Exif, *, poles: bool) -> list[Prepared]:
    prepared = []
    opaque = [face for face, _ in faces(picture.alpha, poles=True)] if picture.alpha else []
    for place, (face, turn) in enumerate(faces(picture.image, poles=poles)):
        # They look 90 degrees wide.
        lens = replace(exif, focal_px=face.width / 2, focal_mm=None, up=None)
        path, alpha = target.with_suffix(f".{place}.jpg"), None
        if opaque:
            alpha = path.with_suffix(".alpha.png")
            opaque[place].convert("L").save(alpha)
        photo = _stored(f"{name}/face {place + 1}", face, path, face.size, lens)
        turned = tuple(map(tuple, turn.tolist()))
        prepared.append(replace(photo, panorama=name, turn=turned, alpha=alpha, remarks=picture.remarks))
    return prepared


def _stored(name: str, image: Image.Image, target: Path, full: tuple[int, int], exif: Exif) -> Prepared:
    """A picture, written to `target`.

    :param full: its size before it was resized, in px, upright or not.
    """
    image.save(target, "JPEG", quality=JPEG_QUALITY)
    scale = max(image.size) / max(full)
    pixels = hashlib.sha256(image.tobytes()).hexdigest()
    return Prepared(
        source=name,
        path=target,
        content=pixels,
        pixels=pixels,
        width=image.width,
        height=image.height,
        focal_px=exif.focal_px * scale if exif.focal_px else None,
        blur=blur_score(image),
        exif=exif,
        stored=full,
        bytes=0,
        cells=cells_of(image),
        remarks={},
    )


def blur_score(image: Image.Image) -> float:
    """The sharpness of a photo of any size."""
    scale = LONG_SIDE / max(image.size)
    size = (max(3, round(image.width * scale)), max(3, round(image.height * scale)))
    return sharpness(np.asarray(image.convert("L").resize(size, Image.Resampling.BOX), np.float32))


def _refuse_copy(photo: Prepared, seen: dict[str, str]) -> Prepared | Refused:
    """A second copy adds no view; the first in natural order stays."""
    original = seen.get(photo.content) or seen.get(photo.pixels)
    if original is None:
        seen[photo.content] = seen[photo.pixels] = photo.source
        return photo
    photo.path.unlink()
    same = "file" if photo.content in seen else "picture"
    return Refused(photo.source, DUPLICATE, f"The same {same} as {original}.")


def _without_twins(prepared: list[Prepared]) -> tuple[list[Prepared], list[Refused]]:
    """Of photos that show the same the one with the most pixels stays, and then that of the largest file.

    Of a film's frames nobody need be told that: it has more than are taken.
    """
    best = sorted(prepared, key=lambda photo: (photo.stored[0] * photo.stored[1], photo.bytes), reverse=True)
    originals = {
        best[copy].source: best[original].source
        for copy, original in copies([(photo.cells, photo.width / photo.height) for photo in best]).items()
    }
    for photo in prepared:
        if photo.source in originals:
            photo.path.unlink()
    return [photo for photo in prepared if photo.source not in originals], [
        Refused(
            photo.source,
            DUPLICATE,
            f"Shows the same as {originals[photo.source]}, at another size or quality, or from the very same place.",
        )
        for photo in prepared
        if photo.source in originals and not photo.film
    ]


def _too_few(prepared: list[Prepared], dropped: list[Refused]) -> UnreadableCapture:
    usable = ", ".join(photo.source for photo in prepared) or "none"
    # A note beside two photos is not why they are too few.
    dropped = [item for item in dropped if item.reason != NOT_A_PHOTO] or dropped
    alike: dict[tuple[str, str], list[str]] = {}
    for item in dropped:
        alike.setdefault((item.reason.replace("_", " "), item.detail), []).append(item.source)
    named = list(alike.items())[:NAMED_IN_WARNING]
    stood = 2 * sum(item.reason == DUPLICATE for item in dropped) > len(dropped)
    reasons = "; ".join(f"{_listed(names)}: {reason} ({detail})" for (reason, detail), names in named)
    return UnreadableCapture(
        f"Only {len(prepared)} of {len(prepared) + len(dropped)} files are usable photos (usable: {usable})."
        + (f" Left out: {reasons}." if reasons else ""),
        hint=("From one place nothing has a depth: the camera must move from photo to photo. " if stood else "")
        + f"A scene needs at least {MIN_PHOTOS} photos, better 30, taken all around it with much overlap.",
        details={
            "usable": [photo.source for photo in prepared],
            "dropped": [vars(item) for item in dropped],
        },
    )


def _warn_about(dropped: list[Refused], context: StageContext) -> None:
    for reason, count in Counter(item.reason for item in dropped if item.reason != NOT_A_PHOTO).items():
        names = [item.source for item in dropped if item.reason == reason]
        context.warn(
            f"photos_{reason}",
            f"{count} {'file was' if count == 1 else 'files were'} left out because they {REASONS[reason]}: "
            f"{_listed(names)}.",
            "Nothing to do if that is intended; otherwise export or upload these files again.",
        )


def _tell_companions(companions: Counter[str], context: StageContext) -> None:
    if companions:
        told = ", ".join(f"{count} {what}" for what, count in sorted(companions.items()))
        context.warn(
            "companions",
            f"Beside the photos lie files that accompany them and were not taken for photos: {told}.",
            "Nothing to do if that is right; if some of them are photos, move them into a folder of another name.",
        )


def _tell_positions(positions: Positions, photos: int, context: StageContext) -> None:
    table = positions.table
    what = f"{positions.source} ({table.what}) says where {len(positions.rows)} of {photos} photos were taken"
    unit = "" if table.meters else ", in no unit of its own, so that only neighbours are found by it"
    strange = positions.strangers
    odd = (
        f"{strange} of its rows are of no photo here" if strange else "",
        f"{table.bad} cannot be read" if table.bad else "",
    )
    rest = "; ".join(filter(None, odd))
    context.warn(
        "positions",
        f"{what}{unit}.{f' {rest[0].upper()}{rest[1:]}.' if rest else ''}",
        "Nothing to do if that is right; otherwise take the file out of the capture.",
    )


def _remark_on(prepared: list[Prepared], context: StageContext) -> None:
    remarked: dict[tuple[str, str], dict[str, None]] = {}
    for photo in prepared:
        for remark, detail in photo.remarks.items():
            remarked.setdefault((remark, detail), {})[photo.panorama or photo.source] = None
    for (remark, detail), names in remarked.items():
        what, advice = REMARKS[remark]
        context.warn(f"photos_{remark}", f"{what.format(detail)} ({len(names)}): {_listed([*names])}.", advice)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED_IN_WARNING} more" if len(names) > NAMED_IN_WARNING else ""
    return ", ".join(names[:NAMED_IN_WARNING]) + more


def _write(
    context: StageContext,
    prepared: list[Prepared],
    dropped: list[Refused],
    masked: Masked,
    positions: Positions | None,
    poses: Mapping[str, Pose],
) -> dict[str, Any]:
    folder = context.output / "images"
    folder.mkdir()
    if masked.files:
        (context.output / "masks").mkdir()
    cameras: dict[tuple[Any, ...], int] = {}
    photos = []
    filmed: dict[str, dict[str, float]] = {}
    for place, photo in enumerate(prepared, start=1):
        name = photo_name(place, len(prepared), photo.source)
        photo.path.replace(folder / name)
        pose = poses.get(photo.source, {})
        if photo.film:
            filmed.setdefault(photo.film, {})[name] = photo.seconds
        if photo.source in masked.files:
            # As COLMAP looks for it.
            masked.files[photo.source].replace(context.output / "masks" / f"{name}.png")
        photos.append(
            {
                "name": name,
                "source": photo.source,
                "width": photo.width,
                "height": photo.height,
                "full": _full_size(photo),
                "focal_px": round(photo.focal_px, 3) if photo.focal_px else None,
                "camera": cameras.setdefault((*_camera_of(photo), *pose.get("lens", ())), len(cameras)),
                "gps": photo.exif.gps,
                "taken": photo.exif.taken,
                "blur": photo.blur,
                **({"up": photo.exif.up} if photo.exif.up else {}),
                **(_place_of(photo, positions) if positions else {}),
                **({"pose": pose} if pose else {}),
                **({"panorama": {"source": photo.panorama, "turn": photo.turn}} if photo.panorama else {}),
            }
        )
    record: dict[str, Any] = {
        "photos": photos,
        "cameras": [
            dict(zip(("id", "make", "model", "lens", "focal_mm", "width", "height"), (number, *group[:6]), strict=True))
            for group, number in cameras.items()
        ],
        "films": [{"source": film, "frames": frames} for film, frames in filmed.items()],
        "dropped": [vars(item) for item in dropped],
    }
    if masked.files:
        record["masks"] = {"cut_out": masked.cut_out}
    if positions:
        record["positions"] = {"source": positions.source, "meters": positions.table.meters}
    (context.output / "photos.json").write_text(
        json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return {
        "files_given": len(prepared) + len(dropped),
        "photos": len(photos),
        "dropped": len(dropped),
        "other_files": sum(item.reason in UNCOUNTED for item in dropped),
        "frames": sum(map(len, filmed.values())),
        "cameras": len(cameras),
        "photos_with_mask": len(masked.files),
        "photos_with_gps": sum(photo["gps"] is not None for photo in photos),
        "photos_with_focal": sum(photo.focal_px is not None for photo in prepared),
        "long_side": max(max(photo.width, photo.height) for photo in prepared),
        "blur_median": round(median(photo.blur for photo in prepared), 2),
    }


def _full_size(photo: Prepared) -> tuple[int, int]:
    """Width and height of the upright photo before it was resized, in px."""
    width, height = photo.stored
    return (height, width) if (width > height) != (photo.width > photo.height) else (width, height)


def _place_of(photo: Prepared, positions: Positions) -> dict[str, Any]:
    """What the file says: on earth it is what GPS would say, better known."""
    row = positions.rows.get(photo.source)
    if row is None:
        return {}
    return {"gps": dict(zip(("lat", "lon", "alt"), row.place, strict=True))} if row.on_earth else {"xyz": row.place}


def photo_name(place: int, count: int, source: str) -> str:
    """A unique name for the photo at a place, counted from one; names sort in the order of the capture."""
    digits = max(3, len(str(count)))
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", PurePosixPath(source).stem)[:60].strip("_") or "photo"
    return f"{place:0{digits}d}_{stem}.jpg"


def _camera_of(photo: Prepared) -> tuple[Any, ...]:
    """Photos share intrinsics when all of this is equal; digital zoom shows only in the focal length in pixels."""
    exif = photo.exif
    focal_px = round(photo.focal_px) if photo.focal_px else None
    return (exif.make, exif.model, exif.lens, exif.focal_mm, photo.width, photo.height, focal_px, photo.turn)
