"""A surface of triangles: taken out of a volume, cleaned, simplified, measured, drawn, written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fast_simplification
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

from e2e3d_stages.contract.messages import StageError
from e2e3d_stages.mesh.fusion import Volume
from e2e3d_stages.splats import glb
from e2e3d_stages.splats.srgb import decoded

Floats = NDArray[np.float32]
Indices = NDArray[np.int32]

# A surface that one view alone has seen is a guess.
LEAST_VIEWS = 2
# A part with a smaller share of the largest one's triangles is something that floats.
LEAST_PART = 0.02
SAMPLES = 500_000


@dataclass(frozen=True)
class Surface:
    """Triangles in the scene's frame, their front counter-clockwise.

    :param vertices: (V, 3).
    :param faces: (F, 3) indices of vertices.
    """

    vertices: Floats
    faces: Indices

    def normals(self) -> Floats:
        """(F, 3) unit vectors that point out of the front."""
        a, b, c = (self.vertices[self.faces[:, i]] for i in range(3))
        normals: Floats = np.cross(b - a, c - a)
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-20)
        return normals

    def vertex_normals(self) -> Floats:
        """(V, 3) unit vectors, means of the triangles around each vertex by their area."""
        a, b, c = (self.vertices[self.faces[:, i]] for i in range(3))
        weighted, total = np.cross(b - a, c - a), np.zeros((len(self.vertices), 3))
        for corner in range(3):
            for axis in range(3):
                total[:, axis] += np.bincount(self.faces[:, corner], weighted[:, axis], len(self.vertices))
        length = np.linalg.norm(total, axis=1, keepdims=True)
        return np.where(length > 0, total / np.maximum(length, 1e-20), (0, 0, 1)).astype(np.float32)

    def is_closed(self) -> bool:
        """Whether it has an inside: every edge belongs to two triangles, which go along it in opposite directions."""
        edges = self.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).astype(np.int64)
        there, back = (edges @ (len(self.vertices), 1)), (edges @ (1, len(self.vertices)))
        return len(np.unique(there)) == len(there) and bool(np.array_equal(np.sort(there), np.sort(back)))

    def sampled(self, count: int) -> tuple[Floats, Indices]:
        """Points spread evenly over it (count, 3), and the triangle that each lies in (count,)."""
        a, b, c = (self.vertices[self.faces[:, i]] for i in range(3))
        area = np.linalg.norm(np.cross(b - a, c - a), axis=1).astype(np.float64)
        draw = np.random.default_rng(0)
        face = np.searchsorted(np.cumsum(area), np.sort(draw.random(count)) * area.sum()).clip(0, len(area) - 1)
        u, v = draw.random((2, count, 1), np.float32)
        u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
        return a[face] + u * (b - a)[face] + v * (c - a)[face], face.astype(np.int32)


def surface_of(volume: Volume, max_faces: int) -> Surface:
    """Where the distance is 0, as far as enough views have seen it, without what floats.

    :raises StageError: when there is none.
    """
    try:
        vertices, faces, _, _ = marching_cubes(volume.distance, 0.0, mask=_known(volume), gradient_direction="descent")
    except (ValueError, RuntimeError) as error:  # what skimage raises where nothing crosses 0
        raise StageError(
            "The scene has no surface: its Gaussians are nowhere dense.",
            hint="Trigger again without a mesh (mesh_voxels 0), or train longer.",
        ) from error
    surface = _largest_parts(Surface((vertices * volume.step + volume.origin).astype(np.float32), faces))
    if len(surface.faces) <= max_faces:
        return surface
    vertices, faces = fast_simplification.simplify(surface.vertices, surface.faces, target_count=max_faces, agg=4)
    return _largest_parts(Surface(vertices.astype(np.float32), faces.astype(np.int32)))


def _known(volume: Volume) -> NDArray[np.bool_]:
    """The cubes whose corners enough views have seen; skimage names a cube by its corner with the most indices."""
    known = volume.seen >= LEAST_VIEWS
    for axis in range(3):
        known &= np.roll(known, 1, axis)
        # What np.roll brought round.
        known[(slice(None),) * axis + (0,)] = False
    return known


def _largest_parts(surface: Surface) -> Surface:
    """What hangs together with many triangles, and no vertex that none has."""
    count, faces = len(surface.vertices), surface.faces
    links = coo_matrix((np.ones(2 * len(faces)), (faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel())), (count, count))
    _, part = connected_components(links, directed=False)
    size = np.bincount(part[faces[:, 0]])
    faces = faces[size[part[faces[:, 0]]] >= LEAST_PART * size.max()]
    kept, corners = np.unique(faces, return_inverse=True)
    return Surface(surface.vertices[kept], corners.reshape(-1, 3).astype(np.int32))


def distances(surface: Surface, points: Floats) -> Floats:
    """How far each point is from the surface, up to the distance between its samples."""
    samples, _ = surface.sampled(SAMPLES)
    return np.asarray(cKDTree(samples).query(points)[0], np.float32)


def filled(colours: Floats, known: NDArray[np.bool_], vertices: Floats) -> Floats:
    """Colours (V, 3) where those that no view gave are their nearest neighbours'."""
    if known.all() or not known.any():
        return colours
    _, nearest = cKDTree(vertices[known]).query(vertices[~known])
    result: Floats = colours.copy()
    result[~known] = colours[known][nearest]
    return result


