"""Which Gaussians are left out of the compressed scene, and why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e2e3d_stages.splats.gaussians import Gaussians

Mask = NDArray[np.bool_]

SHORTEST_QUATERNION = 1e-6


@dataclass(frozen=True)
class Removal:
    """Gaussians that meet one rule.

    :param reason: `not_finite`, `invisible` or `floating`.
    :param count: how many meet it and no rule before it.
    :param removed: whether they were left out.
    :param why: the rule in a sentence.
    """

    reason: str
    count: int
    removed: bool
    why: str


def clean(
    gaussians: Gaussians, *, min_opacity: float, floater_distance: float, max_floaters: float
) -> tuple[Gaussians, list[Removal]]:
    """Leave out what is broken, invisible or floating far off; every rule is reported, also where it found nothing.

    A far background is legitimate outdoors. So a Gaussian counts as floating only when it is absurdly far or large,
    and when more than `max_floaters` of all look so, they are a background and stay.

    :param min_opacity: opacity (0 to 1) below which a Gaussian is invisible.
    :param floater_distance: multiple of the median distance from the scene's median point.
    :param max_floaters: share of the visible Gaussians, 0 to 1.
    """
    finite = _finite(gaussians)
    kept = gaussians.select(finite)
    removals = [
        Removal(
            "not_finite",
            len(gaussians) - len(kept),
            True,
            "A value is NaN or infinite, or the rotation has no length.",
        )
    ]
    visible = kept.opacities >= _logit(min_opacity)
    removals.append(Removal("invisible", int((~visible).sum()), True, f"The opacity is below {min_opacity:.3g}."))
    kept = kept.select(visible)
    floating = floaters(kept, floater_distance)
    count = int(floating.sum())
    removed = count <= max_floaters * len(kept)
    why = f"Farther off or larger than {floater_distance:g} times the median distance from the scene's median point."
    if not removed:
        why += f" Kept: more than {max_floaters:.2%} of all do so, which makes them a background."
    removals.append(Removal("floating", count, removed, why))
    return (kept.select(~floating) if removed else kept), removals


def floaters(gaussians: Gaussians, distance: float) -> Mask:
    """Those farther from the scene's median point, or larger, than `distance` times the median distance: (N,)."""
    if len(gaussians) == 0:
        return np.zeros(0, dtype=bool)
    # In float64: a squared distance beyond 1e19 units would overflow float32.
    distances = np.linalg.norm(gaussians.means.astype(np.float64) - np.median(gaussians.means, axis=0), axis=1)
    limit = distance * np.median(distances)
    if limit == 0:  # at least half of them in one point: there is no extent to be outside of
        return np.zeros(len(gaussians), dtype=bool)
    mask: Mask = (distances > limit) | (gaussians.scales.max(axis=1) > np.log(limit))
    return mask


def _finite(gaussians: Gaussians) -> Mask:
    fields = (gaussians.means, gaussians.scales, gaussians.quats, gaussians.opacities, gaussians.sh)
    count = len(gaussians)
    finite = np.all([np.isfinite(field.reshape(count, -1)).all(axis=1) for field in fields], axis=0)
    mask: Mask = finite & (np.linalg.norm(gaussians.quats, axis=1) > SHORTEST_QUATERNION)
    return mask


def _logit(opacity: float) -> float:
    return float(np.log(opacity / (1 - opacity))) if opacity > 0 else -np.inf
