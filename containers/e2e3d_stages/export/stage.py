"""Writes the scene and what it was made of as other programs want them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from e2e3d_stages.export.params import Params
from e2e3d_stages.export.points import points_of, write_laz, write_ply
from e2e3d_stages.export.tiles import write_tiles
from e2e3d_stages.export.usd import write_usd
from e2e3d_stages.runtime.context import StageContext
from e2e3d_stages.splats import splat_transform
from e2e3d_stages.splats.cropping import published_scene
from e2e3d_stages.splats.gaussians import read_ply
from e2e3d_stages.splats.georeference import Georeference
from e2e3d_stages.splats.views import in_metres

# splat-transform makes glTF's y up by half a turn about z. With one about y before, it is one about x, as of mesh.glb.
TO_GLTF = ("--rotate", "0,180,0")


def run(context: StageContext) -> dict[str, Any]:
    """Write what was asked for.

    :returns: the number of points, the coordinate system of points.laz, the number of photos in colmap.zip; None for
        what was not written.
    :raises StageError: when splat-transform is missing or fails.
    """
    params: Params = context.params
    sfm, scene = context.inputs["sfm"].folder, published_scene(context.inputs)
    gaussians = read_ply(scene)
    place = Georeference.of(sfm)
    found: dict[str, Any] = {"points": None, "coordinate_system": None, "photos": None}
    steps = [name for name in Params.model_fields if getattr(params, name)]
    for done, step in enumerate(steps):
        context.check_stop()
        context.progress(done, len(steps), "formats", phase=f"writing {step}")
        if step == "points":
            points = points_of(gaussians)
            write_ply(context.output / "points.ply", points)
            found["points"] = len(points.xyz)
            if place:
                write_laz(context.output / "points.laz", points, place)
                found["coordinate_system"] = place.crs.name
            else:
                context.warn(
                    "no_coordinates",
                    "There is no points.laz: the photos' GPS did not say where the scene lies.",
                    "Nothing to do if coordinates are not needed; points.ply has the same points.",
                )
        elif step == "gltf":
            splat_transform.convert(scene, context.output / "scene.glb", actions=TO_GLTF)
        elif step == "tiles" and place:
            far = len(gaussians) - write_tiles(context.output / "tiles", gaussians, place, context.scratch)
            if far:
                context.warn(
                    "tiles_range",
                    f"{far} Gaussians lie more than {splat_transform.SPZ_LIMIT:.0f} m from the scene's middle and are "
                    "not in the 3D Tiles.",
                    "Nothing to do if that is the sky; crop_keep leaves it out everywhere.",
                )
        elif step == "tiles":
            context.warn(
                "no_tiles",
                "There are no 3D Tiles: the photos' GPS did not say where the scene lies.",
                "Give photos with GPS; export_gltf writes the same Gaussians without a place.",
            )
        elif step == "usd":
            write_usd(context.output / "scene.usdc", gaussians, metric=in_metres(context.inputs["sfm"]))
        elif step == "colmap":
            found["photos"] = write_colmap(sfm, context.output / "colmap.zip")
    context.progress(len(steps), len(steps), "formats")
    return found


def write_colmap(sfm: Path, path: Path) -> int:
    """The undistorted photos in `images/`, the model in `sparse/0/`, masks where there are some in `masks/`.

    :returns: the number of photos.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for folder in ("sparse/0", "images", "masks"):
            for file in sorted((sfm / folder).glob("*")):
                archive.write(file, f"{folder}/{file.name}")
    return len(list((sfm / "images").glob("*")))
