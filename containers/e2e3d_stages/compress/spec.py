"""Compression: Gaussians become files small enough for a web page."""

from __future__ import annotations

from e2e3d_stages.compress.params import PRESETS, Params, has_levels
from e2e3d_stages.contract.figures import SIZE
from e2e3d_stages.contract.spec import Deliverable, Limit, StageSpec, Workload
from e2e3d_stages.splats.streamed import FOLDER, META

# `make demo` on the sample, two cores of an AMD EPYC.
SECONDS_PER_GAUSSIAN = 5e-5
# All levels together have twice as many as the scene, which is compressed by itself, too.
TIMES_WITH_LEVELS = 3


def rough_seconds(workload: Workload) -> float:
    """By the number of Gaussians."""
    # What was made before there were levels does not name the parameter.
    streams = has_levels(workload.params.get("stream_above", 0), workload.gaussians)
    return SECONDS_PER_GAUSSIAN * workload.gaussians * (TIMES_WITH_LEVELS if streams else 1)


SPEC = StageSpec(
    name="compress",
    label="Compression",
    work="Compress the scene",
    about="PLY → SOG and SPZ, and levels of detail of a large scene.",
    inputs=("train",),
    container="compressor",
    version=1,
    params=Params,
    presets=PRESETS,
    longest=Limit(seconds=7_200),
    rough_seconds=rough_seconds,
    deliverables=(
        Deliverable("scene.sog", "the web viewer, and sharing: the smallest", format_of_scene=True),
        Deliverable("scene.spz", "phones and other viewers", format_of_scene=True),
        Deliverable(f"{FOLDER}{META}", "pages of your own: streamed SOG, levels of detail by this file's address"),
        Deliverable(FOLDER),
    ),
    result=SIZE,
    optional_inputs=("crop",),
)
