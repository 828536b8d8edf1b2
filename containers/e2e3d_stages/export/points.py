"""The dense Gaussians' centres as points, in the scene's frame and in the world's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import laspy
import numpy as np
from numpy.typing import NDArray

from e2e3d_stages.splats.gaussians import C0, Gaussians
from e2e3d_stages.splats.georeference import Georeference

# A Gaussian that lets more light through than it stops is haze, no point.
LEAST_OPACITY = 0.5
# In metres: finer than any GPS.
LAZ_STEP = 0.001


@dataclass(frozen=True)
class Points:
    """Points with colours.

    :param xyz: (N, 3).
    :param rgb: (N, 3), 0 to 255.
    """

    xyz: NDArray[np.floating[Any]]
    rgb: NDArray[np.uint8]


def points_of(gaussians: Gaussians) -> Points:
    """The centres of what is dense."""
    dense = gaussians.opacities >= np.log(LEAST_OPACITY / (1 - LEAST_OPACITY))
    colours = (0.5 + C0 * gaussians.sh[dense, 0]).clip(0, 1)
    return Points(gaussians.means[dense], (colours * 255).round().astype(np.uint8))


def write_ply(path: Path, points: Points) -> None:
    """Binary PLY in the scene's frame."""
    table = np.zeros(len(points.xyz), [("xyz", "<f4", 3), ("rgb", "u1", 3)])
    table["xyz"], table["rgb"] = points.xyz, points.rgb
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}"]
    header += [f"property float {name}" for name in "xyz"]
    header += [f"property uchar {name}" for name in ("red", "green", "blue")]
    path.write_bytes("\n".join([*header, "end_header\n"]).encode("ascii") + table.tobytes())


def write_laz(path: Path, points: Points, place: Georeference) -> None:
    """LAZ 1.4 with coordinates in metres in the UTM zone of the scene; heights are those of the photos' GPS."""
    xyz = place.utm(points.xyz)
    header = laspy.LasHeader(version="1.4", point_format=7)
    header.scales, header.offsets = np.full(3, LAZ_STEP), np.floor(xyz.min(0))
    header.add_crs(place.crs)
    file = laspy.LasData(header)
    file.x, file.y, file.z = xyz.T
    # 16 bits, as the format asks.
    file.red, file.green, file.blue = points.rgb.T.astype(np.uint16) * 257
    file.write(str(path))
