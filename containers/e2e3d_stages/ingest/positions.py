"""Where photos were taken, by a file that another program left beside them.

What it says is found by its content: `transforms.json` as nerfstudio, Polycam, Record3D and NeRFCapture write it, the
cameras of Metashape as XML, and the registration of RealityCapture as CSV. Names in it only find photos of the
capture; a row that makes no sense spoils only itself.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from e2e3d_stages.contract.captures import MOST_NOTE_BYTES, folded
from e2e3d_stages.contract.damage import is_damage
from e2e3d_stages.contract.wgs84 import E2, A
from e2e3d_stages.ingest.exif import number
from e2e3d_stages.store.captures import Source, reading

Matrix = NDArray[np.float64]

# Files that are read, those nearest to the capture's root first; a Polycam export has one beside each photo.
MOST_NOTES = 50
# In metres or whatever else: what is farther away is no place of a photo. Projected coordinates have seven digits.
FARTHEST = 1e8
# How far the axes of a camera may be from being at right angles and of one length.
SKEW = 0.01
# On the surface of the earth, from its centre, in metres.
EARTH = (6.3e6, 6.4e6)
# By which of these keys a transforms.json shows that its scale is that of structure from motion, or was changed.
UNSCALED = ("applied_transform", "applied_scale", "aabb_scale")


@dataclass(frozen=True)
class Camera:
    """Intrinsics in pixels of a photo as another program read it.

    :param model: as COLMAP calls it: `OPENCV` or `OPENCV_FISHEYE`.
    :param lens: fx, fy, cx, cy and four coefficients of distortion.
    """

    model: str
    width: int
    height: int
    lens: tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """One photo.

    :param place: x, y, z; degrees and metres (latitude, longitude, altitude) where `on_earth`.
    :param pose: camera to world, 4 x 4, the camera's axes right, down, forward; None where only the place is told.
    """

    name: str
    place: tuple[float, float, float]
    on_earth: bool = False
    pose: Matrix | None = None
    camera: Camera | None = None


@dataclass
class Table:
    """What one file says.

    :param what: it is, as people would call it.
    :param rows: those that make sense.
    :param bad: how many do not.
    :param meters: whether its unit is, as far as it tells, the metre.
    """

    what: str
    rows: list[Row] = field(default_factory=list)
    bad: int = 0
    meters: bool = True


@dataclass(frozen=True)
class Positions:
    """A file and what it says of the photos of its capture, by their names there.

    :param strangers: rows of photos that are not there.
    """

    source: str
    table: Table
    rows: Mapping[str, Row]
    strangers: int


def find_positions(notes: Sequence[Source], photos: Iterable[str]) -> Positions | None:
    """The file that says of most photos where they were taken; None where none says it of any.

    :param notes: side files that may do so.
    """
    names = _by_name(photos)
    best: Positions | None = None
    for note in sorted(notes, key=lambda note: (note.name.count("/"), note.name))[:MOST_NOTES]:
        table = read_table(note)
        if table is None:
            continue
        owners = [_photo_of(row.name, names) for row in table.rows]
        # The first row of a photo stays.
        rows = {photo: row for photo, row in reversed(list(zip(owners, table.rows, strict=True))) if photo}
        if rows and (best is None or len(rows) > len(best.rows)):
            best = Positions(note.name, table, rows, strangers=owners.count(None))
    return best


def read_table(note: Source) -> Table | None:
    """What a file says; None when it is of another kind, or too damaged to tell."""
    with reading(note.name):
        if note.path.stat().st_size > MOST_NOTE_BYTES:
            return None
        data = note.path.read_bytes()
    start = data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    read = {b"{": _transforms, b"<": _metashape}.get(start, _csv)
    try:
        return read(data)
    except Exception as error:  # parsers raise whatever they stumble over, deep nesting included
        if not is_damage(error):
            raise
        return None


def _by_name(photos: Iterable[str]) -> dict[str, list[str]]:
    """The photos under the end of their paths, with and without suffix, in small letters."""
    found: dict[str, list[str]] = {}
    for photo in photos:
        name = PurePosixPath(folded(photo))
        for key in {name.name, name.stem}:
            found.setdefault(key, []).append(photo)
    return found


def _photo_of(name: str, photos: Mapping[str, list[str]]) -> str | None:
    """The photo that another program means; where several are called so, that whose folders are called so, too."""
    path = PurePosixPath(folded(name).replace("\\", "/"))
    candidates = photos.get(path.name) or photos.get(path.stem, [])
    shared = [_shared(path.parent.parts, PurePosixPath(folded(photo)).parent.parts) for photo in candidates]
    return candidates[shared.index(max(shared))] if shared and shared.count(max(shared)) == 1 else None


def _shared(ours: Sequence[str], theirs: Sequence[str]) -> int:
    pairs = list(zip(reversed(ours), reversed(theirs), strict=False))
    return next((place for place, (a, b) in enumerate(pairs) if a != b), len(pairs))


def _transforms(data: bytes) -> Table | None:
    """Camera to world as OpenGL has it, https://docs.nerf.studio/quickstart/data_conventions.html."""
    told = json.loads(data)
    frames = told.get("frames")
    if not isinstance(frames, list) or not any(
        isinstance(each, dict) and "transform_matrix" in each for each in frames
    ):
        return None
    table = Table("poses as nerfstudio has them")
    made_by_colmap = any(isinstance(each, dict) and "colmap_im_id" in each for each in frames)
    # Whoever measures in metres knows the focal length in pixels, too; a renderer knows neither.
    table.meters = not made_by_colmap and not any(key in told for key in UNSCALED) and b'"fl_x"' in data
    for frame in frames:
        name = frame.get("file_path") if isinstance(frame, dict) else None
        pose = _pose(frame.get("transform_matrix")) if name is not None else None
        if pose is None or not isinstance(name, str):
            table.bad += 1
            continue
        # OpenGL's camera looks along -z, and its y is up.
        pose = pose @ np.diag([1.0, -1, -1, 1])
        table.rows.append(Row(name, _place(pose), pose=pose, camera=_camera(ChainMap(frame, told))))
    return table


