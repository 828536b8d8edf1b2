"""Parameters of the compress stage."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from e2e3d_stages.contract.messages import StageParams


class Params(StageParams):
    """How far the scene is compressed, and what is left out of it."""

    later: ClassVar[frozenset[str]] = frozenset({"stream_above"})

    sh_degree: int = Field(
        3,
        ge=0,
        le=3,
        title="Highest SH degree kept",
        description="Spherical-harmonics bands above this degree are dropped; 0 keeps colour that ignores direction.",
    )
    max_colour_error: float = Field(
        0.005,
        gt=0,
        le=0.1,
        title="Largest colour error of the palette",
        description="Root mean square colour error, as a share of full brightness, that the palette of "
        "view-dependent colours may cause; the smallest palette below it is taken.",
    )
    min_opacity: float = Field(
        1 / 255,
        ge=0,
        lt=1,
        title="Opacity below which a Gaussian is removed",
        description="Opacity from 0 to 1; renderers skip everything below 1/255, so the default loses nothing.",
    )
    floater_distance: float = Field(
        100,
        ge=5,
        title="Distance of a floating Gaussian",
        description="Gaussians farther from the scene's median point, or larger, than this many times "
        "the median distance are removed as floating.",
    )
    max_floaters: float = Field(
        0.01,
        ge=0,
        le=1,
        title="Largest share of floating Gaussians",
        description="Share of all Gaussians; when more than this look floating they are a background and are kept.",
    )
    spz: bool = Field(
        True,
        title="Write SPZ",
        description="Write scene.spz too, by PlayCanvas's splat-transform (needs Node.js).",
    )
    seed: int = Field(0, ge=0, title="Seed", description="Seed of the clustering; the same seed gives the same file.")
    stream_above: int = Field(
        0,
        ge=0,
        title="Stream above",
        description="Write levels of detail, which the page loads as it needs them, of scenes with more Gaussians than "
        "this; the page in one file then has one that phones bear. 0: of none.",
    )


def has_levels(stream_above: int, gaussians: int) -> bool:
    """Whether a scene of so many Gaussians gets levels of detail."""
    return 0 < stream_above < gaussians


# Blending averages the palette's error: renders differ by about 0.42 times max_colour_error (measured on a trained
# scene), so 0.005 costs 0.03 dB at 32 dB and 0.1 dB at 37 dB.
PRESETS: dict[str, dict[str, Any]] = {
    "draft": {"max_colour_error": 0.008},
    "standard": {},
    "high": {"max_colour_error": 0.002, "stream_above": 500_000},
}
