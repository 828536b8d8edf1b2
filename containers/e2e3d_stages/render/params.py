"""Parameters of the render stage."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from e2e3d_stages.contract.messages import StageParams


class Params(StageParams):
    """What is rendered; without any of it the stage is skipped."""

    film: bool = Field(
        False,
        title="Film a flight",
        description="Write flight.mp4, ten seconds along a smooth path through the cameras, and its poster flight.jpg.",
    )
    orthophoto: bool = Field(
        False,
        title="Draw an orthophoto",
        description="Write orthophoto.tif, the scene from straight above as a GeoTIFF in its UTM zone; needs GPS.",
    )

    @property
    def wanted(self) -> bool:
        """Whether anything is to be rendered."""
        return self.film or self.orthophoto


PRESETS: dict[str, dict[str, Any]] = {"draft": {}, "standard": {}, "high": {}}
