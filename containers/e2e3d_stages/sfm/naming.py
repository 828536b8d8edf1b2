"""Photos by the names that people know them by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def photo_called(name: str, photos: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The one photo of that path in the capture, or with the end of it; None where it is none or several.

    :param photos: as ingest's `photos.json` has them.
    """
    same = [photo for photo in photos if photo["source"] == name]
    found = same or [photo for photo in photos if photo["source"].endswith(f"/{name}")]
    return found[0] if len(found) == 1 else None
