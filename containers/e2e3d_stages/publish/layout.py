"""Lays a run's results out for people: `scenes/<scene>/<run>/`, and `latest.json` beside the runs.

Not part of the keyed artifact: cheap, repeatable, done at the end of every run, by the Airflow world.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from e2e3d_stages.contract import Manifest
from e2e3d_stages.publish.page import with_run
from e2e3d_stages.publish.record import Run, record_of
from e2e3d_stages.storage import NotFound
from e2e3d_stages.store import ArtifactStore, in_parallel

REPORT = "report.html"
# What a person gets of each stage; a file that ends in / names a folder, and one may be missing (no GPS, no georef).
DELIVERABLES: dict[str, tuple[str, ...]] = {
    "publish": ("index.html", REPORT, "thumbnail.jpg"),
    "train": ("scene.ply",),
    "compress": ("scene.sog", "scene.spz"),
    "sfm": ("sparse/0/", "georef.json", "photos.json"),
}


class _Source(NamedTuple):
    """A stored file: its path below the root, and its size in bytes."""

    path: str
    size: int


def folder_of(scene: str, run: str) -> str:
    """Where a run's results lie below the store's root.

    :param run: the run's name; what a folder's name should not hold is replaced.
    """
    return f"scenes/{scene}/{re.sub(r'[^A-Za-z0-9_.-]+', '-', run).strip('.')}"


def lay_out(store: ArtifactStore, run: Run, manifests: Mapping[str, Manifest]) -> str:
    """Copy the page and the deliverables of one run to their place, and make the run the newest result.

    The report is told what its artifact cannot know: which run this is, what it reused and what it cost.

    Doing it again changes nothing; files of an earlier try that this one did not make are removed. An older run that
    ends late does not replace a newer one in `latest.json`. Where another owner's run has the same name, this one's
    folder gets a longer one.

    :param manifests: by stage; all that `DELIVERABLES` names.
    :returns: the folder's URI.
    """
    folder = _own_folder(store, folder_of(run.scene, run.id), run.owner)
    sources = _deliverables(store, manifests)
    sizes = {name: source.size for name, source in sources.items()}
    record = record_of(store, run, manifests, folder=folder, files=sizes)
    copied = [name for name in sources if name != REPORT]
    in_parallel(lambda name: store.storage.copy(sources[name].path, f"{folder}/{name}"), copied)
    if REPORT in sources:
        page = store.storage.read(sources[REPORT].path).decode()
        store.storage.write(f"{folder}/{REPORT}", with_run(page, record).encode())
    wanted = {f"{folder}/{name}" for name in (*sources, "owner", "run.json", "estimate.json")}
    for stale in [entry.path for entry in store.storage.list(folder) if entry.path not in wanted]:
        store.storage.delete(stale)
    store.storage.write(f"{folder}/run.json", _json(record))
    if not _is_older(store, run):
        _make_latest(store, run.scene, record)
    return store.storage.uri_of(folder)


def _own_folder(store: ArtifactStore, folder: str, owner: str) -> str:
    mark, place = owner.encode(), f"{folder}/owner"
    if store.storage.create(place, mark) or store.storage.read(place) == mark:
        return folder
    return f"{folder}-{hashlib.sha256(mark).hexdigest()[:8]}"


def _json(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, indent=1, ensure_ascii=False).encode()


def _make_latest(store: ArtifactStore, scene: str, record: dict[str, Any]) -> None:
    """Write `latest.json`, and look afterwards: a newer run that ended at the same moment may have been overwritten."""
    runs = f"scenes/{scene}"
    while True:
        store.storage.write(f"{runs}/latest.json", _json(record))
        newest = max(in_parallel(partial(_run, store, runs), store.storage.folders(runs)), key=_started)
        if _started(newest) <= _started(record):
            return
        record = newest


def _run(store: ArtifactStore, runs: str, name: str) -> dict[str, Any]:
    """A run's record; nothing while it is being laid out."""
    try:
        record: dict[str, Any] = json.loads(store.storage.read(f"{runs}/{name}/run.json"))
        return record
    except NotFound:
        return {}


def _started(record: Mapping[str, Any]) -> str:
    # All in UTC and of one form, so they sort as they are.
    return str(record.get("started", ""))


def _deliverables(store: ArtifactStore, manifests: Mapping[str, Manifest]) -> dict[str, _Source]:
    """Name in the run's folder → where it is, for every wanted file that its stage made."""
    sources = {}
    for stage, wanted in DELIVERABLES.items():
        manifest = manifests[stage]
        for file in manifest.files:
            if any(file.path == name or (name.endswith("/") and file.path.startswith(name)) for name in wanted):
                sources[file.path] = _Source(store.file_path(manifest, file.path), file.size)
    return sources


def _is_older(store: ArtifactStore, run: Run) -> bool:
    """Whether a newer run is the scene's latest result."""
    try:
        latest = json.loads(store.storage.read(f"scenes/{run.scene}/latest.json"))
    except NotFound:
        return False
    return dt.datetime.fromisoformat(latest["started"]) > run.started
