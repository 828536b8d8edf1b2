"""The mesh of things whose form is known, and its files as programs of others read them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from pygltflib import GLTF2

from e2e3d_stages.contract.messages import StageError
from e2e3d_stages.mesh import stage
from e2e3d_stages.mesh.fusion import MOST_VOXELS, Volume
from e2e3d_stages.mesh.params import PRESETS, Params
from e2e3d_stages.mesh.surface import Surface
from e2e3d_stages.splats.camera import Camera
from e2e3d_stages.splats.gaussians import Gaussians, write_ply
from e2e3d_stages.splats.rasterizer import Renderer

RADIUS = 1.0
SH = 0.28209479177387814


def discs(points: np.ndarray, normals: np.ndarray, colours: np.ndarray, size: float) -> Gaussians:
    """Flat, opaque Gaussians that lie in a surface."""
    # The rotation that takes z to the normal.
    w = 1 + normals[:, 2]
    quats = np.stack([w, -normals[:, 1], normals[:, 0], np.zeros(len(w))], 1)
    quats = np.where(w[:, None] < 1e-6, [0, 1, 0, 0], quats)
    return Gaussians(
        means=points.astype(np.float32),
        scales=np.tile(np.log([size, size, size / 50]), (len(points), 1)).astype(np.float32),
        quats=(quats / np.linalg.norm(quats, axis=1, keepdims=True)).astype(np.float32),
        opacities=np.full(len(points), 5, np.float32),
        sh=((colours - 0.5) / SH).astype(np.float32)[:, None],
    )


def ball(count: int = 6000) -> Gaussians:
    """A ball of radius 1 around the origin, red on its right half and blue on its left."""
    place = np.arange(count) + 0.5
    around, height = np.pi * (1 + 5**0.5) * place, 1 - 2 * place / count
    ring = np.sqrt(1 - height**2)
    normals = np.stack([ring * np.cos(around), ring * np.sin(around), height], 1)
    colours = np.where(normals[:, :1] > 0, [[0.9, 0.1, 0.1]], [[0.1, 0.1, 0.9]])
    return discs(RADIUS * normals, normals, colours, 0.03)


def view(eye: np.ndarray, number: int) -> dict[str, Any]:
    """A camera there that looks at the origin."""
    forward = -eye / np.linalg.norm(eye)
    right = np.cross([0.1, 1, 0.05], forward)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    pose[:3, 3] = -pose[:3, :3] @ eye
    size = {"width": 200, "height": 160, "fx": 180.0, "fy": 180.0, "cx": 100.0, "cy": 80.0}
    return {"name": f"{number}.jpg", "order": number, **size, "world_to_camera": pose.tolist()}


ALL_AROUND = [
    4 * np.array([np.cos(turn) * np.cos(up), np.sin(up), np.sin(turn) * np.cos(up)])
    for up in (-0.9, 0.0, 0.9)
    for turn in np.linspace(0, 2 * np.pi, 8, endpoint=False) + up
]


def made(tmp_path: Path, gaussians: Gaussians, eyes: list[np.ndarray], **asked: Any) -> SimpleNamespace:
    """The stage run on Gaussians that photos from there would have given."""
    folders = {name: tmp_path / name for name in ("sfm", "train", "output")}
    for folder in folders.values():
        folder.mkdir()
    (folders["sfm"] / "views.json").write_text(json.dumps([view(eye, i) for i, eye in enumerate(eyes)]))
    np.savez(folders["sfm"] / "points.npz", xyz=gaussians.means[::7])
    write_ply(folders["train"] / "scene.ply", gaussians)
    told: list[tuple[int, int, str]] = []
    context = SimpleNamespace(
        params=Params(**{"voxels": 80, **asked}),
        threads=2,
        inputs={name: SimpleNamespace(folder=folders[name]) for name in ("sfm", "train")},
        output=folders["output"],
        check_stop=lambda: None,
        progress=lambda done, total, _unit, phase="": told.append((done, total, phase)),
    )
    return SimpleNamespace(metrics=stage.run(context), folder=folders["output"], told=told)


def mesh_in(path: Path) -> Any:
    """What somebody else's program reads."""
    return trimesh.load(path, force="mesh", process=False)


