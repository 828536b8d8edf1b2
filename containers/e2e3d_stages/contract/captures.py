"""What lies in a capture: the one answer that ingest, estimates, sensors and batches share.

A listing shows only names. Where a file's first bytes are at hand, they are believed and not its name.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping
from enum import Enum
from pathlib import PurePosixPath

from e2e3d_stages.contract.paths import path_problem

JPEG, PNG, WEBP, TIFF, HEIF, AVIF, RAW = "JPEG", "PNG", "WebP", "TIFF", "HEIC", "AVIF", "RAW"
ZIP, FILM = "ZIP", "film"
PHOTO_FORMATS = (JPEG, PNG, WEBP, TIFF, HEIF, AVIF, RAW)

# Enough of a file to tell what it is.
HEAD_BYTES = 64
# How many files of a listing are looked into where names don't tell what they are.
MOST_LOOKS = 4
# In bytes. Markers and notes are smaller.
SMALLEST_PHOTO = 1024
# Of a note that is read. A thousand photos take half a megabyte.
MOST_NOTE_BYTES = 16 * 2**20


def _suffixes(names: str) -> frozenset[str]:
    return frozenset(f".{name}" for name in names.split())


RAW_SUFFIXES = _suffixes(
    "3fr arw cr2 cr3 crw dcr dng erf fff iiq kdc mos mrw nef nrw orf pef raf rw2 rwl sr2 srf srw x3f"
)
PHOTO_SUFFIXES = RAW_SUFFIXES | _suffixes("jpg jpeg jpe jfif mpo png webp tif tiff heic heics heif hif avif")
FILM_SUFFIXES = _suffixes("mp4 mov m4v qt avi mkv webm 3gp 3g2 mts m2ts mpg mpeg wmv flv")
# Films of two lenses, which only their maker's own program joins.
UNSTITCHED_SUFFIXES = _suffixes("insv 360")
# Archives that are not opened.
PACKED_SUFFIXES = _suffixes("rar 7z tar tgz tbz2 txz")
# Pictures and films that are not read.
MEDIA_SUFFIXES = (
    UNSTITCHED_SUFFIXES | PACKED_SUFFIXES | _suffixes("gif bmp jxl jp2 j2k psd psb exr hdr tga svg gpr dcm")
)
# What lies beside photos: notes, logs, positions, models, previews, what file managers leave.
SIDE_SUFFIXES = _suffixes(
    "aae bak bin cam dat db doc docx dop exe fbx glb gltf gpx htm html ini info ipynb jar js kml kmz las laz "
    "lnk log lrf lrv m4a marks md md5 mp3 mrk mtl nav nmea npy npz obj obs ods odt out p4d pdf pkl plist ply pp3 psx "
    "pt pth pto py rcproj rtf rtk sfm sha256 sh sidecar sqlite sub thm tmp toml tsv txt ubx url wav xlsx xmp "
    "yaml yml"
)
# Those among them that may say where photos were taken: transforms.json, cameras as XML, tables, a drone's subtitles.
NOTE_SUFFIXES = _suffixes("csv json srt xml")

# How many photos one becomes that sees all around, but for its poles; by how much its width may differ from twice its
# height.
FACES, PANORAMA_SHAPE = 4, 0.002

# What a run takes of one capture, a prefix as well as unpacked zips.
MAX_FILES = 20_000
MAX_BYTES = 64 * 2**30

# Why ingest leaves out a file without which there is no photo less: of the others so many are uploaded.
NOT_A_PHOTO, UNSUPPORTED, DUPLICATE, UNUSED_FILM = "not_a_photo", "unsupported_format", "duplicate", "unused_film"
HIDDEN = "hidden"
UNCOUNTED = frozenset({NOT_A_PHOTO, UNSUPPORTED, DUPLICATE, UNUSED_FILM, HIDDEN})


_DIGITS = re.compile(r"\d+")


def has_panorama_shape(size: tuple[int, int]) -> bool:
    """Whether a picture is twice as wide as high, as one that sees all around is."""
    return abs(size[0] / size[1] - 2) <= 2 * PANORAMA_SHAPE


class Kind(str, Enum):
    """What a file of a capture is."""

    PHOTO = "photo"
    FILM = "film"
    ARCHIVE = "archive"
    MEDIA = "media"  # what may hold pictures and is not read
    NOTE = "note"  # a side file that may say where photos were taken
    SIDE = "side"


def suffix_of(path: str) -> str:
    """A file's suffix in small letters, with its dot; empty where it has none."""
    return PurePosixPath(path).suffix.lower()


