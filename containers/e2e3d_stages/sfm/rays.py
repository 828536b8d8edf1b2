"""Where lines of sight meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e2e3d_stages.contract.messages import InvalidRequest

Array = NDArray[np.float64]

# Of rays that are nearer to parallel, a pixel moves the point by much of its distance.
LEAST_ANGLE_DEGREES = 3.0
# Of the photo's longest side; a careful person is within a fifth of that.
MOST_MISS = 0.005


@dataclass(frozen=True)
class Ray:
    """A line of sight.

    :param name: how people call what was sighted.
    :param center: of the camera (3,).
    :param direction: unit vector (3,).
    :param focal: in px of the photo.
    :param long_side: of the photo, in px.
    """

    name: str
    center: Array
    direction: Array
    focal: float
    long_side: float

    def miss(self, point: Array) -> float:
        """By how many px the photo shows the point elsewhere; infinite where it lies behind the camera."""
        towards = point - self.center
        ahead = float(towards @ self.direction)
        aside = float(np.linalg.norm(towards - ahead * self.direction))
        return self.focal * aside / ahead if ahead > 0 else float("inf")


def meeting_point(rays: Sequence[Ray]) -> tuple[Array, float]:
    """The point (3,) with the smallest sum of squared distances from two or more rays, and the largest miss in px.

    :raises InvalidRequest: when the rays are nearly parallel, or do not meet.
    """
    directions = np.array([ray.direction for ray in rays])
    angle = float(np.degrees(np.arccos(np.clip(directions @ directions.T, -1, 1)).max()))
    names = " and ".join(ray.name for ray in rays)
    if angle < LEAST_ANGLE_DEGREES:
        raise InvalidRequest(
            f"{names} look at an end of the measured distance from nearly the same direction: {angle:.1f} degrees "
            f"apart, and {LEAST_ANGLE_DEGREES:g} are needed.",
            hint="In sfm_measured, name photos that were taken farther apart from each other.",
        )
    across = np.eye(3) - directions[:, :, None] * directions[:, None, :]
    centers = np.array([ray.center for ray in rays])
    point: Array = np.linalg.solve(across.sum(0), (across @ centers[:, :, None]).sum(0)[:, 0])
    worst = max(rays, key=lambda ray: ray.miss(point) / ray.long_side)
    miss = worst.miss(point)
    if miss > MOST_MISS * worst.long_side:
        missed = "has it behind its camera" if miss == float("inf") else f"is {miss:.0f} px off"
        raise InvalidRequest(
            f"{names} do not show the same end of the measured distance: of the point nearest to their lines of sight, "
            f"{worst.name} {missed}; {MOST_MISS * worst.long_side:.0f} px are allowed.",
            hint="In sfm_measured, look up again where these photos show it, in pixels of the upright photo.",
        )
    return point, max(ray.miss(point) for ray in rays)
