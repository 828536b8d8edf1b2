"""The scene from above and from the side: its points, coloured by how well the photos agree on them, and its cameras.

SVG that follows the page's colours, in light and in dark.
"""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

SIZE = 480
# The pictures of the points have more pixels than the drawing has units, for screens that show more.
SHARPNESS = 1.5
LEAST_HEIGHT = 150
VIEW_LENGTH = 16
# From good to bad: told apart on white, on black, and by eyes that see no red or no green.
COLOURS = np.array([[56, 132, 232], [150, 92, 200], [226, 72, 106], [250, 130, 20]])
NICE = (1, 2, 5)


@dataclass(frozen=True)
class Cloud:
    """sfm's points and who sees them.

    :param xyz: (P, 3), y downwards.
    :param rgb: (P, 3) of 0 to 255.
    :param error: (P,) mean distance in px between where the photos saw a point and where it lies.
    :param view: of each observation, the view's place in `views.json`.
    :param point: of each observation, the point.
    """

    xyz: NDArray[np.float32]
    rgb: NDArray[np.uint8]
    error: NDArray[np.float32]
    view: NDArray[np.int32]
    point: NDArray[np.int32]

    @classmethod
    def read(cls, path: Path) -> Cloud:
        """Read `points.npz`."""
        with np.load(path) as points:
            return cls(**{name: points[name] for name in ("xyz", "rgb", "error", "view", "point")})

    def error_of_views(self, count: int) -> NDArray[np.float64]:
        """Mean error of the points that each view sees, NaN for one that sees none."""
        seen = np.bincount(self.view, minlength=count)
        summed = np.bincount(self.view, weights=self.error[self.point], minlength=count)
        mean: NDArray[np.float64] = np.divide(summed, seen, out=np.full(count, np.nan), where=seen > 0)
        return mean


@dataclass(frozen=True)
class Plans:
    """Both drawings and what explains their colours.

    :param top: from straight above.
    :param side: at the same scale, from the south where `north_up`.
    :param worst: error in px from which on points have the last colour.
    :param gradient: CSS of the colours, from 0 to `worst`.
    :param north_up: whether the scene is in metres with its axes to the east and the north.
    """

    top: Markup
    side: Markup
    worst: float
    gradient: str
    north_up: bool


def plans(folder: Path, held_out: set[str], names: dict[str, str]) -> Plans:
    """Draw both.

    :param folder: of the sfm artifact.
    :param held_out: names of the views that were kept from training.
    :param names: the photos' names in the capture.
    """
    views = json.loads((folder / "views.json").read_text(encoding="utf-8"))
    return drawn(Cloud.read(folder / "points.npz"), views, held_out, names, metric=(folder / "georef.json").is_file())


def drawn(
    cloud: Cloud, views: list[dict[str, Any]], held_out: set[str], names: dict[str, str], *, metric: bool
) -> Plans:
    """Draw both from what sfm's files hold; see `plans`."""
    poses = np.array([view["world_to_camera"] for view in views])
    eyes = -np.einsum("nji,nj->ni", poses[:, :3, :3], poses[:, :3, 3])
    low, high = _bounds(cloud.xyz, eyes)
    span = max(high[0] - low[0], high[2] - low[2])
    worst = _worst(cloud.error)
    errors = cloud.error_of_views(len(views))
    titles = [_title(names.get(view["name"], view["name"]), error) for view, error in zip(views, errors, strict=True)]
    cameras = _Cameras(eyes, poses[:, 2, :3], errors, [view["name"] in held_out for view in views], titles)

    def draw(frame: _Frame, label: str) -> Markup:
        return _drawing(frame, cloud, cameras, worst, label, metric=metric)

    side = min(max((high[1] - low[1]) / span, LEAST_HEIGHT / SIZE), 1)
    return Plans(
        top=draw(_Frame(2, 1, (low + high) / 2, span, 1.0), "Cameras and points from above"),
        side=draw(_Frame(1, -1, (low + high) / 2, span, side), "Cameras and points from the side"),
        worst=worst,
        gradient=", ".join(f"rgb({r}, {g}, {b})" for r, g, b in COLOURS),
        north_up=metric,
    )


@dataclass(frozen=True)
class _Frame:
    """x to the right and another axis up the page.

    :param axis: the one that goes up.
    :param sign: -1 where it counts downwards, as y.
    :param centre: (3,) the middle of the drawing.
    :param span: width in the scene's units.
    :param aspect: height of the drawing by its width.
    """

    axis: int
    sign: int
    centre: NDArray[Any]
    span: float
    aspect: float

    @property
    def height(self) -> float:
        return round(SIZE * self.aspect, 1)

    @property
    def scale(self) -> float:
        """Units of the drawing for one of the scene's."""
        return SIZE / self.span

    def turned(self, vectors: NDArray[Any]) -> NDArray[Any]:
        """Directions on the page, in the scene's units."""
        return np.column_stack([vectors[:, 0], -self.sign * vectors[:, self.axis]])

    def placed(self, points: NDArray[Any]) -> NDArray[Any]:
        """Places on the page."""
        return self.turned(points - self.centre) * self.scale + (SIZE / 2, self.height / 2)

    def nearness(self, points: NDArray[Any]) -> NDArray[Any]:
        """What is larger hides what is smaller: seen from above and from the front."""
        return -points[:, 3 - self.axis]


