"""Exports: files for other programs."""

from __future__ import annotations

from e2e3d_stages.contract.spec import Deliverable, Limit, StageSpec, Workload
from e2e3d_stages.export.params import PRESETS, Params

# All formats of the sample on two cores of an AMD EPYC.
SECONDS_PER_GAUSSIAN = 5e-5
SECONDS_PER_PHOTO = 0.05


def rough_seconds(workload: Workload) -> float:
    """By the Gaussians and the photos."""
    return SECONDS_PER_GAUSSIAN * workload.gaussians + SECONDS_PER_PHOTO * workload.photos


SPEC = StageSpec(
    name="export",
    label="Exports",
    work="Export for other programs",
    about="Points as PLY and LAZ, Gaussians as glTF and USD, the photos with their poses for COLMAP's readers.",
    inputs=("sfm", "train"),
    container="compressor",
    version=2,
    params=Params,
    presets=PRESETS,
    longest=Limit(seconds=7_200, per_photo=10),
    rough_seconds=rough_seconds,
    deliverables=(
        Deliverable("points.ply", "CloudCompare, MeshLab, and whatever opens points"),
        Deliverable("points.laz", "GIS and surveying: points with coordinates in UTM"),
        Deliverable("scene.glb", "glTF viewers and engines that know Gaussians"),
        Deliverable("scene.usdc", "Omniverse, Houdini, and what else opens USD"),
        Deliverable("tiles/", "3D Tiles for CesiumJS: Gaussians with coordinates"),
        Deliverable("colmap.zip", "training elsewhere: nerfstudio, gsplat, Brush, LichtFeld"),
    ),
    optional_inputs=("crop",),
)