def _pose(matrix: Any) -> Matrix | None:
    """A rigid 4 x 4 matrix out of three or four rows; None of anything else."""
    if not isinstance(matrix, list) or len(matrix) not in (3, 4):
        return None
    rows = [[number(each) for each in row] for row in matrix[:3] if isinstance(row, list) and len(row) == 4]
    if len(rows) != 3 or any(each is None or abs(each) > FARTHEST for row in rows for each in row):
        return None
    pose = np.eye(4)
    pose[:3] = rows
    turn = pose[:3, :3]
    return pose if np.allclose(turn @ turn.T, np.eye(3), atol=SKEW) and np.linalg.det(turn) > 0 else None


def _place(pose: Matrix) -> tuple[float, float, float]:
    x, y, z = pose[:3, 3].tolist()
    return x, y, z


def _camera(told: Mapping[str, Any]) -> Camera | None:
    """Intrinsics of a frame, each from itself or else from the whole file; None where they are not all there."""
    width, height = number(told.get("w")), number(told.get("h"))
    focal = number(told.get("fl_x"))
    if width is None or height is None or not 1 <= width <= 1e5 or not 1 <= height <= 1e5:
        return None
    angle = number(told.get("camera_angle_x"))
    if focal is None and angle is not None and 0 < angle < math.pi:
        focal = width / 2 / math.tan(angle / 2)
    if focal is None or not 0 < focal < 1e6:
        return None
    fisheye = told.get("camera_model") == "OPENCV_FISHEYE"
    optional = {"fl_y": focal, "cx": width / 2, "cy": height / 2}
    names = ("k1", "k2", "k3", "k4") if fisheye else ("k1", "k2", "p1", "p2")
    lens = [number(told.get(name, usual)) for name, usual in {**optional, **dict.fromkeys(names, 0.0)}.items()]
    if any(each is None or abs(each) > 1e6 for each in lens):
        return None
    return Camera(
        "OPENCV_FISHEYE" if fisheye else "OPENCV", round(width), round(height), (focal, *(each or 0.0 for each in lens))
    )


