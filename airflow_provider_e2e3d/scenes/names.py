"""What a scene and its runs are called, and where they lie."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath
from urllib.parse import unquote

from e2e3d_stages.contract.captures import Kind, kind_by_name
from e2e3d_stages.contract.messages import InvalidRequest
from e2e3d_stages.contract.paths import folder_name

# Names of folders that say nothing about what is on the photos.
_COMMON_FOLDERS = ("images", "photos", "input", "jpg")

SLUG = r"[a-z0-9][a-z0-9-]{0,62}"


def scene_of(capture: str) -> str:
    """A slug from the last telling part of a capture's address.

    Letters keep their base, as in `eglise`. A name in another script becomes a digest of it: each name its own, and
    always the same.
    """
    name = name_of(capture)
    # As many file systems do, é may be written as e and an accent.
    letters = unicodedata.normalize("NFKD", unicodedata.normalize("NFC", name).casefold())
    slug = re.sub(r"[^a-z0-9]+", "-", "".join(each for each in letters if not unicodedata.combining(each))).strip("-")
    lost = any(each.isalnum() and not each.isascii() for each in letters)
    if slug and not lost:
        return slug[:63].strip("-")
    digest = hashlib.sha256(letters.encode(errors="surrogatepass")).hexdigest()[:6] if lost else ""
    return "-".join(filter(None, (slug[:56].strip("-") or "scene", digest)))


def title_of(scene: str, capture: str) -> str:
    """What a scene is called on its pages: as its capture is, where the slug could not say that."""
    name = unicodedata.normalize("NFC", name_of(capture))
    readable = not name.isascii() and name.isprintable() and name.strip()
    return name.strip()[:120] if readable and scene == scene_of(capture) else scene


def name_of(capture: str) -> str:
    """The last telling part of a capture's address, as people wrote it."""
    scheme, _, path = capture.rpartition("://")
    path = path.partition("/")[2] if scheme == "s3" else unquote(path)
    parts = [part for part in path.split("/") if part]
    telling = [part for part in parts if part.lower() not in _COMMON_FOLDERS] or parts or ["scene"]
    last = telling[-1]
    return last.removesuffix(PurePosixPath(last).suffix) if kind_by_name(last) in (Kind.ARCHIVE, Kind.FILM) else last


def scenes_of(captures: Iterable[str]) -> dict[str, str]:
    """A scene for each capture by its address; those that would give the same get a name of their own."""
    scenes = {capture: scene_of(capture) for capture in captures}
    uses = Counter(scenes.values())
    return {capture: scene_apart(scene, capture) if uses[scene] > 1 else scene for capture, scene in scenes.items()}


def scene_apart(scene: str, capture: str) -> str:
    """The scene of a capture whose own name another capture has."""
    return f"{scene[:56]}-{hashlib.sha256(capture.encode()).hexdigest()[:6]}"


def valid_scene(scene: str) -> str:
    """The name, if it can be a scene's.

    :raises InvalidRequest: when it is no slug.
    """
    if not re.fullmatch(SLUG, scene):
        raise InvalidRequest(
            f"{scene!r} cannot be a scene's name.", hint="Use small letters, digits and dashes, as in old-town-hall."
        )
    return scene


def folder_of(scene: str, run: str) -> str:
    """Where a run's results lie below the store's root.

    :param run: the run's id.
    """
    return f"scenes/{scene}/{folder_name(run)}"
