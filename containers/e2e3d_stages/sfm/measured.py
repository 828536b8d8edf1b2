"""A distance that somebody measured: how long it is, and where photos show its two ends, told in a line of text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from e2e3d_stages.contract.messages import InvalidRequest
from e2e3d_stages.sfm.naming import photo_called

EXAMPLE = "1.25 m from a.jpg@812,403 b.jpg@655,391 to a.jpg@1210,388 b.jpg@1044,402"
_LENGTH = re.compile(r"(\d{1,6}(?:\.\d{1,6})?) ?m from ")
# What stands between two of them is a name, which may have spaces.
_PLACE = re.compile(r"@(\d{1,6}(?:\.\d{1,3})?),(\d{1,6}(?:\.\d{1,3})?)(?: |$)")
_TO = "to "
NAMED_IN_HINT = 5


@dataclass(frozen=True)
class Sighting:
    """Where a photo shows an end.

    :param photo: its name in the capture, or the end of it.
    :param x: of the upright photo in its own pixels, from its left edge.
    :param y: from its upper edge.
    """

    photo: str
    x: float
    y: float

    def __str__(self) -> str:
        return f"{self.photo}@{self.x:g},{self.y:g}"


@dataclass(frozen=True)
class Measured:
    """A distance in metres, and the sightings of its ends."""

    metres: float
    ends: tuple[tuple[Sighting, ...], tuple[Sighting, ...]]


def read_measured(text: str) -> Measured:
    """A distance as people write it, as `EXAMPLE`.

    :raises ValueError: saying what is missing.
    """
    length = _LENGTH.match(text.strip())
    if not length or not float(length[1]):
        raise ValueError(f"begin it with the distance in metres, as in: {EXAMPLE}")
    rest = text.strip()[length.end() :]
    ends: list[list[Sighting]] = [[]]
    start = 0
    for place in _PLACE.finditer(rest):
        name = rest[start : place.start()]
        if name.startswith(_TO) and len(ends) == 1:
            name = name.removeprefix(_TO)
            ends.append([])
        ends[-1].append(Sighting(name, float(place[1]), float(place[2])))
        start = place.end()
    if start < len(rest):
        raise ValueError(f"{rest[start:]!r} is no photo with a place in it, as a.jpg@812,403")
    if len(ends) == 1:
        raise ValueError(f"say where photos show its other end, after ' to ', as in: {EXAMPLE}")
    for seen in ends:
        if len({sighting.photo for sighting in seen}) < max(2, len(seen)):
            raise ValueError("each of its ends must be seen in two photos or more, once in each")
    return Measured(float(length[1]), (tuple(ends[0]), tuple(ends[1])))


def place_in(sighting: Sighting, photos: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], tuple[float, float]]:
    """The photo that a sighting is in, and where it is in that photo's prepared picture, in px.

    :param photos: as ingest's `photos.json` has them.
    :raises InvalidRequest: when there is no such photo, or no such place in it.
    """
    photo = photo_called(sighting.photo, photos)
    if photo is None:
        known = ", ".join(each["source"] for each in photos[:NAMED_IN_HINT])
        raise InvalidRequest(
            f"The measured distance names {sighting.photo}: no photo that is used is called so, or several are.",
            hint=f"In sfm_measured, name photos as the capture does: {known} and so on.",
        )
    if "full" not in photo:
        raise InvalidRequest(
            "The photos were prepared by a version that did not note how large they were, and a measured distance "
            "needs that.",
            hint="Trigger again with ingest under Re-run stages (force).",
        )
    width, height = photo["full"]
    if sighting.x >= width or sighting.y >= height:
        raise InvalidRequest(
            f"The measured distance has an end at {sighting}, and that photo has {width} x {height} pixels.",
            hint="In sfm_measured, count pixels of the upright photo from its upper left corner: first to the right, "
            "then down.",
        )
    # The middle of a pixel.
    return photo, ((sighting.x + 0.5) * photo["width"] / width, (sighting.y + 0.5) * photo["height"] / height)