@pytest.fixture(scope="module")
def of_ball(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The mesh of the ball."""
    return made(tmp_path_factory.mktemp("ball"), ball(), ALL_AROUND, obj=True)


def test_the_surface_is_within_one_percent_of_the_thing_and_closed(of_ball: SimpleNamespace) -> None:
    mesh = mesh_in(of_ball.folder / "mesh.ply")
    wrong = np.abs(np.linalg.norm(mesh.sample(5000), axis=1) - RADIUS)
    assert np.median(wrong) < 0.01 * 2 * RADIUS
    assert np.quantile(wrong, 0.95) < 0.02 * 2 * RADIUS
    assert of_ball.metrics["closed"]
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.05)
    assert of_ball.metrics["points_distance_median"] < 0.01 * 2 * RADIUS
    assert of_ball.metrics["triangles"] == len(mesh.faces)


def test_its_colours_are_those_of_the_scene(of_ball: SimpleNamespace) -> None:
    mesh = mesh_in(of_ball.folder / "mesh.ply")
    colours = np.asarray(mesh.visual.vertex_colors)[:, :3] / 255
    assert np.median(np.abs(colours[mesh.vertices[:, 0] > 0.2] - [0.9, 0.1, 0.1])) < 0.03
    assert np.median(np.abs(colours[mesh.vertices[:, 0] < -0.2] - [0.1, 0.1, 0.9])) < 0.03


def test_gltf_has_y_up_and_linear_colours(of_ball: SimpleNamespace) -> None:
    ply = mesh_in(of_ball.folder / "mesh.ply")
    glb = mesh_in(of_ball.folder / "mesh.glb")
    assert np.allclose(np.asarray(glb.vertices), np.asarray(ply.vertices) * (1, -1, -1), atol=1e-6)
    assert glb.is_watertight
    assert glb.volume > 0
    file = GLTF2().load(of_ball.folder / "mesh.glb")
    accessor = file.accessors[file.meshes[0].primitives[0].attributes.COLOR_0]
    start = file.bufferViews[accessor.bufferView].byteOffset
    colours = np.frombuffer(file.binary_blob(), "<u2", 4 * accessor.count, start).reshape(-1, 4) / 65535
    red = colours[np.argmax(glb.vertices[:, 0]), :3]
    assert red == pytest.approx([0.9**2.2, 0.1**2.2, 0.1**2.2], abs=0.05)


def test_obj_is_written_where_it_is_asked_for(of_ball: SimpleNamespace, tmp_path: Path) -> None:
    glb = mesh_in(of_ball.folder / "mesh.glb")
    obj = mesh_in(of_ball.folder / "mesh.obj")
    assert np.allclose(obj.vertices, glb.vertices, atol=1e-4)
    assert len(obj.faces) == len(glb.faces)
    assert not (made(tmp_path, ball(1500), ALL_AROUND, voxels=32).folder / "mesh.obj").exists()


def test_its_picture_shows_it_in_colour_and_in_grey(of_ball: SimpleNamespace) -> None:
    picture = np.asarray(Image.open(of_ball.folder / "mesh.jpg"), np.int32)
    height, width = picture.shape[:2]
    left, right = picture[:, : width // 2], picture[:, width // 2 :]
    assert (np.abs(left[..., 0] - left[..., 2]) > 100).mean() > 0.3
    assert np.abs(right[..., 0] - right[..., 2]).max() < 10
    assert (right[height // 2, :5] > 240).all()


def test_it_has_no_more_triangles_than_are_asked_for(tmp_path: Path) -> None:
    small = made(tmp_path, ball(), ALL_AROUND, max_faces=2_000)
    assert 1_000 < small.metrics["triangles"] <= 2_000
    wrong = np.abs(np.linalg.norm(mesh_in(small.folder / "mesh.ply").sample(5000), axis=1) - RADIUS)
    assert np.median(wrong) < 0.01 * 2 * RADIUS


def test_what_floats_is_left_out(tmp_path: Path) -> None:
    thing = ball()
    speck = ball(60)
    both = Gaussians(
        *(
            np.concatenate([a, b])
            for a, b in (
                (thing.means, speck.means * 0.06 + [0.0, 1.25, 0.0]),
                (thing.scales, speck.scales - 0.3),
                (thing.quats, speck.quats),
                (thing.opacities, speck.opacities),
                (thing.sh, speck.sh),
            )
        )
    )
    floating = Gaussians(*(np.asarray(a, np.float32) for a in vars(both).values()))
    mesh = mesh_in(made(tmp_path, floating, ALL_AROUND).folder / "mesh.ply")
    assert np.linalg.norm(mesh.vertices, axis=1).max() < 1.1


def test_a_surface_that_photos_show_from_one_side_is_open(tmp_path: Path) -> None:
    assert not made(tmp_path, ball(), ALL_AROUND[8:11]).metrics["closed"]


def test_where_the_views_end_the_surface_ends_too(tmp_path: Path) -> None:
    mesh = mesh_in(made(tmp_path, ball(), ALL_AROUND[8:11]).folder / "mesh.ply")
    wrong = np.abs(np.linalg.norm(mesh.vertices, axis=1) - RADIUS)
    assert np.quantile(wrong, 0.99) < 0.05


def test_a_scene_without_a_surface_is_told(tmp_path: Path) -> None:
    fog = ball(200)
    fog = Gaussians(fog.means, fog.scales, fog.quats, np.full(200, -6, np.float32), fog.sh)
    with pytest.raises(StageError, match="no surface"):
        made(tmp_path, fog, ALL_AROUND)


def test_progress_never_goes_back(of_ball: SimpleNamespace) -> None:
    done = [step for step, _, _ in of_ball.told]
    assert done == sorted(done)
    assert done[-1] == of_ball.told[-1][1]


def test_the_depth_of_a_slanted_wall_is_its_own_at_every_pixel() -> None:
    across, down = np.meshgrid(np.linspace(-3, 3, 80), np.linspace(-3, 3, 80))
    points = np.stack([across.ravel(), down.ravel(), 4 + 0.5 * across.ravel() - 0.25 * down.ravel()], 1)
    normal = np.array([-0.5, 0.25, 1]) / np.linalg.norm([-0.5, 0.25, 1])
    wall = discs(points, np.tile(normal, (len(points), 1)), np.full((len(points), 3), 0.5), 0.12)
    camera = Camera(torch.eye(4), focal=(100.0, 100.0), centre=(48.0, 32.0), width=96, height=64)
    depth = Renderer(wall).depth(camera)
    x, y = np.meshgrid((np.arange(96) + 0.5 - 48) / 100, (np.arange(64) + 0.5 - 32) / 100)
    truth = 4 / (1 - 0.5 * x + 0.25 * y)
    assert np.abs(depth / truth - 1).max() < 0.01
    assert np.abs(depth / truth - 1).mean() < 0.002


def test_where_nothing_is_dense_there_is_no_depth() -> None:
    wall = ball(100)
    camera = Camera(torch.eye(4), focal=(100.0, 100.0), centre=(48.0, 32.0), width=96, height=64)
    behind = Gaussians(wall.means + [0, 0, 9], wall.scales, wall.quats, np.full(100, -2.0, np.float32), wall.sh)
    assert not Renderer(Gaussians(*(np.asarray(a, np.float32) for a in vars(behind).values()))).depth(camera).any()


def test_the_voxels_of_any_box_fit_into_a_small_machine() -> None:
    volume = Volume(np.zeros(3, np.float32), np.array([10, 10, 10], np.float32), 1024)
    assert volume.distance.size < 1.02 * MOST_VOXELS
    flat = Volume(np.zeros(3, np.float32), np.array([10, 1, 10], np.float32), 512)
    assert flat.step == pytest.approx(10 / 512)


def test_a_surface_with_a_hole_is_not_closed() -> None:
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32)
    assert Surface(corners, faces).is_closed()
    assert not Surface(corners, faces[:3]).is_closed()


def test_without_voxels_no_mesh_is_wanted_as_in_a_draft() -> None:
    assert not Params(**PRESETS["draft"]).wanted
    assert Params(**PRESETS["standard"]).wanted
    assert Params(**PRESETS["high"]).wanted


def test_after_out_of_memory_the_cubes_are_larger() -> None:
    assert Params(voxels=384).smaller() == Params(voxels=192)
    assert Params(voxels=64).smaller() is None
