"""Parameters of the ingest stage."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from e2e3d_stages.contract.messages import StageParams


class Params(StageParams):
    """How photos and films are prepared for structure from motion."""

    later: ClassVar[frozenset[str]] = frozenset({"frames", "start", "end"})

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
        ".txt), as sparse/0, or a file with poses as nerfstudio writes them, as transforms.json: structure from motion "
        "then takes them over. Empty: poses are found.",
    )
    frames: int = Field(
        300,
        ge=10,
        le=2000,
        title="Frames of films",
        description="Number of frames that are taken of all films together, at most: the sharpest of each window of "
        "equal time in which the camera moves.",
    )
    start: float = Field(
        0.0,
        ge=0,
        le=86_400,
        title="Start of films",
        description="Seconds from the beginning of each film; what comes before is not used.",
    )
    end: float = Field(
        0.0,
        ge=0,
        le=86_400,
        title="End of films",
        description="Seconds from the beginning of each film; what comes after is not used. 0: its own end.",
    )


PRESETS: dict[str, dict[str, Any]] = {
    "draft": {"max_size": 1000},
    "standard": {},
    "high": {"max_size": 2400},
}
