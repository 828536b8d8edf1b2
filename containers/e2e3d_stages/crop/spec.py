"""Cropping: what lies around the subject, and what floats, goes."""

from __future__ import annotations

from e2e3d_stages.contract.spec import Deliverable, Limit, StageSpec, Workload
from e2e3d_stages.crop.params import PRESETS, Params

# The sample on two cores of an AMD EPYC.
SECONDS_PER_GAUSSIAN = 2e-5


def rough_seconds(workload: Workload) -> float:
    """By the number of Gaussians."""
    return SECONDS_PER_GAUSSIAN * workload.gaussians


SPEC = StageSpec(
    name="crop",
    label="Crop",
    work="Crop the scene",
    about="A box that is found from cameras and points; what lies outside it, and what floats in it, goes.",
    inputs=("sfm", "train"),
    container="3dgs",
    version=1,
    params=Params,
    presets=PRESETS,
    longest=Limit(seconds=3_600),
    rough_seconds=rough_seconds,
    deliverables=(Deliverable("cropped.ply", "editing: the Gaussians that stay, uncompressed", format_of_scene=True),),
)
