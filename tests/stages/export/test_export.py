"""Every export is read back by a program that is not ours, and shows the same scene."""

from __future__ import annotations

import gzip
import json
import struct
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import laspy
import numpy as np
import pytest
import trimesh
from pxr import Usd, UsdGeom, UsdVol
from pygltflib import GLTF2
from pyproj import Transformer
from scipy.spatial import cKDTree

from e2e3d_stages.export import stage
from e2e3d_stages.export.params import PRESETS, Params
from e2e3d_stages.export.points import points_of
from e2e3d_stages.splats.gaussians import Gaussians, write_ply
from e2e3d_stages.splats.georeference import Georeference

# North of Munich. The scene's y points down and its z north.
GEOREF = {
    "scene_to_enu": [[1, 0, 0, 12.0], [0, 0, 1, -7.0], [0, -1, 0, 3.0], [0, 0, 0, 1]],
    "origin": {"lat": 48.26, "lon": 11.67, "alt": 480.0},
}


def scene(count: int = 50, degree: int = 1) -> Gaussians:
    """Gaussians of every kind, half of them dense."""
    random = np.random.default_rng(4)
    quats = random.normal(size=(count, 4))
    return Gaussians(
        means=random.normal(0, 5, (count, 3)).astype(np.float32),
        scales=random.normal(-2, 0.5, (count, 3)).astype(np.float32),
        quats=(quats / np.linalg.norm(quats, axis=1, keepdims=True)).astype(np.float32),
        opacities=np.where(np.arange(count) % 2, 2.0, -2.0).astype(np.float32),
        sh=random.normal(0, 0.4, (count, (degree + 1) ** 2, 3)).astype(np.float32),
    )


def exported(
    tmp_path: Path, *, georef: dict[str, Any] | None = GEOREF, metres_from: str | None = None, **asked: bool
) -> SimpleNamespace:
    """The stage's metrics, its folder and its warnings."""
    sfm, train, output = (tmp_path / name for name in ("sfm", "train", "output"))
    for folder in (sfm / "images", sfm / "sparse" / "0", train, output):
        folder.mkdir(parents=True)
    for name in ("00000.jpg", "00001.jpg"):
        (sfm / "images" / name).write_bytes(b"a photo")
    for name in ("cameras.bin", "images.bin", "points3D.bin"):
        (sfm / "sparse" / "0" / name).write_bytes(b"of COLMAP")
    if georef:
        (sfm / "georef.json").write_text(json.dumps(georef))
    write_ply(train / "scene.ply", scene())
    warned: list[str] = []
    context = SimpleNamespace(
        params=Params(**asked),
        inputs={
            "sfm": SimpleNamespace(folder=sfm, manifest=SimpleNamespace(metrics={"metres_from": metres_from})),
            "train": SimpleNamespace(folder=train),
        },
        output=output,
        scratch=tmp_path,
        check_stop=lambda: None,
        progress=lambda *_, **__: None,
        warn=lambda code, *_: warned.append(code),
    )
    return SimpleNamespace(metrics=stage.run(context), folder=output, warned=warned)


def test_points_are_the_dense_gaussians_in_their_colours(tmp_path: Path) -> None:
    found = exported(tmp_path, points=True)
    cloud: Any = trimesh.load(found.folder / "points.ply")
    dense = scene().select(np.arange(50) % 2 == 1)
    assert found.metrics["points"] == 25
    assert np.allclose(cloud.vertices, dense.means, atol=1e-6)
    colours = (0.5 + 0.28209479 * dense.sh[:, 0]).clip(0, 1) * 255
    assert np.abs(np.asarray(cloud.colors)[:, :3] - colours).max() <= 1


