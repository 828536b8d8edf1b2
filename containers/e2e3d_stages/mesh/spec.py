"""The mesh: triangles for programs that know no Gaussians."""

from __future__ import annotations

from e2e3d_stages.contract.figures import TRIANGLES
from e2e3d_stages.contract.spec import Deliverable, Limit, StageSpec, Workload
from e2e3d_stages.mesh.params import PRESETS, Params

# The sample's 31 photos on two cores of an AMD EPYC.
SECONDS_PER_VIEW_AT_384_VOXELS = 0.3
SECONDS_TO_EXTRACT_AT_384_VOXELS = 5.0


def rough_seconds(workload: Workload) -> float:
    """By the photos and the number of voxels."""
    share = (workload.params["voxels"] / 384) ** 3
    return float(share * (SECONDS_TO_EXTRACT_AT_384_VOXELS + SECONDS_PER_VIEW_AT_384_VOXELS * workload.photos))


SPEC = StageSpec(
    name="mesh",
    label="Mesh",
    work="Make a mesh",
    about="Depths that the Gaussians have in every photo become one surface: GLB, PLY, and OBJ where asked.",
    inputs=("sfm", "train"),
    container="3dgs",
    version=1,
    params=Params,
    presets=PRESETS,
    longest=Limit(seconds=7_200, per_photo=60),
    rough_seconds=rough_seconds,
    deliverables=(
        Deliverable("mesh.glb", "Blender, game engines, AR, and whatever opens glTF"),
        Deliverable("mesh.ply", "measuring, 3D printing, MeshLab and CloudCompare"),
        Deliverable("mesh.obj", "programs that read no glTF"),
    ),
    result=TRIANGLES,
    optional_inputs=("crop",),
)
