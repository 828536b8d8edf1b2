"""Parameters of the structure-from-motion stage."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from e2e3d_stages.contract.messages import StageParams
from e2e3d_stages.sfm.measured import EXAMPLE, read_measured

VERSION = 2
MIN_FEATURES = 2048
FULL_FEATURES = 8192
FULL_ORIENTATIONS = 2


class Params(StageParams):
    """How photos are matched and placed."""

    later: ClassVar[frozenset[str]] = frozenset({"camera_height", "measured"})

    max_features: int = Field(
        8192,
        ge=512,
        le=65536,
        title="Features a photo",
        description="Most SIFT features taken from one photo; under 8192 small sets of photos may fall apart.",
    )
    first_octave: Literal[-1, 0] = Field(
        -1,
        title="First octave",
        description="-1 looks for features at twice the photo's size; 0 takes half the time and finds half the points, "
        "and is repeated with -1 where it leaves more than a tenth of the photos without a place.",
    )
    orientations: Literal[1, 2] = Field(
        2,
        title="Orientations a feature",
        description="1 saves a third of the time and a sixth of the points; where it leaves more than a tenth of the "
        "photos without a place, everything is done again with 2 orientations, first octave -1 and 8192 features.",
    )
    pairs: Literal["auto", "exhaustive", "spatial", "sequential", "retrieval"] = Field(
        "auto",
        title="Photo pairs",
        description="Which photos are compared: all with all, neighbours by GPS, neighbours in the order they were "
        "taken in, or those that look alike; auto compares all of a small set, then goes by GPS where most photos have "
        "it, else by the time taken, else by names that count up, else by looks.",
    )
    exhaustive_limit: int = Field(
        60,
        ge=3,
        le=2000,
        title="All pairs up to",
        description="With pairs = auto, the largest number of photos that are all compared with each other.",
    )
    neighbors: int = Field(
        12,
        ge=2,
        le=200,
        title="Neighbours",
        description="With spatial, sequential or retrieval pairs, the number of nearest photos that each photo is "
        "compared with.",
    )
    mapper: Literal["auto", "incremental", "global"] = Field(
        "auto",
        title="Mapper",
        description="auto places photos one by one and, when some are missing, also all at once; "
        "the result with more well supported photos is kept.",
    )
    camera_height: float = Field(
        0,
        ge=0,
        le=1_000,
        title="Camera height",
        description="In metres, how high above the ground, or the table, most photos were taken: where neither GPS nor "
        "positions give the scene metres, this does. 0 where nobody measured it. What is nearer to a camera than "
        "0.2 m is not drawn then.",
    )
    measured: str = Field(
        "",
        max_length=2_000,
        title="Measured distance",
        description="A distance between two points, and where two photos or more show each of them, in pixels of the "
        f"upright photo from its upper left corner: `{EXAMPLE}`. Where neither GPS nor positions give the scene "
        "metres, this does, before the camera height; where they do, the task says what the distance is by them. Empty "
        "where nobody measured one.",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, title="Seed", description="Seed of all random sampling.")

    @field_validator("measured")
    @classmethod
    def _readable(cls, text: str) -> str:
        if text:
            read_measured(text)
        return text

    def thorough(self) -> Params | None:
        """The parameters for a second go after a fast one lost photos, or None when there was nothing fast about it."""
        if self.first_octave == -1 and self.orientations == FULL_ORIENTATIONS:
            return None
        features = max(self.max_features, FULL_FEATURES)
        return self.model_copy(update={"first_octave": -1, "orientations": FULL_ORIENTATIONS, "max_features": features})

    def smaller(self) -> Params | None:
        """Half the features: memory and matching time follow their number."""
        if self.max_features <= MIN_FEATURES:
            return None
        return self.model_copy(update={"max_features": max(MIN_FEATURES, self.max_features // 2)})


PRESETS: dict[str, dict[str, Any]] = {
    "draft": {"orientations": 1, "neighbors": 8},
    "standard": {},
    "high": {"max_features": 16384, "exhaustive_limit": 120},
}
