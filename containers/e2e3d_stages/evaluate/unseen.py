"""What of a photo no training photo shows: nothing can be known of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2e3d_stages.splats.camera import Camera
from e2e3d_stages.splats.gaussians import C0, Gaussians


def shown_by(views: list[dict[str, Any]], gaussians: Gaussians) -> Gaussians:
    """The scene in white where one of the views has it in its picture, behind something or not; in black elsewhere.

    :param views: entries of `views.json`.
    """
    shown = np.zeros(len(gaussians), bool)
    for view in views:
        shown[Camera.from_view(view, view["width"], view["height"]).project(gaussians.means)[2]] = True
    return in_white(gaussians, shown)


def in_white(gaussians: Gaussians, chosen: NDArray[np.bool_]) -> Gaussians:
    """The scene with the chosen ones (N,) in white and the others in black."""
    white = np.repeat(((chosen - 0.5) / C0).astype(np.float32)[:, None, None], 3, axis=2)
    return Gaussians(gaussians.means, gaussians.scales, gaussians.quats, gaussians.opacities, white)


def unseen_share(picture: NDArray[np.float32], counted: NDArray[np.bool_] | None) -> float:
    """The share of a photo's pixels less than half of which is white in a picture of `shown_by`'s scene.

    :param counted: (H, W), where the photo counts; as a whole when not given.
    """
    unseen = picture[..., 0] < 0.5
    return round(float((unseen if counted is None else unseen[counted]).mean()), 4)
