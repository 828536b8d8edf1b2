"""A corner of the sample, small enough to be reconstructed in seconds, and the stage run on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sfm_runs import LONG_SIDE, Run, make_context

from e2e3d_stages.sfm import stage

ROOT = Path(__file__).parents[3]
PHOTOS = [ROOT / "sample" / "caliterra" / "images" / f"IMG_{number}.jpg" for number in range(9388, 9396)]


@pytest.fixture(scope="session")
def sfm(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Run `ingest` on pictures (name to image), then `sfm`; `edit` may change ingest's record between the two."""

    def run(
        pictures: dict[str, Image.Image], edit: Callable[[dict[str, Any]], None] | None = None, **params: Any
    ) -> Run:
        from e2e3d_stages.ingest import stage as ingest

        folder = tmp_path_factory.mktemp("sfm")
        (folder / "capture").mkdir()
        for name, image in pictures.items():
            image.save(folder / "capture" / name, quality=92, exif=image.info.get("exif", b""))
        prepared = make_context(folder / "ingest", "ingest", {"max_size": LONG_SIDE}, capture=folder / "capture")
        ingest.run(prepared)
        prepared.close()
        if edit:
            record = json.loads((prepared.output / "photos.json").read_text())
            edit(record)
            (prepared.output / "photos.json").write_text(json.dumps(record))
        context = make_context(folder / "sfm", "sfm", {"first_octave": 0, **params}, ingest=prepared.output)
        try:
            return Run(context.output, stage.run(context), context.warnings)
        finally:
            context.close()

    return run


@pytest.fixture(scope="session")
def pictures() -> dict[str, Image.Image]:
    """Eight neighbouring photos of the sample's flight, around a turn."""
    opened = {}
    for path in PHOTOS:
        image = Image.open(path)
        opened[path.name] = image.copy()
        opened[path.name].info["exif"] = image.info["exif"]
    return opened


@pytest.fixture(scope="session")
def scene(sfm: Callable[..., Run], pictures: dict[str, Image.Image]) -> Run:
    """The eight photos, reconstructed."""
    return sfm(pictures)
