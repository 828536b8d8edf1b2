"""The part of a scene that people get: all that was trained, or what the crop stage left of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from e2e3d_stages.runtime.context import InputArtifact

Points = NDArray[np.floating[Any]]

# What crop writes: the Gaussians that stay, which those are of the trained ones, and the box.
SCENE, KEPT, BOX = "cropped.ply", "kept.npy", "box.json"


@dataclass(frozen=True)
class Box:
    """A box along the axes of the scene's frame.

    :param low: its corner with the least x, y and z.
    :param high: the opposite one.
    """

    low: list[float]
    high: list[float]

    def holds(self, points: Points) -> NDArray[np.bool_]:
        """Which of the points (N, 3) lie in it."""
        return np.asarray(((points >= self.low) & (points <= self.high)).all(1))

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def published_scene(inputs: Mapping[str, InputArtifact]) -> Path:
    """The PLY file of the Gaussians that people get.

    :param inputs: a stage's; `train`, and `crop` where the run has one.
    """
    return inputs["crop"].folder / SCENE if "crop" in inputs else inputs["train"].folder / "scene.ply"


def published_box(inputs: Mapping[str, InputArtifact]) -> Box:
    """What of the scene's frame people get: everywhere where the scene was not cropped."""
    if "crop" not in inputs:
        return Box([-np.inf] * 3, [np.inf] * 3)
    return Box(**json.loads((inputs["crop"].folder / BOX).read_text(encoding="utf-8")))
