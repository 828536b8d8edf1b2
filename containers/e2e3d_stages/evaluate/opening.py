"""Where a person first looks at the scene from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

STEEPEST_DEGREES = 80.0


def opening_view(
    views: list[dict[str, Any]], xyz: NDArray[np.float32], view_of: NDArray[np.int32], point_of: NDArray[np.int32]
) -> tuple[int, float]:
    """The camera to open the scene at, and how far before it the scene is.

    The camera that sees most points among those that don't look steeply down or up: an orbiting camera has no roll,
    so a picture from straight above would open turned.

    :param views: one or more entries of `views.json`.
    :param xyz: (P, 3) points.
    :param view_of: (O,) the view of each observation.
    :param point_of: (O,) its point.
    :returns: index into `views`, and the median depth of the points it sees (1 where it sees none).
    """
    forward = np.array([view["world_to_camera"][2][:3] for view in views])
    seen = np.bincount(view_of, minlength=len(views))
    steep = np.abs(forward[:, 1]) > np.sin(np.radians(STEEPEST_DEGREES))
    best = int(np.lexsort((-seen, steep))[0])
    pose = np.array(views[best]["world_to_camera"])
    depths = xyz[point_of[view_of == best]] @ pose[2, :3] + pose[2, 3]
    depths = depths[depths > 0]
    return best, float(np.median(depths)) if len(depths) else 1.0
