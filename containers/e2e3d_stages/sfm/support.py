"""Which registered photos can be believed, and why the others are missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

MIN_OBSERVATIONS = 15
MIN_PAIRS = 2
MIN_INLIERS_IN_ONE_PAIR = 50
# Below this share of the set's median a photo is blurred beside the others.
BLURRED_SHARE = 0.35
DARK, BRIGHT = 25.0, 230.0
MIN_FEATURES = 500


@dataclass(frozen=True)
class Evidence:
    """What speaks for one photo's place.

    :param registered: whether it stands in the kept model.
    :param observations: the model's points that it sees.
    :param inliers: inlier matches of each verified pair with another registered photo.
    :param other_model: whether it stands in a model that was not kept.
    :param own: whether its place came with the capture: then only its points speak for it.
    :param matching: photos that it matches, whether they stand in the model or not.
    """

    registered: bool
    observations: int
    inliers: tuple[int, ...]
    other_model: bool = False
    own: bool = False
    matching: int = 0

    @property
    def supported(self) -> bool:
        """Whether the place can be believed: a mapper also registers photos on a handful of chance matches."""
        linked = len(self.inliers) >= MIN_PAIRS or max(self.inliers, default=0) >= MIN_INLIERS_IN_ONE_PAIR
        return self.registered and self.observations >= MIN_OBSERVATIONS and (linked or self.own)


@dataclass(frozen=True)
class Quality:
    """What can be said about one photo by itself: blur score, mean grey level (0 to 255), number of features."""

    blur: float
    brightness: float
    features: int


def likely_reason(evidence: Evidence, quality: Quality, blurs: Sequence[float]) -> str | None:
    """Why a photo is not used, in a photographer's words; None for one that is.

    :param blurs: blur scores of the whole set.
    """
    if evidence.supported:
        return None
    if evidence.own:
        return _fault_of_own_poses(evidence)
    return _fault_of_the_photo(quality, blurs) or _fault_of_the_capture(evidence)


def _fault_of_the_photo(quality: Quality, blurs: Sequence[float]) -> str | None:
    typical = median(blurs)
    if quality.brightness < DARK:
        return f"too dark (mean brightness {quality.brightness:.0f} of 255)"
    if quality.brightness > BRIGHT:
        return f"too bright (mean brightness {quality.brightness:.0f} of 255)"
    if quality.blur < BLURRED_SHARE * typical:
        return f"blurred (sharpness {quality.blur:.0f}, the set's median is {typical:.0f})"
    if quality.features < MIN_FEATURES:
        return f"little texture ({quality.features} features)"
    return None


def _fault_of_own_poses(evidence: Evidence) -> str:
    if evidence.registered:
        return f"too few points ({evidence.observations}) in the capture's own poses"
    return "not in the capture's own poses, by its name and shape"


def _fault_of_the_capture(evidence: Evidence) -> str:
    if evidence.other_model:
        return "belongs to a separate part of the scene: no overlap with the main part"
    if evidence.registered:
        return (
            f"too few points ({evidence.observations} points, {len(evidence.inliers)} matching photos): "
            "its place cannot be trusted"
        )
    if not evidence.inliers and evidence.matching:
        return f"matches {evidence.matching} photos, of which none could be placed: they may be of one place"
    if not evidence.inliers:
        return "no overlap: it matches none of the placed photos"
    return f"too little overlap: {max(evidence.inliers)} matches with the best of {len(evidence.inliers)} photos"
