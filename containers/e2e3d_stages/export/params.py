"""Parameters of the export stage."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from e2e3d_stages.contract.messages import StageParams


class Params(StageParams):
    """What is exported; without any of it the stage is skipped."""

    later: ClassVar[frozenset[str]] = frozenset({"tiles"})

    points: bool = Field(
        False,
        title="Write points",
        description="Write points.ply, and with GPS points.laz in the UTM zone: the dense Gaussians' centres.",
    )
    gltf: bool = Field(
        False,
        title="Write glTF",
        description="Write scene.glb, the Gaussians as glTF has them (KHR_gaussian_splatting).",
    )
    usd: bool = Field(
        False,
        title="Write USD",
        description="Write scene.usdc, the Gaussians as OpenUSD has them (ParticleField3DGaussianSplat).",
    )
    colmap: bool = Field(
        False,
        title="Write COLMAP",
        description="Write colmap.zip: the straightened photos, poses and points, for nerfstudio and gsplat's trainer.",
    )

    tiles: bool = Field(
        False,
        title="Write 3D Tiles",
        description="Write tiles/tileset.json and tiles/scene.glb, the Gaussians as SPZ where they lie on the "
        "globe, for CesiumJS; needs GPS.",
    )

    @property
    def wanted(self) -> bool:
        """Whether anything is to be written."""
        return self.points or self.gltf or self.usd or self.colmap or self.tiles


PRESETS: dict[str, dict[str, Any]] = {"draft": {}, "standard": {}, "high": {}}