def folded(path: str) -> str:
    """A path as names are compared: whatever the case of its letters, and however macOS takes its accents apart."""
    return unicodedata.normalize("NFC", path).lower()


def is_hidden(path: str) -> bool:
    """Whether a file of a capture is one that cameras, file managers and zip programs leave behind."""
    steps = path.split("/")
    return "__MACOSX" in steps or any(step.startswith(".") and step not in (".", "..") for step in steps)


def kind_by_name(path: str) -> Kind | None:
    """What a file is by its name; None where that does not tell, as of `dji_fly_0_photo`."""
    suffix = suffix_of(path)
    if suffix in PHOTO_SUFFIXES:
        return Kind.PHOTO
    if suffix == ".zip":
        return Kind.ARCHIVE
    if suffix in FILM_SUFFIXES:
        return Kind.FILM
    if suffix in MEDIA_SUFFIXES:
        return Kind.MEDIA
    if suffix in NOTE_SUFFIXES:
        return Kind.NOTE
    return Kind.SIDE if suffix in SIDE_SUFFIXES else None


def kind_of(path: str, head: bytes) -> Kind:
    """What a file is by its first `HEAD_BYTES`.

    Its name tells only what bytes don't: that something damaged was to be a photo, and that what looks like a photo or
    a zip serves another purpose, as a camera's `.thm` and a `.docx` do.
    """
    named, found = kind_by_name(path), format_of(head)
    if not found:
        return named or Kind.SIDE
    if named in (Kind.NOTE, Kind.SIDE) or suffix_of(path) in UNSTITCHED_SUFFIXES:
        return named or Kind.SIDE
    if found in PHOTO_FORMATS:
        return Kind.PHOTO
    return {ZIP: Kind.ARCHIVE, FILM: Kind.FILM}.get(found, Kind.MEDIA)


def kinds_of(sizes: Mapping[str, int], head: Callable[[str], bytes]) -> dict[str, Kind]:
    """What the files of a listing are, by their names; without those that are hidden, or that no disk could hold.

    Where a name does not tell, the largest of those that end alike but for numbers is looked into, since a camera names
    all its photos in one way. Companions of photos, and the films of Live Photos, are `SIDE`.

    :param sizes: in bytes, by path.
    :param head: reads the first `HEAD_BYTES` of a file; it is asked at most `MOST_LOOKS` times.
    """
    paths = [path for path in sizes if not is_hidden(path) and not path_problem(path)]
    kinds = {path: kind for path in paths if (kind := kind_by_name(path))}
    alike: dict[str, list[str]] = {}
    for path in sorted((path for path in paths if path not in kinds), key=lambda path: sizes[path], reverse=True):
        alike.setdefault(_DIGITS.sub("#", suffix_of(path)), []).append(path)
    for group in list(alike.values())[:MOST_LOOKS]:
        kind = kind_of(group[0], head(group[0]))
        kinds |= {path: kind for path in group if sizes[path] >= SMALLEST_PHOTO}
    photos = [path for path, kind in kinds.items() if kind is Kind.PHOTO]
    films = [path for path, kind in kinds.items() if kind is Kind.FILM]
    return kinds | dict.fromkeys([*companions(photos), *films_of_photos(films, photos)], Kind.SIDE)


