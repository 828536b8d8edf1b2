"""Ingest: photos in any state become an upright, resized set."""

from __future__ import annotations

from e2e3d_stages.contract.figures import PHOTOS
from e2e3d_stages.contract.spec import Limit, StageSpec, Workload
from e2e3d_stages.ingest.params import PRESETS, Params

# `make demo` on the sample's 31 photos, two cores of an AMD EPYC.
SECONDS_PER_PHOTO = 0.1


def rough_seconds(workload: Workload) -> float:
    """By the number of photos."""
    return SECONDS_PER_PHOTO * workload.photos


SPEC = StageSpec(
    name="ingest",
    label="Photos",
    work="Ingest the photos",
    about="Photos → upright, resized photos with what is known of their cameras.",
    inputs=(),
    container="sfm",
    version=1,
    params=Params,
    presets=PRESETS,
    longest=Limit(seconds=86_400),
    rough_seconds=rough_seconds,
    result=PHOTOS,
)
