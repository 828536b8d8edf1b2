"""A context for a stage, without a request in a store, and what a run of `sfm` leaves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2e3d_stages.contract.messages import Advice, Request
from e2e3d_stages.registry import STAGES
from e2e3d_stages.runtime.context import StageContext
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.captures import fetch_capture, list_capture_files
from e2e3d_stages.store.opening import open_storage

# Of the photos that are reconstructed, in pixels.
LONG_SIDE = 400


def make_context(
    folder: Path, stage: Any, params: dict[str, Any], *, capture: Path | None = None, ingest: Path | None = None
) -> StageContext:
    """A context as the runtime makes it, its input a plain folder."""
    folder.mkdir()
    store = ArtifactStore.open((folder / "store").as_uri())
    request = Request(stage=stage, stage_version=1, key="k", attempt=1, params=params)
    inputs: dict[Any, Any] = {"ingest": SimpleNamespace(folder=ingest)} if ingest else {}
    checked = STAGES[stage].validate(params)
    photos = None
    if capture:
        storage = open_storage(capture.as_uri())
        photos = fetch_capture(storage, list_capture_files(storage), folder / "capture")
    return StageContext(store=store, request=request, params=checked, inputs=inputs, capture=photos, folder=folder)


@dataclass
class Run:
    """What a run of `sfm` left."""

    output: Path
    metrics: dict[str, Any]
    warnings: list[Advice]

    def json(self, name: str) -> Any:
        """One of its JSON files."""
        return json.loads((self.output / name).read_text())

    @property
    def views(self) -> list[dict[str, Any]]:
        """`views.json`."""
        return list(self.json("views.json"))

    @property
    def points(self) -> dict[str, NDArray[Any]]:
        """`points.npz`."""
        with np.load(self.output / "points.npz") as arrays:
            return dict(arrays)

    @property
    def photos(self) -> dict[str, dict[str, Any]]:
        """`photos.json`, by the photo's name in the capture."""
        return {photo["source"]: photo for photo in self.json("photos.json")}

    @property
    def centers(self) -> NDArray[np.float64]:
        """Camera centres of the views in the world frame, (N, 3)."""
        poses = np.array([view["world_to_camera"] for view in self.views])
        return -np.einsum("nji,nj->ni", poses[:, :3, :3], poses[:, :3, 3])
