"""A room whose walls are photos, and what a camera that sees all around sees of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Half of the room's width, height and depth.
ROOM = np.array([2.0, 1.4, 2.6])


def panorama(walls: Sequence[Image.Image], center: Sequence[float], yaw: float = 0, height: int = 512) -> Image.Image:
    """What is seen from a place in the room, twice as wide as high; y is down.

    :param walls: six, of the two ends of x, of y and of z.
    :param yaw: degrees by which the camera's forward is turned from z to x.
    """
    longitude, latitude = np.meshgrid(
        (np.arange(2 * height) + 0.5) / height * np.pi - np.pi + np.radians(yaw),
        (np.arange(height) + 0.5) / height * np.pi - np.pi / 2,
    )
    rays = np.stack(
        [np.sin(longitude) * np.cos(latitude), np.sin(latitude), np.cos(longitude) * np.cos(latitude)], axis=-1
    )
    return Image.fromarray(seen(walls, center, rays))


def seen(walls: Sequence[Image.Image], center: Sequence[float], rays: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The colours in some directions, (..., 3)."""
    with np.errstate(divide="ignore"):
        far = (np.sign(rays) * ROOM - np.asarray(center)) / rays
    axis = np.argmin(far, axis=-1)
    hit = np.asarray(center) + rays * np.take_along_axis(far, axis[..., None], axis=-1)
    ahead = np.take_along_axis(rays, axis[..., None], axis=-1)[..., 0] > 0
    found = np.zeros((*axis.shape, 3), np.uint8)
    for wall, texture in enumerate(walls):
        there = (axis == wall // 2) & (ahead == wall % 2)
        others = [each for each in range(3) if each != wall // 2]
        places: NDArray[np.float64] = (hit[there][:, others] / ROOM[others] + 1) / 2
        x, y = (places * texture.size).astype(int).clip(0, np.array(texture.size) - 1).T
        found[there] = np.asarray(texture.convert("RGB"))[y, x]
    return found