def test_laz_has_the_coordinates_of_its_utm_zone(tmp_path: Path) -> None:
    found = exported(tmp_path, points=True)
    file = laspy.read(found.folder / "points.laz")
    assert file.header.parse_crs().to_epsg() == 32632
    assert found.metrics["coordinate_system"] == "WGS 84 / UTM zone 32N"
    # A person's way: metres east and north, shrunk to the map and turned to its north.
    points = points_of(scene())
    enu = points.xyz @ np.array(GEOREF["scene_to_enu"])[:3, :3].T + [12.0, -7.0, 3.0]
    to_map = Transformer.from_crs("EPSG:4326", "EPSG:32632", always_xy=True)
    metres = 111_320.0
    lon = GEOREF["origin"]["lon"] + enu[:, 0] / (metres * np.cos(np.radians(48.26)))
    lat = GEOREF["origin"]["lat"] + enu[:, 1] / (metres * 0.99895)
    expected = np.stack(to_map.transform(lon, lat), axis=1)
    assert np.abs(np.stack([file.x, file.y], axis=1) - expected).max() < 0.1
    assert np.abs(np.asarray(file.z) - (480 + enu[:, 2])).max() < 0.01
    assert np.array_equal(np.stack([file.red, file.green, file.blue], axis=1) // 257, points.rgb)


@pytest.mark.parametrize(
    ("lat", "lon", "code"), [(48, 11.67, 32632), (-33.9, 151.2, 32756), (0, 180, 32601), (60, -180, 32601)]
)
def test_every_place_has_its_zone(lat: float, lon: float, code: int) -> None:
    place = Georeference({**GEOREF, "origin": {"lat": lat, "lon": lon, "alt": 0.0}})
    assert place.crs.to_epsg() == code


def test_the_origin_lies_where_gps_says() -> None:
    georef = {**GEOREF, "scene_to_enu": np.eye(4).tolist()}
    east, north = Transformer.from_crs("EPSG:4326", "EPSG:32632", always_xy=True).transform(11.67, 48.26)
    assert np.allclose(Georeference(georef).utm(np.zeros((1, 3))), [[east, north, 480.0]], atol=1e-3)


def test_without_gps_there_are_points_and_a_word_instead_of_coordinates(tmp_path: Path) -> None:
    found = exported(tmp_path, georef=None, points=True)
    assert {file.name for file in found.folder.iterdir()} == {"points.ply"}
    assert found.warned == ["no_coordinates"]


def test_gltf_has_the_gaussians_with_y_up(tmp_path: Path) -> None:
    file = GLTF2().load(exported(tmp_path, gltf=True).folder / "scene.glb")
    assert file.extensionsUsed == ["KHR_gaussian_splatting"]
    primitive = file.meshes[0].primitives[0]

    def values(name: str) -> np.ndarray:
        accessor = file.accessors[getattr(primitive.attributes, name)]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor.type]
        start = (file.bufferViews[accessor.bufferView].byteOffset or 0) + (accessor.byteOffset or 0)
        return np.frombuffer(file.binary_blob(), "<f4", width * accessor.count, start).reshape(-1, width)

    truth = scene()
    assert np.allclose(values("POSITION"), truth.means * (1, -1, -1), atol=1e-5)
    assert np.allclose(values("KHR_gaussian_splatting:SCALE"), np.exp(truth.scales), rtol=1e-5)
    assert np.allclose(values("KHR_gaussian_splatting:OPACITY")[:, 0], 1 / (1 + np.exp(-truth.opacities)), atol=1e-6)
    # Half a turn about x, from the left; xyzw.
    w, x, y, z = truth.quats.T
    turned = np.stack([w, -z, y, -x], axis=1)
    assert np.allclose(np.abs((values("KHR_gaussian_splatting:ROTATION") * turned).sum(1)), 1, atol=1e-5)


def test_3d_tiles_put_every_gaussian_where_it_lies_on_the_globe(tmp_path: Path) -> None:
    folder = exported(tmp_path, tiles=True).folder / "tiles"
    tileset = json.loads((folder / "tileset.json").read_text())
    assert tileset["asset"]["version"] == "1.1"
    root = tileset["root"]
    file = GLTF2().load(folder / root["content"]["uri"])
    assert file.extensionsRequired == ["KHR_gaussian_splatting", "KHR_gaussian_splatting_compression_spz_2"]
    assert file.accessors[file.meshes[0].primitives[0].attributes.POSITION].count == 50
    x, y, z = positions_in_spz(file.binary_blob()[: file.bufferViews[0].byteLength]).T
    # As every reader of 3D Tiles does: glTF's y becomes z, then the tile's transform, whose columns follow one another.
    in_tile = np.stack([x, -z, y, np.ones_like(x)], 1)
    on_earth = in_tile @ np.array(root["transform"]).reshape(4, 4)
    assert np.allclose(on_earth[:, 3], 1)
    found = np.stack(Transformer.from_crs("EPSG:4978", "EPSG:32632").transform(*on_earth[:, :3].T), 1)
    truth = Georeference(GEOREF).utm(scene().means)
    away, nearest = cKDTree(found).query(truth)
    assert away.max() < 2e-3
    assert len(set(nearest)) == 50
    box = np.array(root["boundingVolume"]["box"])
    assert (np.abs(in_tile[:, :3] - box[:3]) <= np.diag(box[3:].reshape(3, 3))).all()
    assert tileset["geometricError"] > root["geometricError"] == 0


