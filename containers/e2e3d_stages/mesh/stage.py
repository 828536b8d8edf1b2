"""Makes a mesh of the scene: what its Gaussians look like from every photo becomes one surface."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2e3d_stages.mesh.fusion import Volume, box_of
from e2e3d_stages.mesh.params import Params
from e2e3d_stages.mesh.picture import draw
from e2e3d_stages.mesh.surface import (
    Surface,
    distances,
    filled,
    surface_of,
    write_glb,
    write_obj,
    write_ply,
)
from e2e3d_stages.runtime.context import StageContext
from e2e3d_stages.splats.camera import Camera, fitted_size
from e2e3d_stages.splats.cropping import published_box, published_scene
from e2e3d_stages.splats.gaussians import read_ply
from e2e3d_stages.splats.rasterizer import Renderer, use_threads
from e2e3d_stages.splats.views import View, views_and_points

Floats = NDArray[np.float32]

# Of the depths' pictures: a voxel is about a pixel then.
PIXELS_PER_VOXEL = 2
# A vertex is seen where the view's depth there differs by less than so many voxels.
SEEN_VOXELS = 2.0


def run(context: StageContext) -> dict[str, Any]:
    """Write mesh.glb, mesh.ply and, where asked, mesh.obj; and mesh.jpg, a picture of it.

    :returns: numbers of vertices and triangles, whether it is closed, the voxels' size, and how far the points of
        structure from motion in its box are from it, median and 95 %: in the scene's unit, and as shares of the box's
        longest side.
    :raises StageError: when there is no surface.
    """
    params: Params = context.params
    use_threads(context.threads)
    sfm = context.inputs["sfm"].folder
    views, points = views_and_points(sfm)
    points = points[published_box(context.inputs).holds(points)]
    renderer = Renderer(read_ply(published_scene(context.inputs)))
    low, high = box_of(points)
    volume = Volume(low, high, params.voxels)
    work = 2 * len(views) + 1
    with ThreadPoolExecutor(context.threads) as cores:
        for done, view in enumerate(views):
            context.check_stop()
            context.progress(done, work, "views", phase="measuring depths")
            camera = _camera(view, params.voxels)
            volume.fuse(renderer.depth(camera), camera, cores, context.threads)
    context.progress(len(views), work, "views", phase="taking the surface out")
    surface = surface_of(volume, params.max_faces)
    colours = _coloured(context, surface, renderer, views, volume.step, work)
    context.progress(2 * len(views), work, "views", phase="writing")
    write_glb(context.output / "mesh.glb", surface, colours)
    write_ply(context.output / "mesh.ply", surface, colours)
    if params.obj:
        write_obj(context.output / "mesh.obj", surface, colours)
    draw(surface, colours, context.output / "mesh.jpg")
    context.progress(work, work, "views", phase="writing")
    inside = points[((points >= low) & (points <= high)).all(1)]
    far = distances(surface, inside)
    side = float((high - low).max())
    return {
        "vertices": len(surface.vertices),
        "triangles": len(surface.faces),
        "closed": surface.is_closed(),
        "voxel_size": round(volume.step, 6),
        "voxel_share": round(volume.step / side, 6),
        "points_distance_median": round(float(np.median(far)), 6),
        "points_distance_95": round(float(np.quantile(far, 0.95)), 6),
        "points_distance_share": round(float(np.median(far)) / side, 6),
    }


def _camera(view: View, voxels: int) -> Camera:
    """A view's camera for a picture no finer than the voxels are."""
    return Camera.from_view(view, *fitted_size(view["width"], view["height"], PIXELS_PER_VOXEL * voxels))


def _coloured(
    context: StageContext, surface: Surface, renderer: Renderer, views: list[View], step: float, work: int
) -> Floats:
    """Each vertex's colour (V, 3), the mean of the scene's renders that see it, those from the front most."""
    normals = surface.vertex_normals()
    total, weight = np.zeros((len(normals), 3), np.float64), np.zeros(len(normals), np.float64)
    for done, view in enumerate(views):
        context.check_stop()
        context.progress(len(views) + done, work, "views", phase="colouring")
        camera = _camera(view, context.params.voxels)
        picture, depth = renderer.image(view, camera.width, camera.height), renderer.depth(camera)
        pixels, depths, which = camera.project(surface.vertices)
        column, row = pixels.astype(np.int32).T
        towards = camera.eye - surface.vertices[which]
        facing = (normals[which] * towards).sum(1) / np.maximum(np.linalg.norm(towards, axis=1), 1e-12)
        seen = (np.abs(depth[row, column] - depths) < SEEN_VOXELS * step) & (facing > 0)
        share = np.where(seen, facing**2, 0)
        total[which] += share[:, None] * picture[row, column]
        weight[which] += share
    colours = (total / np.maximum(weight, 1e-12)[:, None]).astype(np.float32)
    return filled(colours, weight > 0, surface.vertices)
