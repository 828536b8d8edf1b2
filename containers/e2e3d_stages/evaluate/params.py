"""Parameters of the evaluate stage."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from e2e3d_stages.contract.messages import StageParams


class Params(StageParams):
    """Which pictures the evaluation keeps; every held-out photo is measured whatever they say."""

    pictures: int = Field(
        4,
        ge=1,
        le=24,
        title="Comparisons",
        description="Number of views shown as photo, render and difference; the best, the worst and some between.",
    )
    picture_size: int = Field(
        640,
        ge=160,
        le=2048,
        title="Picture size",
        description="Longest side of each picture in pixels.",
    )


PRESETS: dict[str, dict[str, Any]] = {"draft": {}, "standard": {}, "high": {"pictures": 6}}