def test_what_lies_farther_away_than_spz_reaches_is_left_out_of_the_tiles_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = scene()
    away.means[:3, 1] = [2500, -2500, 2047]
    monkeypatch.setattr(stage, "read_ply", lambda _: away)
    found = exported(tmp_path, tiles=True)
    assert found.warned == ["tiles_range"]
    file = GLTF2().load(found.folder / "tiles" / "scene.glb")
    means = positions_in_spz(file.binary_blob()[: file.bufferViews[0].byteLength]) * (1, -1, -1)
    assert cKDTree(means).query(away.means[2:])[0].max() < 1e-3
    assert len(means) == 48


def positions_in_spz(file: bytes) -> np.ndarray:
    """(N, 3) by Niantic's description of SPZ: 24 bits a coordinate, little end first, in two's complement."""
    packed = gzip.decompress(file)
    magic, version, count, _, fraction = struct.unpack("<4sIIBB", packed[:14])
    assert (magic, version) == (b"NGSP", 3)
    low, middle, high = np.frombuffer(packed, np.uint8, 9 * count, 16).astype(np.int64).reshape(-1, 3, 3).T
    return np.asarray((low + (middle << 8) + (high << 16) - ((high > 127) << 24)).T / 2**fraction)


def test_without_gps_there_are_no_3d_tiles_and_it_says_so(tmp_path: Path) -> None:
    found = exported(tmp_path, georef=None, tiles=True)
    assert found.warned == ["no_tiles"]
    assert not (found.folder / "tiles").exists()
    assert "tiles" not in Params(points=True).keyed()


def test_usd_has_the_gaussians_below_a_frame_with_y_up(tmp_path: Path) -> None:
    opened = Usd.Stage.Open(str(exported(tmp_path, usd=True).folder / "scene.usdc"))
    assert UsdGeom.GetStageUpAxis(opened) == "Y"
    assert UsdGeom.GetStageMetersPerUnit(opened) == 1
    splats = UsdVol.ParticleField3DGaussianSplat(opened.GetPrimAtPath("/scene/gaussians"))
    truth, prim = scene(), splats.GetPrim()
    turn = np.array(UsdGeom.Xformable(prim).ComputeLocalToWorldTransform(Usd.TimeCode.Default()))
    means = np.array(prim.GetAttribute("positions").Get())
    assert np.allclose(means, truth.means)
    assert np.allclose(means @ turn[:3, :3], truth.means * (1, -1, -1), atol=1e-5)
    quats = [(q.real, *q.imaginary) for q in prim.GetAttribute("orientations").Get()]
    assert np.allclose(quats, truth.quats, atol=1e-6)
    assert np.allclose(np.array(prim.GetAttribute("scales").Get()), np.exp(truth.scales), rtol=1e-5)
    assert prim.GetAttribute("radiance:sphericalHarmonicsDegree").Get() == 1
    harmonics = np.array(prim.GetAttribute("radiance:sphericalHarmonicsCoefficients").Get())
    assert np.allclose(harmonics.reshape(50, 4, 3), truth.sh)


def test_without_gps_usd_says_nothing_of_metres(tmp_path: Path) -> None:
    opened = Usd.Stage.Open(str(exported(tmp_path, georef=None, usd=True).folder / "scene.usdc"))
    assert not UsdGeom.StageHasAuthoredMetersPerUnit(opened)
    (tmp_path / "measured").mkdir()
    measured = exported(tmp_path / "measured", georef=None, metres_from="camera_height", usd=True)
    assert UsdGeom.GetStageMetersPerUnit(Usd.Stage.Open(str(measured.folder / "scene.usdc"))) == 1


def test_the_zip_for_colmaps_readers_has_photos_and_model(tmp_path: Path) -> None:
    found = exported(tmp_path, colmap=True)
    with zipfile.ZipFile(found.folder / "colmap.zip") as archive:
        assert set(archive.namelist()) == {
            "images/00000.jpg",
            "images/00001.jpg",
            "sparse/0/cameras.bin",
            "sparse/0/images.bin",
            "sparse/0/points3D.bin",
        }
    assert found.metrics == {"points": None, "coordinate_system": None, "photos": 2}


@pytest.mark.parametrize("asked", [*Params.model_fields])
def test_each_switch_alone_is_enough_to_want_the_stage(asked: str) -> None:
    assert Params(**{asked: True}).wanted
    assert not any(Params(**preset).wanted for preset in PRESETS.values())
