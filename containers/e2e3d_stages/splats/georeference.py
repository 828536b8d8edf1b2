"""From a scene's frame to coordinates on maps and globes: UTM, and earth-centred x, y, z, both on WGS 84."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Transformer

Coordinates = NDArray[np.floating[Any]]


class Georeference:
    """Where a scene lies.

    :param stored: as `georef.json` has it: `scene_to_enu`, 4 x 4 to metres east, north and up, of the `origin` with
        `lat`, `lon` and `alt`.
    """

    def __init__(self, stored: dict[str, Any]) -> None:
        self._to_enu = np.array(stored["scene_to_enu"], np.float64)
        origin = stored["origin"]
        number = int((origin["lon"] + 180) // 6) % 60 + 1
        south = origin["lat"] < 0
        self.crs: CRS = CRS.from_epsg((32700 if south else 32600) + number)
        to_ecef = (
            "+proj=pipeline +step +inv +proj=topocentric +ellps=WGS84 "
            f"+lat_0={origin['lat']} +lon_0={origin['lon']} +h_0={origin['alt']} "
        )
        self._to_ecef = Transformer.from_pipeline(to_ecef)
        self._to_utm = Transformer.from_pipeline(
            f"{to_ecef}+step +inv +proj=cart +ellps=WGS84 "
            f"+step +proj=utm +zone={number} {'+south' if south else ''} +ellps=WGS84"
        )

    @classmethod
    def of(cls, sfm: Path) -> Georeference | None:
        """As the artifact in that folder tells it; None where GPS did not."""
        file = sfm / "georef.json"
        return cls(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None

    def utm(self, xyz: Coordinates) -> NDArray[np.float64]:
        """East, north and height in metres (N, 3) of points in the scene's frame; heights are those of GPS."""
        return np.stack(self._to_utm.transform(*self._enu(xyz).T), axis=1)

    def ecef(self, xyz: Coordinates) -> NDArray[np.float64]:
        """Earth-centred x, y and z in metres (N, 3) of points in the scene's frame."""
        return np.stack(self._to_ecef.transform(*self._enu(xyz).T), axis=1)

    def _enu(self, xyz: Coordinates) -> NDArray[np.float64]:
        return np.asarray(xyz @ self._to_enu[:3, :3].T + self._to_enu[:3, 3])