def write_glb(path: Path, surface: Surface, colours: Floats) -> None:
    """glTF 2.0 in one file, with a colour a vertex.

    The scene's frame has y down and z ahead; glTF has y up and z towards the viewer. Vertex colours are linear there.

    :param colours: (V, 3) sRGB in 0 to 1.
    """
    flip = np.array([1, -1, -1], np.float32)
    rgba = np.concatenate([decoded(colours), np.ones((len(colours), 1))], axis=1)
    positions = surface.vertices * flip
    buffers = [
        (positions.astype("<f4"), 34962),
        ((surface.vertex_normals() * flip).astype("<f4"), 34962),
        ((rgba * 65535).round().astype("<u2"), 34962),
        (surface.faces.astype("<u4"), 34963),
    ]
    views, offset = [], 0
    for array, target in buffers:
        views.append({"buffer": 0, "byteOffset": offset, "byteLength": array.nbytes, "target": target})
        offset += array.nbytes
    extent = {"min": positions.min(0).tolist(), "max": positions.max(0).tolist()}
    count = len(positions)
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "E2E3D on Airflow"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "mesh"}],
        "meshes": [
            {"primitives": [{"attributes": {"POSITION": 0, "NORMAL": 1, "COLOR_0": 2}, "indices": 3, "material": 0}]}
        ],
        "materials": [
            {"pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 1}, "doubleSided": True, "name": "mesh"}
        ],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": count, "type": "VEC3", **extent},
            {"bufferView": 1, "componentType": 5126, "count": count, "type": "VEC3"},
            {"bufferView": 2, "componentType": 5123, "count": count, "type": "VEC4", "normalized": True},
            {"bufferView": 3, "componentType": 5125, "count": surface.faces.size, "type": "SCALAR"},
        ],
        "bufferViews": views,
        "buffers": [{"byteLength": offset}],
    }
    glb.write_glb(path, document, (array.tobytes() for array, _ in buffers))


def write_ply(path: Path, surface: Surface, colours: Floats) -> None:
    """Binary PLY in the scene's frame, with a colour a vertex.

    :param colours: (V, 3) sRGB in 0 to 1.
    """
    vertex = np.zeros(len(surface.vertices), [("xyz", "<f4", 3), ("normal", "<f4", 3), ("rgb", "u1", 3)])
    vertex["xyz"], vertex["normal"] = surface.vertices, surface.vertex_normals()
    vertex["rgb"] = (colours * 255).round()
    face = np.zeros(len(surface.faces), [("count", "u1"), ("corners", "<i4", 3)])
    face["count"], face["corners"] = 3, surface.faces
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertex)}"]
    header += [f"property float {name}" for name in ("x", "y", "z", "nx", "ny", "nz")]
    header += [f"property uchar {name}" for name in ("red", "green", "blue")]
    header += [f"element face {len(face)}", "property list uchar int vertex_indices", "end_header\n"]
    with path.open("wb") as file:
        file.write("\n".join(header).encode("ascii"))
        file.write(vertex.tobytes())
        file.write(face.tobytes())


def write_obj(path: Path, surface: Surface, colours: Floats) -> None:
    """Wavefront OBJ with y up, its colours behind the coordinates as MeshLab and Blender read them."""
    with path.open("w", encoding="ascii") as file:
        vertices = np.concatenate([surface.vertices * (1, -1, -1), colours], axis=1)
        np.savetxt(file, vertices, "v %.6g %.6g %.6g %.4f %.4f %.4f")
        np.savetxt(file, surface.faces + 1, "f %d %d %d")
