"""3D Tiles 1.1 (OGC 22-025r4): the scene where it lies on the globe."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from e2e3d_stages.splats.gaussians import Gaussians
from e2e3d_stages.splats.georeference import Georeference

# What glTF calls up, y, a tile calls z; scene.glb is the scene's frame after half a turn about x.
SCENE_FROM_TILE = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
# A Gaussian ends so many of its standard deviations from its centre.
REACH = 3.0
SPLATTING = ["KHR_gaussian_splatting"]


def write_tileset(path: Path, gaussians: Gaussians, place: Georeference, content: str) -> None:
    """A tileset of one tile.

    :param content: the glTF's address from there, in the frame of scene.glb.
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
        "extensions": {"3DTILES_content_gltf": {"extensionsUsed": SPLATTING, "extensionsRequired": SPLATTING}},
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