class _Cautious(ElementTree.TreeBuilder):
    """Builds no document that defines anything: entities may stand for a billion others."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("a document type")


def _metashape(data: bytes) -> Table | None:
    """The cameras of the largest chunk, as Agisoft Metashape exports them (File > Export > Export Cameras)."""
    root = ElementTree.fromstring(data, ElementTree.XMLParser(target=_Cautious()))
    if root.tag != "document":
        return None
    chunks = sorted(root.iter("chunk"), key=lambda chunk: -sum(1 for _ in chunk.iter("camera")))
    if not chunks or chunks[0].find("cameras") is None:
        return None
    table = Table("cameras of Metashape")
    to_world = _of_chunk(chunks[0].find("transform"))
    table.meters = to_world is not None
    poses = []
    for camera in chunks[0].iter("camera"):
        text = camera.findtext("transform")
        if text is None:
            continue  # it was not aligned
        name, pose = camera.get("label"), _pose(_rows_of(text))
        if name is None or pose is None:
            table.bad += 1
        else:
            poses.append((name, pose))
    places = (
        np.array([pose[:, 3] for _, pose in poses]).reshape(-1, 4) @ (np.eye(4) if to_world is None else to_world).T
    )
    distance = float(np.median(np.linalg.norm(places[:, :3], axis=1))) if len(places) else 0.0
    on_earth = to_world is not None and EARTH[0] < distance < EARTH[1]
    for (name, _), (x, y, z, _one) in zip(poses, places.tolist(), strict=True):
        table.rows.append(Row(name, from_ecef(x, y, z) if on_earth else (x, y, z), on_earth))
    return table


def _rows_of(text: str) -> list[list[float | None]] | None:
    numbers = [number(each) for each in text.split()[:17]]
    return [numbers[place : place + 4] for place in (0, 4, 8, 12)] if len(numbers) == 16 else None


def _of_chunk(transform: ElementTree.Element | None) -> Matrix | None:
    """From a chunk to the world; None where it has no scale of its own."""
    if transform is None:
        return None
    texts = [transform.findtext(name) or "" for name in ("rotation", "translation", "scale")]
    rotation, translation, scale = ([number(each) for each in text.split()[:10]] for text in texts)
    if (len(rotation), len(translation), len(scale)) != (9, 3, 1) or None in (*rotation, *translation, *scale):
        return None
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(rotation, float).reshape(3, 3) * scale[0]
    matrix[:3, 3] = translation
    return matrix if 0 < np.linalg.det(matrix) < FARTHEST**3 and np.abs(matrix).max() < FARTHEST else None


_COLUMNS = {
    "name": {"#name", "name", "#label", "label", "image", "filename"},
    "x": {"x", "easting", "x/easting", "lon", "longitude", "x/longitude"},
    "y": {"y", "northing", "y/northing", "lat", "latitude", "y/latitude"},
    "z": {"z", "alt", "altitude", "z/altitude"},
}


def _csv(data: bytes) -> Table | None:
    """A name and a place a line, as RealityCapture exports its registration (Internal/External camera parameters)."""
    lines = io.StringIO(_text(data), newline=None)
    head = next((line for line in lines if line.strip()), "")
    separator = max(",;\t", key=head.count)
    titles = [title.strip().lower() for title in head.split(separator)]
    columns = {
        what: next((titles.index(title) for title in titles if title in names), -1) for what, names in _COLUMNS.items()
    }
    if min(columns.values()) < 0:
        return None
    table = Table("registration of RealityCapture" if titles[0] == "#name" else "a table of positions")
    degrees = titles[columns["y"]].endswith(("lat", "latitude"))
    most = (180, 90, FARTHEST) if degrees else (FARTHEST,) * 3
    for line in filter(str.strip, lines):
        name, *place = _cells(line, separator, columns.values())
        if separator != ",":
            # Spreadsheets write numbers as their country does.
            place = [cell.replace(",", ".") for cell in place]
        x, y, z = (
            found if (found := number(cell)) is not None and abs(found) <= far else None
            for cell, far in zip(place, most, strict=True)
        )
        if not name or x is None or y is None or z is None:
            table.bad += 1
        else:
            table.rows.append(Row(name, (y, x, z) if degrees else (x, y, z), on_earth=degrees))
    return table


def _text(data: bytes) -> str:
    """A table as spreadsheets save it: in UTF-8, as "Unicode text" in UTF-16, or as "CSV" in Windows' own code page."""
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252")


def _cells(line: str, separator: str, columns: Iterable[int]) -> list[str]:
    """The cells of these columns, empty where a line has none."""
    try:
        cells = next(csv.reader([line], delimiter=separator))
    except csv.Error:
        cells = []
    return [cells[place].strip() if place < len(cells) else "" for place in columns]


def from_ecef(x: float, y: float, z: float) -> tuple[float, float, float]:
    """Earth-centred metres to WGS84 latitude and longitude in degrees and height in metres (Bowring 1976)."""
    b, across = A * math.sqrt(1 - E2), math.hypot(x, y)
    angle = math.atan2(z * A, across * b)
    lat = math.atan2(z + E2 / (1 - E2) * b * math.sin(angle) ** 3, across - E2 * A * math.cos(angle) ** 3)
    normal = A / math.sqrt(1 - E2 * math.sin(lat) ** 2)
    # Along the latitude, so that it is as exact at the poles.
    height = across * math.cos(lat) + z * math.sin(lat) - A * A / normal
    return math.degrees(lat), math.degrees(math.atan2(y, x)), height
