"""The world frame that everything after structure from motion lives in: up is -Y, the subject at the origin."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from e2e3d_stages.sfm.geodesy import Similarity

Array = NDArray[np.float64]

# Mean length of the unit viewing directions above which the views count as parallel (within about 18 degrees).
PARALLEL = 0.95
# Nobody photographs a wall this wide from up and down.
FAR_METERS = 30.0
# Median distance from a camera to the points it sees, in scene units, when there is no GPS to give metres.
VIEWING_DISTANCE = 5.0
# A ground plane: within so much of the cameras' distance from its points, and tilted by no more against what is up.
GROUND_THICKNESS, GROUND_TILT_DEGREES = 0.02, 15.0
GROUND_SAMPLES = 2_000
# Fewer of the points below the cameras are no ground.
LEAST_GROUND = 0.1
# East, north, up to x = east, y = down, z = north.
WORLD_FROM_ENU = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])


def estimate_up(rotations: Array, centers: Array, walked: float = 0.0) -> tuple[Array, str]:
    """The direction that is up in the model's frame, and what it was taken from.

    People hold a camera level, so that its x axis is horizontal: up is the direction most at right angles to all
    x axes (`horizon`). Where the views are parallel that is open, and how the camera moved decides: below a drone
    it turns about its viewing axis, or moves along its own y axis, and up is against the viewing direction
    (`nadir`); along a wall it moves along its x axis, and up is the cameras' mean up (`camera`). A camera that moved
    both ways was below a drone if GPS says that it went far.

    :param rotations: camera to world, (N, 3, 3); columns are the camera's right, down and forward.
    :param centers: camera centres, (N, 3).
    :param walked: extent of the GPS positions over ground in metres, 0 when unknown.
    """
    right, down, forward = rotations[:, :, 0], rotations[:, :, 1], rotations[:, :, 2]
    camera_up = -down.mean(0)
    looking = forward.mean(0)
    if np.linalg.norm(looking) > PARALLEL:
        turned = np.linalg.norm(camera_up) < 0.5
        ratio = _spread(centers, down.mean(0)) / max(_spread(centers, right.mean(0)), 1e-12)
        if turned or ratio > (0.5 if walked > FAR_METERS else 2.0):
            return -_unit(looking), "nadir"
        return _unit(camera_up), "camera"
    values, vectors = np.linalg.eigh(right.T @ right / len(right))
    up = vectors[:, 0] * (1 if vectors[:, 0] @ camera_up >= 0 else -1)
    # With x axes all alike a second direction is as much at right angles to them.
    if values[1] > 4 * max(values[0], 0.01) and up @ _unit(camera_up) > 0.5:
        return up, "horizon"
    return _unit(camera_up), "camera"


def _spread(centers: Array, axis: Array) -> float:
    return float(np.std(centers @ axis))


def _unit(vector: Array) -> Array:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def upright(up: Array, forward: Array, points: Array, distance: float) -> Similarity:
    """From the model's frame to the world frame, without GPS.

    :param up: unit vector, in the model's frame.
    :param forward: a viewing direction that becomes +Z as far as `up` allows.
    :param points: the model's points, whose median becomes the origin.
    :param distance: median distance between cameras and points, which becomes VIEWING_DISTANCE.
    """
    ahead = forward - (forward @ up) * up
    if np.linalg.norm(ahead) < 1e-3:
        ahead = np.eye(3)[np.argmin(np.abs(up))]
        ahead = ahead - (ahead @ up) * up
    down, ahead = -up, _unit(ahead)
    rotation = np.stack([np.cross(down, ahead), down, ahead])
    scale = VIEWING_DISTANCE / max(distance, 1e-12)
    return Similarity(scale, rotation, -scale * rotation @ np.median(points, axis=0))


def georeferenced(enu_from_model: Similarity, points: Array) -> tuple[Similarity, Array]:
    """From the model's frame to a world frame in metres (x east, y down, z north), and 4 x 4 scene to ENU.

    :param points: the model's points, whose median becomes the origin.
    """
    center = np.median(enu_from_model(points), axis=0)
    rotation = WORLD_FROM_ENU @ enu_from_model.rotation
    world = Similarity(enu_from_model.scale, rotation, WORLD_FROM_ENU @ (enu_from_model.translation - center))
    scene_to_enu = np.eye(4)
    scene_to_enu[:3, :3] = WORLD_FROM_ENU.T
    scene_to_enu[:3, 3] = center
    return world, scene_to_enu


def heights_above_ground(centers: Array, points: Array, up: Array, distance: float, seed: int = 0) -> Array | None:
    """How high above the ground the cameras are (N,), in the model's unit; None where the points show no ground.

    The ground is the plane, level within some degrees, that the most points below the cameras lie on: by RANSAC.

    :param up: unit vector, in the model's frame.
    :param distance: median distance between cameras and points.
    """
    below = points[points @ up < np.median(centers @ up)]
    if len(below) < 3:
        return None
    corners = below[np.random.default_rng(seed).integers(0, len(below), (GROUND_SAMPLES, 3))]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1)
    level = np.abs(normals @ up) > np.cos(np.radians(GROUND_TILT_DEGREES)) * np.maximum(length, 1e-12)
    best, most = None, LEAST_GROUND * len(below)
    for corner, normal in zip(corners[level, 0], normals[level], strict=True):
        upward = _unit(normal) * np.sign(normal @ up)
        on_it = int((np.abs((below - corner) @ upward) < GROUND_THICKNESS * distance).sum())
        if on_it > most:
            best, most = (corner, upward), on_it
    return None if best is None else (centers - best[0]) @ best[1]
