"""The report's drawings: SVG that follows the page's colours, in light and in dark."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

PLAN_SIZE = 480
CHART = (520, 260)
_MARGIN = (36, 72, 12, 30)  # left, right, top, bottom


def training_curve(curve: list[dict[str, float]]) -> Markup:
    """PSNR on the training photos over the iterations, with the number of Gaussians behind it.

    :param curve: from `training.json`; empty gives nothing.
    """
    if len(curve) < 2:
        return Markup("")
    width, height = CHART
    left, right, top, bottom = _MARGIN
    steps = np.array([point["step"] for point in curve], float)
    quality = np.array([point["psnr_training"] for point in curve], float)
    count = np.array([point["gaussians"] for point in curve], float)
    ticks = _ticks(quality.min(), quality.max())
    low, high = min(ticks[0], quality.min()), max(ticks[-1], quality.max())

    x = left + (steps - steps[0]) / (steps[-1] - steps[0]) * (width - left - right)
    y = top + (high - quality) / (high - low) * (height - top - bottom)
    base = height - bottom
    area = base - count / count.max() * (height - top - bottom) * 0.9
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Training curve">']
    shape = f"M{x[0]:.1f},{base} {_points(x, area, 'L')} L{x[-1]:.1f},{base}Z"
    parts.append(f'<path class="area" d="{shape}"/>')
    for tick in ticks:
        at = top + (high - tick) / (high - low) * (height - top - bottom)
        parts.append(f'<path class="grid" d="M{left},{at:.1f}H{width - right}"/>')
        parts.append(f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for share in (0.0, 0.5, 1.0):
        at, step = left + share * (width - left - right), steps[0] + share * (steps[-1] - steps[0])
        anchor = {0.0: "start", 0.5: "middle", 1.0: "end"}[share]
        parts.append(f'<text x="{at:.1f}" y="{height - 8}" text-anchor="{anchor}">{step:,.0f}</text>')
    parts.append(f'<path class="line" d="M{_points(x, y, " L")}"/>')
    parts.append(f'<circle class="end" cx="{x[-1]:.1f}" cy="{y[-1]:.1f}" r="4"/>')
    parts.append(f'<text class="strong" x="{x[-1] + 9:.1f}" y="{y[-1] + 4:.1f}">{quality[-1]:.1f} dB</text></svg>')
    return Markup("".join(parts))


def plan(xyz: NDArray[np.float32], rgb: NDArray[np.uint8], views: list[dict[str, Any]], held_out: set[str]) -> Markup:
    """The scene from straight above (up = -y): its points in their colours, its cameras and the way between them.

    :param xyz: (P, 3) points.
    :param rgb: (P, 3) their colours.
    :param views: entries of `views.json` in the capture's order.
    :param held_out: names of the views that were kept from training.
    """
    poses = np.array([view["world_to_camera"] for view in views])
    eyes = -np.einsum("nji,nj->ni", poses[:, :3, :3], poses[:, :3, 3])
    around = np.vstack([np.percentile(xyz, [2, 98], axis=0), eyes]) if len(xyz) else eyes
    low, high = around[:, [0, 2]].min(axis=0), around[:, [0, 2]].max(axis=0)
    span = max(float((high - low).max()), 1e-6) * 1.08
    corner = (low + high) / 2 - span / 2

    def place(points: NDArray) -> NDArray:
        """x to the right and z up the page, in px."""
        flat = (points[:, [0, 2]] - corner) / span * PLAN_SIZE
        return np.column_stack([flat[:, 0], PLAN_SIZE - flat[:, 1]])

    at, headings = place(eyes), _headings(poses)
    parts = [f'<svg viewBox="0 0 {PLAN_SIZE} {PLAN_SIZE}" role="img" aria-label="Cameras and points from above">']
    picture = _points_picture(place(xyz), xyz[:, 1], rgb)
    parts.append(f'<image width="{PLAN_SIZE}" height="{PLAN_SIZE}" href="data:image/png;base64,{picture}"/>')
    parts.append(f'<path class="path" d="M{_points(at[:, 0], at[:, 1], " L")}"/>')
    for view, (x, y), (dx, dy) in zip(views, at, headings, strict=True):
        kind = "heldout" if view["name"] in held_out else "camera"
        parts.append(f'<path class="{kind}" d="M{x:.1f},{y:.1f}l{14 * dx:.1f},{14 * dy:.1f}"/>')
        parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>')
    return Markup("".join(parts) + "</svg>")


def _headings(poses: NDArray) -> NDArray:
    """Where each camera looks on the page, or where the top of its picture points when it looks steeply down."""
    forward, upward = poses[:, 2, [0, 2]], -poses[:, 1, [0, 2]]
    flat = np.where(np.linalg.norm(forward, axis=1, keepdims=True) > 0.5, forward, upward)
    flat = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
    return np.column_stack([flat[:, 0], -flat[:, 1]])


def _points_picture(at: NDArray, y: NDArray, rgb: NDArray[np.uint8]) -> str:
    """PNG in base64: each point two pixels wide, the highest on top, nothing where no point is."""
    canvas = np.zeros((PLAN_SIZE, PLAN_SIZE, 4), np.uint8)
    order = np.argsort(-y)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        column, row = at[order, 0].astype(int) + dx, at[order, 1].astype(int) + dy
        inside = (column >= 0) & (column < PLAN_SIZE) & (row >= 0) & (row < PLAN_SIZE)
        canvas[row[inside], column[inside], :3] = rgb[order][inside]
        canvas[row[inside], column[inside], 3] = 255
    file = io.BytesIO()
    Image.fromarray(canvas).quantize(128).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _ticks(low: float, high: float) -> list[float]:
    """A few round numbers that enclose a range."""
    step = next(step for step in (0.5, 1, 2, 5, 10, 20, 50, 100) if (high - low) / step <= 5)
    return [float(tick) for tick in np.arange(np.floor(low / step), np.ceil(high / step) + 1) * step]


def _points(x: NDArray, y: NDArray, separator: str) -> str:
    return separator.join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
