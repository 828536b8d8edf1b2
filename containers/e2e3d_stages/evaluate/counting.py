"""What of a photo counts: what its mask keeps, and of a cropped scene where the photo shows what stayed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from e2e3d_stages.evaluate.unseen import in_white
from e2e3d_stages.splats.cropping import KEPT
from e2e3d_stages.splats.gaussians import read_ply
from e2e3d_stages.splats.masks import read_mask
from e2e3d_stages.splats.rasterizer import Renderer
from e2e3d_stages.splats.views import View

if TYPE_CHECKING:
    from e2e3d_stages.runtime.context import InputArtifact

# Where less of what a photo shows stayed, it is a photo of what went.
LEAST_STAYED = 0.5
# A photo with a smaller share of such pixels is not compared: it says nothing of what stayed.
LEAST_COUNTED = 0.01


class Counting:
    """Tells for any view and size which pixels are compared.

    :param inputs: the stage's; what stayed is drawn with the whole scene as trained, so that what hides it hides it.
    """

    def __init__(self, inputs: Mapping[str, InputArtifact]) -> None:
        self._sfm = inputs["sfm"].folder
        self._stayed = None
        if "crop" in inputs:
            trained = read_ply(inputs["train"].folder / "scene.ply")
            self._stayed = Renderer(in_white(trained, np.load(inputs["crop"].folder / KEPT))).image

    def __call__(self, view: View, width: int, height: int) -> NDArray[np.bool_] | None:
        """(height, width); None where the whole photo counts."""
        mask = read_mask(self._sfm, view, width, height)
        if self._stayed is None:
            return mask
        share = self._stayed(view, width, height)[..., 0]
        # However little it is, something always counts.
        stayed: NDArray[np.bool_] = share >= min(LEAST_STAYED, share.max())
        return stayed if mask is None or not (stayed & mask).any() else stayed & mask

    def shows(self, view: View, width: int, height: int) -> bool:
        """Whether enough of a photo counts to compare it."""
        if self._stayed is None:
            return True
        return float((self._stayed(view, width, height)[..., 0] >= LEAST_STAYED).mean()) >= LEAST_COUNTED
