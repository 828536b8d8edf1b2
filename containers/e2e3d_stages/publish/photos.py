"""The photos that did not become part of the scene: which, how they look, and why."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from e2e3d_stages.contract.captures import DUPLICATE, HIDDEN, NOT_A_PHOTO, UNCOUNTED, UNSUPPORTED, UNUSED_FILM
from e2e3d_stages.contract.paths import inside
from e2e3d_stages.runtime.context import InputArtifact

MOST_THUMBNAILS = 60
THUMBNAIL_SIZE = 240
# What ingest's reasons mean, before the detail.
DROPPED = {
    "unreadable": "Cannot be read",
    DUPLICATE: "A copy",
    "too_small": "Too small",
    "too_large": "Takes too much memory",
    "outside": "A link to a file outside the capture",
    "unsafe_name": "Has a name that no file can have",
    UNSUPPORTED: "In a format that is not supported",
    UNUSED_FILM: "A film of which nothing can be used",
    HIDDEN: "Its mask hides all of it",
    NOT_A_PHOTO: "Not a photo",
}


def photo_facts(inputs: Mapping[str, InputArtifact]) -> dict[str, Any]:
    """How many photos were uploaded and placed, and each that was not, with the reason.

    `unused` has name, reason, and a picture where there is one: ingest keeps none of what it drops. `films` has name,
    the last frame's time in seconds, and of each frame its time and whether it was placed.
    """
    prepared = _json(inputs["ingest"].folder / "photos.json")
    placed = _json(inputs["sfm"].folder / "photos.json")
    dropped = [item for item in prepared["dropped"] if item["reason"] not in UNCOUNTED]
    unused = [photo for photo in placed if not photo["supported"]]
    return {
        "uploaded": len(placed) + len(dropped),
        "placed": len(placed) - len(unused),
        "films": [_film(each, {photo["name"] for photo in unused}) for each in prepared.get("films", ())],
        "unused": [
            {
                "name": photo["source"],
                "reason": photo["reason"] or "too little in common with the others",
                "picture": _thumbnail(inside(inputs["ingest"].folder / "images", photo["name"]))
                if number < MOST_THUMBNAILS
                else None,
            }
            for number, photo in enumerate(unused)
        ],
        "dropped": [
            {"name": item["source"], "reason": ": ".join(filter(None, (DROPPED.get(item["reason"]), item["detail"])))}
            for item in prepared["dropped"]
        ],
    }


def _film(film: Mapping[str, Any], unused: Collection[str]) -> dict[str, Any]:
    frames = [{"seconds": seconds, "placed": name not in unused} for name, seconds in film["frames"].items()]
    return {"name": film["source"], "seconds": max(each["seconds"] for each in frames), "frames": frames}


def source_names(inputs: Mapping[str, InputArtifact]) -> dict[str, str]:
    """The name that a photo has in the capture, by the name that ingest gave it."""
    prepared = _json(inputs["ingest"].folder / "photos.json")
    return {photo["name"]: photo["source"] for photo in prepared["photos"]}


def data_uri(jpeg: bytes) -> str:
    """A JPEG as an address that needs no file."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _thumbnail(path: Path) -> str | None:
    if not path.is_file():
        return None
    with Image.open(path) as photo:
        photo.draft("RGB", (THUMBNAIL_SIZE, THUMBNAIL_SIZE))
        small = photo.convert("RGB")
    small.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=72, optimize=True)
    return data_uri(file.getvalue())


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
