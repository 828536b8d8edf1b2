"""A small capture, and the stage run on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ingest_photos import Ingest, Ingested, picture, save

from e2e3d_stages.contract.messages import Request
from e2e3d_stages.ingest import stage
from e2e3d_stages.ingest.params import Params
from e2e3d_stages.runtime.context import StageContext
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.captures import fetch_capture, list_capture_files
from e2e3d_stages.store.opening import open_storage


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """A folder with three good photos."""
    folder = tmp_path / "capture"
    for number in (1, 2, 10):
        save(folder / f"IMG_{number}.jpg", picture(number))
    return folder


@pytest.fixture
def ingest(tmp_path: Path) -> Ingest:
    """Run the stage on a capture, by its path or address, with some parameters."""

    def run(capture: Path | str, **params: Any) -> Ingested:
        folder = tmp_path / "work"
        folder.mkdir()
        store = ArtifactStore.open((tmp_path / "store").as_uri())
        request = Request(stage="ingest", stage_version=1, key="k", attempt=1, params=params)
        storage = open_storage(capture.as_uri() if isinstance(capture, Path) else capture)
        photos = fetch_capture(storage, list_capture_files(storage), folder / "capture")
        context = StageContext(
            store=store, request=request, params=Params(**params), inputs={}, capture=photos, folder=folder
        )
        try:
            metrics = stage.run(context)
        finally:
            context.close()
        return Ingested(context, metrics, json.loads((context.output / "photos.json").read_text()))

    return run
