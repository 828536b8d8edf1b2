"""Training: poses and points become Gaussians."""

from __future__ import annotations

from e2e3d_stages.contract.figures import GAUSSIANS
from e2e3d_stages.contract.spec import Deliverable, Limit, StageSpec, Workload
from e2e3d_stages.train.params import PRESETS, Params

# `make demo` on the sample, two cores of an AMD EPYC.
SECONDS_PER_STEP_AT_1000_PX = 0.097
# gsplat on an A100 and the MipNeRF360 scenes: 15.4 minutes for 30,000 steps (gsplat's documentation, 1M Gaussians).
SECONDS_PER_STEP_ON_GPU = 0.031


def rough_seconds(workload: Workload) -> float:
    """By the steps, and on CPUs by the size of the photos."""
    pixels = (min(workload.long_side, workload.params["long_side"]) / 1000) ** 2
    per_step = SECONDS_PER_STEP_ON_GPU if workload.gpu else SECONDS_PER_STEP_AT_1000_PX * pixels
    return float(workload.params["iterations"] * per_step)


SPEC = StageSpec(
    name="train",
    label="Training",
    work="Train the Gaussians",
    about="Gaussian splatting, on CUDA with gsplat or on the CPU; resumes from its checkpoints.",
    inputs=("sfm",),
    container="3dgs",
    version=8,
    params=Params,
    presets=PRESETS,
    longest=Limit(seconds=3_600, per_photo=5, per_step=2),
    rough_seconds=rough_seconds,
    deliverables=(Deliverable("scene.ply", "editing: every Gaussian as trained, uncompressed", format_of_scene=True),),
    result=GAUSSIANS,
)
