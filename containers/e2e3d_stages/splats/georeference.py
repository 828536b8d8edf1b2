"""From a scene's frame to coordinates on maps: UTM on WGS 84."""

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
        self._to_utm = Transformer.from_pipeline(
            "+proj=pipeline +step +inv +proj=topocentric +ellps=WGS84 "
            f"+lat_0={origin['lat']} +lon_0={origin['lon']} +h_0={origin['alt']} "
            "+step +inv +proj=cart +ellps=WGS84 "
            f"+step +proj=utm +zone={number} {'+south' if south else ''} +ellps=WGS84"
        )

    @classmethod
    def of(cls, sfm: Path) -> Georeference | None:
        """As the artifact in that folder tells it; None where GPS did not."""
        file = sfm / "georef.json"
        return cls(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None

    def utm(self, xyz: Coordinates) -> NDArray[np.float64]:
        """East, north and height in metres (N, 3) of points in the scene's frame; heights are those of GPS."""
        enu = xyz @ self._to_enu[:3, :3].T + self._to_enu[:3, 3]
        return np.stack(self._to_utm.transform(*enu.T), axis=1)