_MAGIC = (
    (b"\xff\xd8\xff", JPEG),
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"II*\x00", TIFF),
    (b"MM\x00*", TIFF),
    (b"II+\x00", TIFF),
    (b"MM\x00+", TIFF),
    (b"FUJIFILMCCD-RAW", RAW),
    (b"IIRO", RAW),
    (b"IIRS", RAW),
    (b"MMOR", RAW),
    (b"IIU\x00", RAW),
    (b"\x00MRM", RAW),
    (b"FOVb", RAW),
    (b"PK\x03\x04", ZIP),
    (b"PK\x05\x06", ZIP),
    (b"\x1aE\xdf\xa3", FILM),
    (b"\x00\x00\x01\xba", FILM),
    (b"0&\xb2u\x8ef\xcf\x11", FILM),
    (b"FLV\x01", FILM),
    (b"GIF8", "GIF"),
    (b"8BPS", "PSD"),
    (b"v/1\x01", "EXR"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
)


def format_of(head: bytes) -> str:
    """The format of a file that begins so; empty where nothing is known of it.

    Raw photos of most makers are TIFF files, and called so.
    """
    if head[4:8] == b"ftyp":
        return _box_format(head)
    if head[:4] == b"RIFF":
        return {b"WEBP": WEBP, b"AVI ": FILM}.get(head[8:12], "")
    if head[4:8] in (b"moov", b"mdat", b"wide", b"skip"):
        return FILM  # QuickTime before there were brands
    return next((name for magic, name in _MAGIC if head.startswith(magic)), "")


