"""Whether COLMAP works here."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pycolmap

from e2e3d_stages.runtime.checks import noise, versions


def check() -> str:
    """Features of a picture: COLMAP, its picture reader and its database."""
    pycolmap.logging.minloglevel = pycolmap.logging.ERROR.value
    with tempfile.TemporaryDirectory() as name:
        database = Path(name) / "features.db"
        noise().save(Path(name) / "picture.jpg")
        pycolmap.Database.open(database).close()
        pycolmap.extract_features(database, name, image_names=["picture.jpg"])
        found = pycolmap.Database.open(database)
        count = found.num_keypoints()
        found.close()
    if count == 0:
        raise RuntimeError("COLMAP found no features in a picture full of them")
    return versions("pycolmap") + f", {count} features"
