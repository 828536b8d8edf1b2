"""The dense Gaussians' centres as points, in the scene's frame and in the world's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import laspy
import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Transformer

from e2e3d_stages.splats.gaussians import Gaussians

# Of the constant band of spherical harmonics.
C0 = 0.28209479177387814
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


def write_laz(path: Path, points: Points, georef: dict[str, Any]) -> CRS:
    """LAZ 1.4 with coordinates in metres in the UTM zone of the scene, on WGS 84; heights are those of the photos' GPS.

    :param georef: as `georef.json` has it: `scene_to_enu` and the `origin` of that.
    :returns: the zone.
    """
    crs = zone_of(georef["origin"])
    xyz = to_utm(points.xyz, georef)
    header = laspy.LasHeader(version="1.4", point_format=7)
    header.scales, header.offsets = np.full(3, LAZ_STEP), np.floor(xyz.min(0))
    header.add_crs(crs)
    file = laspy.LasData(header)
    file.x, file.y, file.z = xyz.T
    # 16 bits, as the format asks.
    file.red, file.green, file.blue = points.rgb.T.astype(np.uint16) * 257
    file.write(str(path))
    return crs


def zone_of(origin: dict[str, float]) -> CRS:
    """The UTM zone that a place lies in."""
    return CRS.from_epsg((32600 if origin["lat"] >= 0 else 32700) + _zone_number(origin))


def _zone_number(origin: dict[str, float]) -> int:
    return int((origin["lon"] + 180) // 6) % 60 + 1


def to_utm(xyz: NDArray[np.floating[Any]], georef: dict[str, Any]) -> NDArray[np.float64]:
    """East, north and height in metres (N, 3) of points in the scene's frame."""
    matrix, origin = np.array(georef["scene_to_enu"]), georef["origin"]
    enu = xyz @ matrix[:3, :3].T + matrix[:3, 3]
    earth = f"+ellps=WGS84 +lat_0={origin['lat']} +lon_0={origin['lon']} +h_0={origin['alt']}"
    zone = f"+proj=utm +zone={_zone_number(origin)} {'' if origin['lat'] >= 0 else '+south'} +ellps=WGS84"
    way = Transformer.from_pipeline(
        f"+proj=pipeline +step +inv +proj=topocentric {earth} +step +inv +proj=cart +ellps=WGS84 +step {zone}"
    )
    return np.stack(way.transform(*enu.T), axis=1)
