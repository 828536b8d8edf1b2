"""From GPS to metres, and from a scene to the ground it stands on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

WGS84_A = 6378137.0
WGS84_E2 = 6.69437999014e-3

MIN_LOCATED = 5
MIN_INLIER_SHARE = 0.6
MAX_RESIDUAL_SHARE = 0.05
# Second over first principal extent: a strip this thin leaves the rotation about itself open.
MIN_WIDTH_SHARE = 0.1
MAX_TILT_DEGREES = 30.0
SAMPLES = 1000


@dataclass(frozen=True)
class Similarity:
    """x -> scale * rotation @ x + translation."""

    scale: float
    rotation: Array
    translation: Array

    def __call__(self, points: Array) -> Array:
        """Transform (N, 3) points."""
        return np.asarray(self.scale * points @ self.rotation.T + self.translation)

    @property
    def matrix(self) -> Array:
        """The same as a 4 x 4 matrix for column vectors."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.scale * self.rotation
        matrix[:3, 3] = self.translation
        return matrix


@dataclass(frozen=True)
class GpsFit:
    """How well GPS and the model agree.

    :param similarity: from the model's frame to east, north, up in metres; None when nothing could be fitted.
    :param problem: why the fit must not be used; empty when it may.
    :param residual: median distance in metres between a camera's place and its GPS position.
    :param extent: diagonal of the box around the GPS positions in metres.
    """

    similarity: Similarity | None
    problem: str
    located: int
    residual: float | None = None
    inlier_share: float | None = None
    extent: float | None = None


def to_ecef(lat: Array, lon: Array, alt: Array) -> Array:
    """WGS84 degrees and metres to earth-centred x, y, z in metres, (N, 3)."""
    phi, lam = np.radians(lat), np.radians(lon)
    normal = WGS84_A / np.sqrt(1 - WGS84_E2 * np.sin(phi) ** 2)
    return np.stack(
        [
            (normal + alt) * np.cos(phi) * np.cos(lam),
            (normal + alt) * np.cos(phi) * np.sin(lam),
            (normal * (1 - WGS84_E2) + alt) * np.sin(phi),
        ],
        axis=-1,
    )


def to_enu(lla: Array, origin: Array) -> Array:
    """WGS84 latitude, longitude, altitude (N, 3) to metres east, north and up of an origin (3,)."""
    phi, lam = np.radians(origin[:2])
    east_north_up = np.array(
        [
            [-np.sin(lam), np.cos(lam), 0],
            [-np.sin(phi) * np.cos(lam), -np.sin(phi) * np.sin(lam), np.cos(phi)],
            [np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)],
        ]
    )
    return np.asarray((to_ecef(*lla.T) - to_ecef(*origin)) @ east_north_up.T)


def fit_similarity(source: Array, target: Array) -> Similarity:
    """Least-squares similarity between paired points (N, 3), N >= 3 (Umeyama 1991, without reflections)."""
    source_mean, target_mean = source.mean(0), target.mean(0)
    a, b = source - source_mean, target - target_mean
    u, singular, vt = np.linalg.svd(b.T @ a)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * sign) @ vt
    scale = float((singular * sign).sum() / max((a**2).sum(), 1e-12))
    return Similarity(scale, rotation, target_mean - scale * rotation @ source_mean)


def fit_gps(centers: Array, enu: Array, up: Array, seed: int = 0) -> GpsFit:
    """Fit the model to GPS, and judge whether the fit may be used.

    :param centers: camera centres in the model's frame, (N, 3).
    :param enu: the same cameras' GPS positions in metres, (N, 3).
    :param up: the direction that the photos themselves say is up, in the model's frame.
    """
    located = len(centers)
    if located < MIN_LOCATED:
        return GpsFit(None, f"only {located} placed photos have GPS with altitude", located)
    extent = float(np.linalg.norm(np.ptp(enu, axis=0)))
    if _on_a_line(centers):
        return GpsFit(None, "the cameras stand on a line", located, extent=extent)
    similarity = _robust_fit(centers, enu, MAX_RESIDUAL_SHARE * extent, seed)
    distance = np.linalg.norm(similarity(centers) - enu, axis=1)
    residual, share = float(np.median(distance)), float(np.mean(distance <= MAX_RESIDUAL_SHARE * extent))
    tilt = np.degrees(np.arccos(np.clip((similarity.rotation @ up)[2], -1, 1)))
    problem = ""
    if share < MIN_INLIER_SHARE or residual > MAX_RESIDUAL_SHARE * extent:
        problem = f"GPS is {residual:.1f} m off (median) over a capture of {extent:.0f} m"
    elif tilt > MAX_TILT_DEGREES:
        problem = f"GPS would tilt the scene by {tilt:.0f} degrees against what the photos show"
    return GpsFit(similarity, problem, located, residual, share, extent)


def _robust_fit(source: Array, target: Array, tolerance: float, seed: int) -> Similarity:
    """RANSAC over triples, then least squares over the inliers of the best."""
    rng = np.random.default_rng(seed)
    best = np.ones(len(source), bool)
    best_cost = np.inf
    for _ in range(SAMPLES):
        sample = rng.choice(len(source), 3, replace=False)
        distance = np.linalg.norm(fit_similarity(source[sample], target[sample])(source) - target, axis=1)
        cost = float(np.minimum(distance, tolerance).sum())
        if cost < best_cost and (distance <= tolerance).sum() >= 3:
            best, best_cost = distance <= tolerance, cost
    return fit_similarity(source[best], target[best])


def _on_a_line(points: Array) -> bool:
    singular = np.linalg.svd(points - points.mean(0), compute_uv=False)
    return bool(singular[1] < MIN_WIDTH_SHARE * singular[0])