def _box_format(head: bytes) -> str:
    """By the brands in an ISO base media file's first box (ISO/IEC 14496-12, 4.3; 23008-12, annex B)."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[place : place + 4] for place in range(16, end - 3, 4))]
    if brands[0] == b"crx ":
        return RAW
    if {b"avif", b"avis"} & set(brands):
        return AVIF
    return HEIF if brands[0] in _HEIF_BRANDS else FILM


# What is read of each box.
BOX_BYTES = 16
# Films have a few; some programs write one for each second.
_MOST_BOXES = 200


def lacks_its_end(size: int, read: Callable[[int], bytes]) -> bool:
    """Whether a film of boxes, as MP4 and MOV are, is not whole: one reaches beyond it, or none tells what is in it.

    Films of other formats cannot be told so (ISO/IEC 14496-12, 4.2).

    :param size: of the file, in bytes.
    :param read: the `BOX_BYTES` at a place in it.
    """
    place, told = 0, False
    for _ in range(_MOST_BOXES):
        head = read(place)
        if place == 0 and (format_of(head) != FILM or not head[4:8].isalpha()):
            return False
        told = told or head[4:8] in (b"moov", b"moof")
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        # The last box may say only that it is the last.
        place = place + length if length else size
        if place >= size or 0 < length < 8:
            break
    return place > size or not told


_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"mif2", b"msf1"})


# The companions that say what of a photo does not count.
MASKS = "masks"
# Folders beside the photos, by the conventions of COLMAP, nerfstudio, Polycam, OpenSplat, Brush and NeuS.
_FOLDERS = tuple(
    (re.compile(rf"({pattern})(_\d+)?", re.IGNORECASE), purpose)
    for pattern, purpose in (
        (r"((dynamic|object|sam|image|human|sky)_?)?masks?|segmentations?|semantics?|mattes?", MASKS),
        (r"((mono|sensor|dense)_?)?depths?(_?(maps?|images?))?|disparit(y|ies)", "depth maps"),
        (r"confidences?(_?maps?)?", "confidence maps"),
        (r"((mono|omni)_?)?normals?(_?(maps?|images?))?", "normal maps"),
        (r"thumbs?|thumbnails?|@eadir", "previews"),
    )
)
# Folders of the same photos again; Mip-NeRF 360 halves their size again and again.
_COPIES = re.compile(r"(?P<base>images?|rgb|input)_(?P<factor>2|4|8|16)|corrected_(?P<original>images)", re.IGNORECASE)
# Words in other folders' names. Whoever says so may mean something else, unless the pictures are called like photos.
_WORDS = {
    MASKS: "mask masks seg segs segmentation segmentations segmented semantic semantics panoptic instance matte mattes "
    "matting alpha alphas silhouette silhouettes label labels foreground fg sam",
    "depth maps": "depth depths disp disparity disparities",
    "confidence maps": "conf confidence confidences uncertainty uncertainties",
    "normal maps": "normals",
    "previews": "preview previews thumb thumbs thumbnails",
}
_PURPOSES = {word: purpose for purpose, words in _WORDS.items() for word in words.split()}
_WHAT = r"(?P<what>(dynamic[._-]?)?masks?|seg(mentation)?|matte|alpha|depth|disp(arity)?|normals?|conf(idence)?)"
# What is said behind the photo's name, before it, and before no more than its number.
_AFFIXES = re.compile(rf"(?P<base>.+)[._-](?P<masked>masked|{_WHAT})([._-]\d+)?", re.IGNORECASE)
_PREFIXES = re.compile(rf"{_WHAT}[._-]?(?P<base>\d.*|(?<=[._-]).+)", re.IGNORECASE)
_NUMBERED = re.compile(r"(.*\D)?(?P<number>[0-9]{1,18})")
_PHOTO_AFFIXES = ("", ".color", "_color", ".rgb", "_rgb")
_AFFIX_PURPOSES = {"d": "depth maps", "n": "normal maps", "c": "confidence maps"}


def companions(photos: Collection[str]) -> dict[str, str]:
    """Of pictures that lie in a capture those that accompany photos, and as what, such as `masks`.

    A folder holds companions only beside photos: where `mask/` is all there is, the photos are of a mask.

    :param photos: paths of everything that could be a photo.
    """
    names = {folded(path) for path in photos}
    stems = {_stem(name): name for name in sorted(names, key=_is_raw, reverse=True)}
    beside = {folder for path in names for folder in _folders_of(path)}
    shown = (PurePosixPath(name).name for name in names if not _accompanies(name))
    called = {called for name in shown for called in (name, _stem(name))}
    numbered = {key for name in names if (key := _number_of(name))}
    found = {}
    for path in photos:
        name = folded(path)
        purpose = (
            _by_folder(name, beside)
            or _by_words(name, called)
            or _by_copy(name, stems)
            or _by_file(name, names, stems)
            or _by_prefix(name, stems, numbered)
        )
        if purpose:
            found[path] = purpose
    return found


def masks_of(masks: Collection[str], photos: Collection[str]) -> dict[str, str]:
    """Which mask belongs to which photo: the photo's path by the mask's.

    A mask is called like its photo, but for suffixes and what says that it is a mask, or has its number. Of several
    photos of one name it belongs to that with which it shares most folders; where that leaves several, to none. A
    photo's first mask stays.
    """
    named: dict[str, list[str]] = {}
    for photo in photos:
        for name in _names_of(folded(photo)):
            named.setdefault(name, []).append(photo)
    found: dict[str, str] = {}
    masked: set[str] = set()
    for mask in sorted(masks):
        names = [PurePosixPath(_stem(folded(mask))).name]
        matches = (_AFFIXES.fullmatch(names[0]), _PREFIXES.fullmatch(names[0]))
        names += [match["base"] for match in matches if match]
        names += [str(int(names[-1]))] if re.fullmatch(r"[0-9]{1,18}", names[-1]) else []
        candidates = next(filter(None, (named.get(name, []) for name in names)), [])
        shared = [_shared_folders(mask, photo) for photo in candidates]
        if shared and shared.count(max(shared)) == 1:
            photo = candidates[shared.index(max(shared))]
            if photo not in masked:
                found[mask] = photo
                masked.add(photo)
    return found


def _shared_folders(mask: str, photo: str) -> int:
    """How many of a photo's folders a mask's path has, in their order, from both ends."""
    ours, theirs = PurePosixPath(folded(mask)).parent.parts, PurePosixPath(folded(photo)).parent.parts
    ahead = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    rest = list(zip(reversed(ours[ahead:]), reversed(theirs[ahead:]), strict=False))
    return ahead + next((n for n, (a, b) in enumerate(rest) if a != b), len(rest))


def films_of_photos(films: Collection[str], photos: Collection[str]) -> set[str]:
    """Of the films those that belong to a photo of the same name, as a Live Photo's does."""
    stems = {_stem(folded(path)) for path in photos}
    return {path for path in films if _stem(folded(path)) in stems}


def _stem(path: str) -> str:
    return path.removesuffix(PurePosixPath(path).suffix)


def _is_raw(path: str) -> bool:
    return suffix_of(path) in RAW_SUFFIXES


