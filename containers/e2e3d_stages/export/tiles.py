"""3D Tiles 1.1 (OGC 22-025r4): the scene where it lies on the globe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from e2e3d_stages.splats import splat_transform
from e2e3d_stages.splats.gaussians import Gaussians, write_ply
from e2e3d_stages.splats.georeference import Georeference
from e2e3d_stages.splats.glb import write_glb

# What glTF calls up, y, a tile calls z; scene.glb is the scene's frame after half a turn about x.
SCENE_FROM_TILE = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
# A Gaussian ends so many of its standard deviations from its centre.
REACH = 3.0
SPLATTING, SPZ = "KHR_gaussian_splatting", "KHR_gaussian_splatting_compression_spz_2"
# Without the second CesiumJS 1.145 takes the first for points.
EXTENSIONS = [SPLATTING, SPZ]
# SPZ's fourth version has another container than the extension means.
SPZ_VERSION = ("--spz-version", "3")
_BYTES, _FLOATS = 5121, 5126


def write_tiles(folder: Path, gaussians: Gaussians, place: Georeference, scratch: Path) -> int:
    """A tileset of one tile: `tileset.json`, and `scene.glb` with the Gaussians as SPZ.

    :returns: how many Gaussians it has: without those that lie farther from the origin than SPZ reaches.
    :raises StageError: when splat-transform is missing or fails.
    """
    folder.mkdir()
    near = gaussians.select(np.flatnonzero(np.abs(gaussians.means).max(1) < splat_transform.SPZ_LIMIT))
    scene, compressed = scratch / "tile.ply", scratch / "tile.spz"
    write_ply(scene, near)
    splat_transform.convert(scene, compressed, options=SPZ_VERSION)
    _write_glb(folder / "scene.glb", near, compressed.read_bytes())
    _write_tileset(folder / "tileset.json", near, place, "scene.glb")
    return len(near)


def _write_glb(path: Path, gaussians: Gaussians, spz: bytes) -> None:
    """Gaussians in glTF 2.0 with KHR_gaussian_splatting_compression_spz_2, by its draft: attributes without data.

    SPZ's frame is right, up and back: y and z of the scene's negated, as in every glTF of ours.
    """
    positions = gaussians.means * np.array([1, -1, -1], np.float32)
    extent = {"min": positions.min(0).tolist(), "max": positions.max(0).tolist()}
    accessors: dict[str, dict[str, Any]] = {
        "POSITION": {"type": "VEC3", "componentType": _FLOATS, **extent},
        "COLOR_0": {"type": "VEC4", "componentType": _BYTES, "normalized": True},
        f"{SPLATTING}:SCALE": {"type": "VEC3", "componentType": _FLOATS},
        f"{SPLATTING}:ROTATION": {"type": "VEC4", "componentType": _FLOATS},
    }
    for degree in range(1, gaussians.sh_degree + 1):
        for number in range(2 * degree + 1):
            name = f"{SPLATTING}:SH_DEGREE_{degree}_COEF_{number}"
            accessors[name] = {"type": "VEC3", "componentType": _FLOATS}
    how = {"kernel": "ellipse", "colorSpace": "srgb_rec709_display", "extensions": {SPZ: {"bufferView": 0}}}
    primitive = {
        "mode": 0,
        "attributes": {name: place for place, name in enumerate(accessors)},
        "extensions": {SPLATTING: how},
    }
    document = {
        "asset": {"version": "2.0", "generator": "E2E3D on Airflow"},
        "extensionsUsed": EXTENSIONS,
        "extensionsRequired": EXTENSIONS,
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": [{**accessor, "count": len(positions)} for accessor in accessors.values()],
        "bufferViews": [{"buffer": 0, "byteLength": len(spz)}],
        "buffers": [{"byteLength": len(spz)}],
    }
    write_glb(path, document, [spz])


def _write_tileset(path: Path, gaussians: Gaussians, place: Georeference, content: str) -> None:
    """The tile's place on the globe and its extent.

    :param content: the glTF's address from there.
    """
    # From a tile's frame to the earth's it is a turn, a scale and a shift: four points tell it.
    corners = place.ecef(np.concatenate([np.zeros((1, 3)), SCENE_FROM_TILE.T]))
    transform = np.eye(4)
    transform[:3, :3], transform[:3, 3] = (corners[1:] - corners[0]).T, corners[0]
    centres = gaussians.means.astype(np.float64) @ SCENE_FROM_TILE
    reach = REACH * np.exp(gaussians.scales).max(1, keepdims=True)
    low, high = (centres - reach).min(0), (centres + reach).max(0)
    half = (high - low) / 2
    tileset = {
        "asset": {"version": "1.1", "generator": "E2E3D on Airflow"},
        "extensionsUsed": ["3DTILES_content_gltf"],
        # By which CesiumJS knows that it needs its renderer of Gaussians.
        "extensions": {"3DTILES_content_gltf": {"extensionsUsed": EXTENSIONS, "extensionsRequired": EXTENSIONS}},
        "geometricError": round(float(2 * np.linalg.norm(half)), 3),
        "root": {
            "transform": transform.T.ravel().tolist(),
            "boundingVolume": {"box": [*((low + high) / 2).tolist(), *np.diag(half).ravel().tolist()]},
            "geometricError": 0,
            "refine": "ADD",
            "content": {"uri": content},
        },
    }
    path.write_text(json.dumps(tileset, indent=1) + "\n", encoding="utf-8")
