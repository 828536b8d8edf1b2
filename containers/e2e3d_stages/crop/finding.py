"""What a scene was photographed for, by where the photos look; and what hangs together there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from e2e3d_stages.splats.camera import Camera
from e2e3d_stages.splats.cropping import Box
from e2e3d_stages.splats.gaussians import Gaussians
from e2e3d_stages.splats.views import View, camera_place

Points = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

# The box goes from one of these quantiles of its points to the other, and so much of its longest side farther.
QUANTILES = (0.01, 0.99)
SUBJECT_MARGIN, ENVIRONMENT_MARGIN = 0.05, 0.25
# Of the subject are points that so many of the photos have in the picture, of those that have the best one.
MOST_PHOTOS = 0.6
# The axis of the scene's frame that goes down.
VERTICAL = 1
# Gaussians touch where they are nearer than so many of their standard deviations.
TOUCH = 3.0
NEIGHBOURS = 8
# What lets nine tenths of the light through connects nothing.
LEAST_OPACITY = 0.1
# What hangs together with fewer than this share of all floats.
LEAST_PART = 0.005


def environment_of(views: list[View], points: Points) -> Box:
    """The box around the points, but not around those that lie far off, and around all cameras."""
    box = _around(points, ENVIRONMENT_MARGIN)
    cameras = np.array([camera_place(view) for view in views])
    low, high = np.minimum(box.low, cameras.min(0)), np.maximum(box.high, cameras.max(0))
    return Box(low.tolist(), high.tolist())


def subject_of(views: list[View], points: Points) -> Box:
    """The box around the points that the most photos have in the picture, whether something is before them or not.

    Around an object those are on it: a photo has what is behind it in the picture, but few others do. Over a field it
    is the part that was flown over most. Up and down it goes as far as anything over that ground: the top of what was
    photographed from near often reaches out of the picture.

    :param points: (N, 3).
    """
    photos = np.zeros(len(points), np.int32)
    for view in views:
        photos[Camera.from_view(view, view["width"], view["height"]).project(points)[2]] += 1
    ground = _around(points[photos >= MOST_PHOTOS * photos.max()], SUBJECT_MARGIN)
    low, high = np.array(ground.low), np.array(ground.high)
    low[VERTICAL], high[VERTICAL] = -np.inf, np.inf
    whole = _around(points[Box(low.tolist(), high.tolist()).holds(points)], SUBJECT_MARGIN)
    low[VERTICAL], high[VERTICAL] = whole.low[VERTICAL], whole.high[VERTICAL]
    return Box(low.tolist(), high.tolist())


def floating(gaussians: Gaussians) -> Mask:
    """Which of the Gaussians (N,) belong to no part of any size: what neighbours touch one another hangs together."""
    dense = np.flatnonzero(gaussians.opacities >= np.log(LEAST_OPACITY / (1 - LEAST_OPACITY)))
    # Haze is no part of anything: it goes with the box alone.
    lonely = np.zeros(len(gaussians), bool)
    if len(dense) > 1:
        means, reach = gaussians.means[dense], np.exp(gaussians.scales[dense]).max(1)
        distance, near = cKDTree(means).query(means, k=min(NEIGHBOURS + 1, len(dense)), workers=-1)
        row, column = np.nonzero(distance <= TOUCH * (reach[:, None] + reach[near]))
        links = coo_matrix((np.ones(len(row), np.int8), (row, near[row, column])), (len(dense), len(dense)))
        _, part = connected_components(links, directed=False)
        size = np.bincount(part)
        lonely[dense] = size[part] < LEAST_PART * len(dense)
    return lonely


def _around(points: Points, margin: float) -> Box:
    low, high = np.quantile(points, QUANTILES, axis=0).astype(np.float64)
    farther = margin * (high - low).max()
    return Box((low - farther).tolist(), (high + farther).tolist())
