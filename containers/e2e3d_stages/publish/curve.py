"""The training curve as SVG that follows the page's colours, in light and in dark."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

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


def _ticks(low: float, high: float) -> list[float]:
    """A few round numbers that enclose a range."""
    step = next(step for step in (0.5, 1, 2, 5, 10, 20, 50, 100) if (high - low) / step <= 5)
    return [float(tick) for tick in np.arange(np.floor(low / step), np.ceil(high / step) + 1) * step]


def _points(x: NDArray[np.float64], y: NDArray[np.float64], separator: str) -> str:
    return separator.join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
