"""Structure from motion: where each photo was taken, and a cloud of points."""

from __future__ import annotations

from e2e3d_stages.contract.figures import PLACED
from e2e3d_stages.contract.spec import Deliverable, Limit, StageSpec, Workload
from e2e3d_stages.sfm.params import PRESETS, Params

# `make demo` on the sample's 31 photos, two cores of an AMD EPYC; at 1000 px and 8,192 features.
EXTRACT_SECONDS_PER_PHOTO = 0.7
MATCH_SECONDS_PER_PAIR = 0.037
MAP_SECONDS_PER_PHOTO = 1.2


def rough_seconds(workload: Workload) -> float:
    """By the photos, their pairs and their size."""
    params, photos = workload.params, workload.photos
    fast = (0.67 if params["orientations"] == 1 else 1.0) * (0.5 if params["first_octave"] == 0 else 1.0)
    all_pairs = photos * (photos - 1) / 2
    some = params["pairs"] in ("spatial", "sequential", "retrieval") or (
        params["pairs"] == "auto" and photos > params["exhaustive_limit"]
    )
    pairs = min(all_pairs, photos * params["neighbors"]) if some else all_pairs
    matching = MATCH_SECONDS_PER_PAIR * pairs * params["max_features"] / 8192
    seconds: float = (EXTRACT_SECONDS_PER_PHOTO * fast + MAP_SECONDS_PER_PHOTO) * photos + matching
    return workload.long_side / 1000 * seconds


SPEC = StageSpec(
    name="sfm",
    label="Camera poses",
    work="Find the camera poses",
    about="Structure from motion with pycolmap; too few placed photos end the run here, before training.",
    inputs=("ingest",),
    container="sfm",
    version=2,
    params=Params,
    presets=PRESETS,
    # Bundle adjustment of a thousand photos tells nothing for hours.
    longest=Limit(seconds=3_600, per_photo=120, silent=4 * 3_600),
    rough_seconds=rough_seconds,
    deliverables=(
        Deliverable("sparse/0/"),
        Deliverable("georef.json", "from the scene to metres east, north and up"),
        Deliverable("photos.json", "every photo, and whether it was placed"),
    ),
    result=PLACED,
)
