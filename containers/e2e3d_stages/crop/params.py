"""Parameters of the crop stage."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from e2e3d_stages.contract.messages import StageParams


class Params(StageParams):
    """How much of the trained scene stays."""

    keep: Literal["everything", "environment", "subject"] = Field(
        "everything",
        title="What stays",
        description="environment is the box around cameras and photographed points, without what lies far behind; "
        "subject the box around what most photos have in the picture. Either way what floats goes, too. Page, mesh, "
        "renders and exports show what stays, and the figures are about that part of the photos.",
    )

    @property
    def wanted(self) -> bool:
        """Whether anything is to go."""
        return self.keep != "everything"


PRESETS: dict[str, dict[str, Any]] = {"draft": {}, "standard": {}, "high": {}}
