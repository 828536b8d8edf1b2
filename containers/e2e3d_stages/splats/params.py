"""How Gaussians are drawn, as training chooses it. Imports no torch: Airflow reads it with training's parameters."""

from __future__ import annotations

from pydantic import Field

from e2e3d_stages.contract.messages import StageParams


class RenderParams(StageParams):
    """What a rasteriser is told of a scene; training's parameters begin with these."""

    sh_degree: int = Field(
        3,
        ge=0,
        le=3,
        title="Spherical harmonics",
        description="How much colour may change with the direction of view: 0 not at all, 3 reflections.",
    )
