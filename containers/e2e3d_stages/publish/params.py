"""Parameters of the publish stage."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from e2e3d_stages.contract.messages import StageParams


class Params(StageParams):
    """What stands on the pages."""

    title: str = Field(
        "Scene",
        min_length=1,
        max_length=120,
        title="Title",
        description="Name of the scene in the headings of the pages.",
    )


PRESETS: dict[str, dict[str, Any]] = {"draft": {}, "standard": {}, "high": {}}
