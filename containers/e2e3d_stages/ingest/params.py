"""Parameters of the ingest stage."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from e2e3d_stages.contract.messages import StageParams


class Params(StageParams):
    """How photos are prepared for structure from motion."""

    max_size: int = Field(
        1600,
        ge=320,
        le=8192,
        title="Photo size",
        description="Longest side of a prepared photo in pixels; larger photos are scaled down, none is scaled up.",
    )
    min_size: int = Field(
        320,
        ge=64,
        le=4096,
        title="Smallest photo",
        description="Photos whose longest side is under this many pixels are left out as too small.",
    )
    poses: str = Field(
        "",
        max_length=200,
        pattern=r"^([^/.][^/]*(/[^/.][^/]*)*)?$",
        title="Own poses",
        description="Folder in the capture with a COLMAP model of these photos (cameras, images and points3D, .bin or "
        ".txt), as sparse/0: structure from motion then takes it over. Empty: poses are found.",
    )


PRESETS: dict[str, dict[str, Any]] = {
    "draft": {"max_size": 1000},
    "standard": {},
    "high": {"max_size": 2400},
}
