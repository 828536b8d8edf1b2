"""Renders: a film, and a map."""

from __future__ import annotations

from e2e3d_stages.contract.spec import Deliverable, Limit, StageSpec, Workload
from e2e3d_stages.render.params import PRESETS, Params

FILM, POSTER = "flight.mp4", "flight.jpg"

# The sample's film on two cores of an AMD EPYC. The orthophoto's seconds and the GPU's share are guesses.
SECONDS_OF_FILM = 30.0
SECONDS_OF_ORTHOPHOTO = 20.0
GPU_SHARE = 0.3


def rough_seconds(workload: Workload) -> float:
    """By what is rendered."""
    asked = workload.params
    seconds = SECONDS_OF_FILM * asked["film"] + SECONDS_OF_ORTHOPHOTO * asked["orthophoto"]
    return float(seconds * (GPU_SHARE if workload.gpu else 1))


SPEC = StageSpec(
    name="render",
    label="Renders",
    work="Render film and map",
    about="A flight through the cameras as MP4, and an orthophoto as GeoTIFF.",
    inputs=("sfm", "train"),
    container="3dgs",
    version=1,
    params=Params,
    presets=PRESETS,
    longest=Limit(seconds=14_400),
    rough_seconds=rough_seconds,
    deliverables=(
        Deliverable(FILM, "sharing: a film of ten seconds"),
        Deliverable(POSTER, "a poster for the film"),
        Deliverable("orthophoto.tif", "GIS: the scene from straight above, as a GeoTIFF"),
    ),
    optional_inputs=("crop",),
)
