"""Evaluation: the scene is compared with photos that training has not seen."""

from __future__ import annotations

from e2e3d_stages.contract.figures import PSNR
from e2e3d_stages.contract.spec import Limit, StageSpec, Workload
from e2e3d_stages.evaluate.params import PRESETS, Params

# `make demo` on the sample, two cores of an AMD EPYC.
SECONDS_PER_VIEW_AT_1000_PX = 5.0
# A guess for a GPU; and every eighth photo is held out unless train_holdout says else.
GPU_SHARE = 0.2
PHOTOS_PER_VIEW = 8


def rough_seconds(workload: Workload) -> float:
    """By the held-out photos and their size."""
    views = workload.photos / PHOTOS_PER_VIEW
    return SECONDS_PER_VIEW_AT_1000_PX * views * (GPU_SHARE if workload.gpu else (workload.long_side / 1000) ** 2)


SPEC = StageSpec(
    name="evaluate",
    label="Evaluation",
    work="Evaluate the scene",
    about="PSNR, SSIM, MS-SSIM and FLIP on photos that training has not seen, as drawn and colour-corrected, and what "
    "compression costs.",
    inputs=("sfm", "train", "compress"),
    container="3dgs",
    version=4,
    params=Params,
    presets=PRESETS,
    longest=Limit(seconds=3_600, per_photo=20),
    rough_seconds=rough_seconds,
    result=PSNR,
    optional_inputs=("crop",),
)
