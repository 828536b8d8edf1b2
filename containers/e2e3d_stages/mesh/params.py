"""Parameters of the mesh stage."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from typing_extensions import Self

from e2e3d_stages.contract.messages import StageParams


class Params(StageParams):
    """How fine a mesh is made of the scene, if one is."""

    voxels: int = Field(
        384,
        ge=0,
        le=1_024,
        title="Voxels along the longest side",
        description="The scene is cut into so many small cubes along its longest side, and the mesh has the detail of "
        "one; 0 makes no mesh.",
    )
    max_faces: int = Field(
        300_000,
        ge=1_000,
        le=5_000_000,
        title="Max triangles",
        description="The mesh is simplified until it has no more triangles.",
    )
    obj: bool = Field(False, title="Write OBJ", description="Write mesh.obj too, for programs that read no glTF.")

    @property
    def wanted(self) -> bool:
        """Without voxels there is nothing to make."""
        return self.voxels > 0

    def smaller(self) -> Self | None:
        """Cubes of twice the size; None where they are large already."""
        return self.model_copy(update={"voxels": self.voxels // 2}) if self.voxels >= 128 else None


PRESETS: dict[str, dict[str, Any]] = {
    "draft": {"voxels": 0},
    "standard": {},
    "high": {"voxels": 640, "max_faces": 1_000_000},
}
