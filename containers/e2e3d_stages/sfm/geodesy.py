"""From GPS to metres, and from a scene to the ground it stands on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from e2e3d_stages.contract.wgs84 import E2, A

Array = NDArray[np.float64]

MIN_LOCATED = 5
MIN_INLIER_SHARE = 0.6
MAX_RESIDUAL_SHARE = 0.05
# Second over first principal extent: a strip this thin leaves the rotation about itself open.
MIN_WIDTH_SHARE = 0.1
MAX_TILT_DEGREES = 30.0
SAMPLES = 1000
# Cameras of which every two are compared for the scale; the time grows with the square.
MOST_COMPARED = 400
# In metres, where a photo does not say how exactly it knows its place: what a phone or a drone without RTK reaches.
USUAL_DEVIATION = 5.0
# Times the median distance from the middle. A walk has nothing as far away.
FAR_OFF = 10.0


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
class Fit:
    """How well the model agrees with positions that were measured.

    :param similarity: from the model's frame to east, north, up in metres; None when nothing could be fitted.
    :param problem: why the fit must not be used; empty when it may.
    :param residual: median distance in metres between a camera's place and its position.
    :param extent: diagonal of the box around the cameras in metres, at the scale that most GPS positions agree on.
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
    normal = A / np.sqrt(1 - E2 * np.sin(phi) ** 2)
    return np.stack(
        [
            (normal + alt) * np.cos(phi) * np.cos(lam),
            (normal + alt) * np.cos(phi) * np.sin(lam),
            (normal * (1 - E2) + alt) * np.sin(phi),
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


def fit_similarity(source: Array, target: Array, weights: Array | None = None) -> Similarity:
    """Least-squares similarity between paired points (N, 3), N >= 3 (Umeyama 1991, without reflections).

    :param weights: of each pair, (N,); all count the same when not given.
    """
    weigh = np.ones((len(source), 1)) if weights is None else weights[:, None]
    source_mean, target_mean = (np.asarray((weigh * points).sum(0) / weigh.sum()) for points in (source, target))
    a, b = source - source_mean, target - target_mean
    u, singular, vt = np.linalg.svd(b.T @ (weigh * a))
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * sign) @ vt
    scale = float((singular * sign).sum() / max((weigh * a**2).sum(), 1e-12))
    return Similarity(scale, rotation, target_mean - scale * rotation @ source_mean)


def fit_gps(centers: Array, enu: Array, up: Array, seed: int = 0, deviations: Array | None = None) -> Fit:
    """Fit the model to GPS, and judge whether the fit may be used.

    :param centers: camera centres in the model's frame, (N, 3).
    :param enu: the same cameras' GPS positions in metres, (N, 3).
    :param up: the direction that the photos themselves say is up, in the model's frame.
    :param deviations: standard deviation of each position in metres, (N,): the fit follows the exact ones.
    """
    if len(centers) < MIN_LOCATED:
        return Fit(
            None,
            f"only {len(centers)} placed {'photo has' if len(centers) == 1 else 'photos have'} GPS with altitude",
            len(centers),
        )
    fit = _fitted("GPS is", centers, enu, seed, deviations)
    if fit.problem or fit.similarity is None:
        return fit
    tilt = _angle(fit.similarity.rotation @ up, np.array([0.0, 0, 1]))
    if tilt > MAX_TILT_DEGREES:
        return replace(fit, problem=f"GPS would tilt the scene by {tilt:.0f} degrees against what the photos show")
    return fit


def fit_local(centers: Array, places: Array, up: Array, tilt: float = MAX_TILT_DEGREES, seed: int = 0) -> Fit:
    """Fit the model to positions in a frame of their own, in metres, of which one axis is up, whichever it is.

    Phones measure gravity, and call up what is up: ARKit y, others z.

    :param places: the cameras' positions, (N, 3).
    :param up: the direction that the photos themselves say is up, in the model's frame.
    :param tilt: by how many degrees the axis may be off it.
    """
    if len(centers) < MIN_LOCATED:
        return Fit(
            None,
            f"they tell the place of only {len(centers)} placed {'photo' if len(centers) == 1 else 'photos'}",
            len(centers),
        )
    fit = _fitted("they are", centers, places, seed, None)
    if fit.problem or fit.similarity is None:
        return fit
    found = fit.similarity.rotation @ up
    axis = int(np.argmax(np.abs(found)))
    upward = np.eye(3)[axis] * np.sign(found[axis])
    off = _angle(found, upward)
    if off > tilt:
        return replace(fit, problem=f"none of their axes is up: the nearest is {off:.0f} degrees off")
    # The axes after the one that is up, in their order, become east and north.
    east = np.roll(np.eye(3)[axis], 1)
    upright = np.stack([east, np.cross(upward, east), upward])
    similarity = Similarity(
        fit.similarity.scale, upright @ fit.similarity.rotation, upright @ fit.similarity.translation
    )
    return replace(fit, similarity=similarity)


def _angle(a: Array, b: Array) -> float:
    """Degrees between unit vectors."""
    return float(np.degrees(np.arccos(np.clip(a @ b, -1, 1))))


def _fitted(subject: str, centers: Array, places: Array, seed: int, deviations: Array | None) -> Fit:
    """A robust fit; of positions that are off its problem begins with the subject.

    How far positions may be off is a share of the capture's extent, which is that of the model: one wild fix stretches
    the positions, but not the places of the cameras among one another.
    """
    located, extent = len(centers), _extent(centers, places)
    if _on_a_line(centers):
        return Fit(None, "the cameras stand on a line", located, extent=extent)
    similarity = _robust_fit(centers, places, MAX_RESIDUAL_SHARE * extent, seed, deviations)
    distance = np.linalg.norm(similarity(centers) - places, axis=1)
    residual, share = float(np.median(distance)), float(np.mean(distance <= MAX_RESIDUAL_SHARE * extent))
    problem = ""
    if share < MIN_INLIER_SHARE or residual > MAX_RESIDUAL_SHARE * extent:
        problem = f"{subject} {residual:.1f} m off (median) over a capture of {extent:.0f} m"
    return Fit(similarity, problem, located, residual, share, extent)


def _extent(centers: Array, enu: Array) -> float:
    """Diagonal in metres of the box around the cameras; of the distances between every two the median gives the scale.

    Half of the distances may be wrong, so that three photos of ten may lie anywhere.
    """
    some = np.unique(np.linspace(0, len(centers) - 1, MOST_COMPARED).round().astype(int))
    apart, meters = (np.linalg.norm(each[some, None] - each[None, some], axis=-1) for each in (centers, enu))
    there = apart > 0
    if not there.any():
        return 0.0
    centered = centers - centers.mean(0)
    along_axes = centered @ np.linalg.svd(centered, full_matrices=False)[2].T
    return float(np.median(meters[there] / apart[there]) * np.linalg.norm(np.ptp(along_axes, axis=0)))


def walked(ground: Array) -> float:
    """How far positions (N, 2 or 3) in metres reach, without those that lie far off all others."""
    if not len(ground):
        return 0.0
    distance = np.linalg.norm(ground - np.median(ground, axis=0), axis=1)
    return float(np.linalg.norm(np.ptp(ground[distance <= FAR_OFF * np.median(distance)], axis=0)))


def _robust_fit(source: Array, target: Array, tolerance: float, seed: int, deviations: Array | None) -> Similarity:
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
    weights = None if deviations is None else deviations[best] ** -2
    return fit_similarity(source[best], target[best], weights)


def _on_a_line(points: Array) -> bool:
    singular = np.linalg.svd(points - points.mean(0), compute_uv=False)
    return bool(singular[1] < MIN_WIDTH_SHARE * singular[0])