def _purpose_of_folder(step: str) -> str:
    return next((purpose for pattern, purpose in _FOLDERS if pattern.fullmatch(step)), "")


def _folders_of(path: str) -> Iterator[str]:
    """The folders, from its own upwards, for which a picture is a photo and no companion."""
    steps = path.split("/")[:-1]
    yield "/".join(steps)
    while steps and not _purpose_of_folder(steps.pop()):
        yield "/".join(steps)


def _by_folder(path: str, beside: set[str]) -> str:
    steps = path.split("/")[:-1]
    found = (_purpose_of_folder(step) for place, step in enumerate(steps) if "/".join(steps[:place]) in beside)
    return next(filter(None, found), "")


def _purpose_of_words(path: str) -> str:
    """What a picture is by a word in the name of its folder."""
    words = re.split(r"[^a-z]+", PurePosixPath(path).parent.name)
    return next((_PURPOSES[word] for word in words if word in _PURPOSES), "")


def _accompanies(path: str) -> bool:
    """Whether a folder's name says that its pictures accompany others."""
    return bool(_purpose_of_words(path)) or any(map(_purpose_of_folder, path.split("/")[:-1]))


def _by_words(path: str, called: set[str]) -> str:
    name = PurePosixPath(path).name
    affixed = _AFFIXES.fullmatch(_stem(name))
    like = called.intersection((name, _stem(name), affixed["base"] if affixed else name))
    return _purpose_of_words(path) if like else ""


def _names_of(path: str) -> set[str]:
    """What a mask of a photo may be called, without its folders: with and without suffix, and by its number alone."""
    name, stem = PurePosixPath(path).name, PurePosixPath(_stem(path)).name
    number = _NUMBERED.fullmatch(stem)
    return {name, stem, *([str(int(number["number"]))] if number else [])}


def _by_copy(path: str, stems: Collection[str]) -> str:
    steps = _stem(path).split("/")
    for place, step in enumerate(steps[:-1]):
        match = _COPIES.fullmatch(step)
        if match is None:
            continue
        originals = [match["original"] or match["base"]]
        originals += [f"{match['base']}_{factor}" for factor in (2, 4, 8) if factor < int(match["factor"] or 0)]
        if any("/".join([*steps[:place], original, *steps[place + 1 :]]) in stems for original in originals):
            return "copies at another size"
    return ""


def _by_file(path: str, names: Collection[str], stems: dict[str, str]) -> str:
    stem = _stem(path)
    if stem != path and path.endswith(".png") and stem in names:
        return MASKS
    if _is_raw(path) and not _is_raw(stems[stem]):
        return "raw twins of photos"
    match = _AFFIXES.fullmatch(stem)
    if not match or "/" in path[len(match["base"]) :]:
        return ""
    if match["base"] not in names and all(match["base"] + affix not in stems for affix in _PHOTO_AFFIXES):
        return ""
    return _purpose_of_affix(match["what"]) if match["what"] else "copies without background"


def _by_prefix(path: str, stems: Collection[str], numbered: set[tuple[str, int]]) -> str:
    """By what stands before a photo's name, or before the number of a photo that is called otherwise."""
    folder, stem = _folder_of(path), PurePosixPath(_stem(path)).name
    match = _PREFIXES.fullmatch(stem)
    if not match:
        return ""
    number = _NUMBERED.fullmatch(stem)
    like = f"{folder}{match['base']}" in stems or (number and (folder, int(number["number"])) in numbered)
    return _purpose_of_affix(match["what"]) if like else ""


def _number_of(path: str) -> tuple[str, int] | None:
    """The folder and the number of what is no companion by its name."""
    stem = PurePosixPath(_stem(path)).name
    found = _NUMBERED.fullmatch(stem)
    return (_folder_of(path), int(found["number"])) if found and not _PREFIXES.fullmatch(stem) else None


def _folder_of(path: str) -> str:
    return path[: path.rfind("/") + 1]


def _purpose_of_affix(what: str) -> str:
    return MASKS if what.startswith("dynamic") else _AFFIX_PURPOSES.get(what[0], MASKS)
