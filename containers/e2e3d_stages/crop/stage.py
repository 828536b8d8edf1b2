"""Crops the scene: a box around what it was photographed for, without what floats."""

from __future__ import annotations

from typing import Any

import numpy as np

from e2e3d_stages.contract.messages import StageError
from e2e3d_stages.crop.finding import environment_of, floating, subject_of
from e2e3d_stages.crop.params import Params
from e2e3d_stages.runtime.context import StageContext
from e2e3d_stages.splats.cropping import BOX, KEPT, SCENE
from e2e3d_stages.splats.gaussians import read_ply, write_ply
from e2e3d_stages.splats.views import views_and_points


def run(context: StageContext) -> dict[str, Any]:
    """Write the Gaussians that stay, which those are, and the box.

    :returns: numbers of Gaussians before and after, of those outside the box and of those that floated in it, and the
        box's sides in the scene's unit.
    :raises StageError: when nothing is left.
    """
    params: Params = context.params
    context.progress(0, 2, "steps", phase="looking for the box")
    views, points = views_and_points(context.inputs["sfm"].folder)
    box = (subject_of if params.keep == "subject" else environment_of)(views, points)
    context.check_stop()
    context.progress(1, 2, "steps", phase="cropping")
    gaussians = read_ply(context.inputs["train"].folder / "scene.ply")
    kept = box.holds(gaussians.means)
    inside = int(kept.sum())
    kept[kept] = ~floating(gaussians.select(kept))
    left = int(kept.sum())
    if not left:
        raise StageError(
            f"None of the scene's {len(gaussians)} Gaussians lies in the box of its {params.keep}.",
            hint="Trigger again without cropping (crop_keep everything): the scene is there.",
        )
    write_ply(context.output / SCENE, gaussians.select(kept))
    np.save(context.output / KEPT, kept)
    box.write(context.output / BOX)
    context.progress(2, 2, "steps", phase="cropping")
    return {
        "gaussians_in": len(gaussians),
        "gaussians": left,
        "removed_outside": len(gaussians) - inside,
        "removed_floating": inside - left,
        "removed_share": round(1 - left / len(gaussians), 4),
        "sides": np.subtract(box.high, box.low).round(4).tolist(),
    }