@dataclass(frozen=True)
class _Cameras:
    eyes: NDArray[Any]
    directions: NDArray[Any]
    errors: NDArray[Any]
    held_out: list[bool]
    titles: list[str]


def _drawing(frame: _Frame, cloud: Cloud, cameras: _Cameras, worst: float, label: str, *, metric: bool) -> Markup:
    parts = [f'<svg viewBox="0 0 {SIZE} {frame.height}" role="img" aria-label="{label}">']
    places = frame.placed(cloud.xyz)
    shades = _colours(cloud.error, worst).astype(np.uint8)
    for kind, colours, order in (
        ("by-error", shades, cloud.error.argsort(kind="stable")),
        ("by-photo", cloud.rgb, frame.nearness(cloud.xyz).argsort(kind="stable")),
    ):
        picture = _points_picture(places[order], colours[order], frame.height)
        address = f"data:image/png;base64,{picture}"
        parts.append(f'<image class="{kind}" width="{SIZE}" height="{frame.height}" href="{address}"/>')
    at = frame.placed(cameras.eyes)
    ahead = at + frame.turned(cameras.directions) * VIEW_LENGTH
    parts.append('<path class="path" d="M' + " L".join(f"{x:.1f},{y:.1f}" for x, y in at) + '"/>')
    rings = _colours(np.nan_to_num(cameras.errors, nan=worst), worst)
    for (x, y), (to_x, to_y), ring, held_out, title in zip(
        at, ahead, rings, cameras.held_out, cameras.titles, strict=True
    ):
        red, green, blue = ring.astype(int)
        kind = "heldout" if held_out else "camera"
        parts.append(
            f'<g class="{kind}" style="--error:rgb({red},{green},{blue})"><title>{escape(title)}</title>'
            f'<path d="M{x:.1f},{y:.1f}L{to_x:.1f},{to_y:.1f}"/><circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"/></g>'
        )
    if metric:
        parts.append(_scale_bar(frame))
    return Markup("".join(parts) + "</svg>")


def _scale_bar(frame: _Frame) -> str:
    """A round number of metres, about a fifth of the width."""
    wanted = frame.span / 5
    power = 10 ** np.floor(np.log10(wanted))
    metres = float(max(step * power for step in NICE if step * power <= wanted))
    left, base, width = 12, frame.height - 12, metres * frame.scale
    return (
        f'<path class="scale" d="M{left},{base - 5:.1f}v5h{width:.1f}v-5"/>'
        f'<text class="strong" x="{left + 2}" y="{base - 10:.1f}">{metres:g} m</text>'
    )


def _bounds(xyz: NDArray[Any], eyes: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The corners around all cameras and nearly all points, with some air; the farthest points are often wrong."""
    around = np.vstack([np.percentile(xyz, [2, 98], axis=0), eyes]) if len(xyz) else eyes
    low, high = around.min(axis=0), around.max(axis=0)
    air = max(float((high - low).max()), 1e-6) * 0.05
    return low - air, high + air


def _worst(error: NDArray[Any]) -> float:
    """A round error that nearly no point is above."""
    return max(0.5, float(np.ceil(np.percentile(error, 95) * 2) / 2)) if len(error) else 1.0


def _colours(error: NDArray[Any], worst: float) -> NDArray[Any]:
    """(N, 3) colours of 0 to 255."""
    stops = np.linspace(0, worst, len(COLOURS))
    return np.column_stack([np.interp(error, stops, COLOURS[:, channel]) for channel in range(3)])


def _title(name: str, error: float) -> str:
    return f"{name}: sees no point" if np.isnan(error) else f"{name}: {error:.2f} px"


def _points_picture(places: NDArray[Any], colours: NDArray[Any], height: float) -> str:
    """PNG in base64: each point two pixels wide, the last on top, nothing where no point is."""
    rows, columns = round(height * SHARPNESS), round(SIZE * SHARPNESS)
    canvas = np.zeros((rows, columns, 4), np.uint8)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        column, row = (np.floor(places * SHARPNESS).astype(int) + (dx, dy)).T
        inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        canvas[row[inside], column[inside], :3] = colours[inside]
        canvas[row[inside], column[inside], 3] = 255
    file = io.BytesIO()
    Image.fromarray(canvas).quantize(128).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
