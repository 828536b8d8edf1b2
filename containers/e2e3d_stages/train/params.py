"""Parameters of the `train` stage."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from typing_extensions import Self

from e2e3d_stages.splats.params import RenderParams


class Params(RenderParams):
    """How the Gaussians are trained."""

    iterations: int = Field(
        15_000, ge=10, le=100_000, title="Iterations", description="Training steps; each looks at one photo."
    )
    max_gaussians: int = Field(
        500_000,
        ge=100,
        le=10_000_000,
        title="Max Gaussians",
        description="Hard cap on the number of Gaussians at any time: memory, file size and detail grow with it. There "
        "are fewer where the photos have no detail for more: one for each 50 of their pixels, and at least 20,000.",
    )
    long_side: int = Field(
        1_600,
        ge=32,
        le=8_192,
        title="Training size",
        description="Photos are trained on at this length of their long side in px, never enlarged.",
    )
    coarse_to_fine: bool = Field(
        True,
        title="Coarse to fine",
        description="Whether training begins on photos of a quarter of the size, for the first 15 % of the iterations, "
        "and goes on at half the size up to 50 %.",
    )
    ssim_weight: float = Field(
        0.2,
        ge=0,
        le=1,
        title="SSIM weight",
        description="Share of structural dissimilarity in the loss; the rest is the mean absolute difference.",
    )
    holdout: int = Field(
        8,
        ge=0,
        le=100,
        title="Hold out every Nth photo",
        description="Every Nth photo is kept out of training to measure quality; 0 trains on all of them.",
    )
    light: Literal["auto", "on", "off"] = Field(
        "auto",
        title="Light of each photo",
        description="Whether each photo's exposure and white balance are learned beside the scene, which gets their "
        "mean; auto does so where photos differ in what they show of the same points.",
    )
    stop_at_plateau: bool = Field(
        False,
        title="Stop at the plateau",
        description="Whether to end as soon as the training photos' PSNR no longer rises.",
    )
    checkpoint_every: int = Field(
        1_000, ge=10, le=100_000, title="Checkpoint every", description="Steps between two checkpoints."
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, title="Seed", description="Starting value of all random choices.")

    def smaller(self) -> Self | None:
        """Half the Gaussians and half the pixels, which limit them, too; few Gaussians, half the size; at last None."""
        if self.max_gaussians >= 20_000:
            size = max(32, int(self.long_side * 0.5**0.5))
            return self.model_copy(update={"max_gaussians": self.max_gaussians // 2, "long_side": size})
        if self.long_side >= 400:
            return self.model_copy(update={"long_side": self.long_side // 2})
        return None


PRESETS: dict[str, dict[str, Any]] = {
    "draft": {
        "iterations": 2_500,
        "max_gaussians": 100_000,
        "sh_degree": 1,
        "long_side": 1_000,
        "checkpoint_every": 500,
    },
    "standard": {},
    "high": {"iterations": 30_000, "max_gaussians": 2_000_000, "long_side": 3_200},
}
