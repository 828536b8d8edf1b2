"""Lays a run's results out for people: `scenes/<scene>/<run>/`, and `latest.json` beside the runs.

Not part of the keyed artifact: cheap, repeatable, done at the end of every run, by the Airflow world.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from airflow_provider_e2e3d.scenes.names import folder_of
from airflow_provider_e2e3d.scenes.record import MalformedRecord, Run, read_record, record_of
from airflow_provider_e2e3d.scenes.report import with_run
from e2e3d_stages.contract.messages import Infrastructure, InvalidRequest, Manifest, StoredFile
from e2e3d_stages.contract.paths import path_problem
from e2e3d_stages.publish.spec import REPORT
from e2e3d_stages.registry import STAGES
from e2e3d_stages.store.artifacts import ArtifactStore, in_parallel
from e2e3d_stages.store.base import NotFound


class _Source(NamedTuple):
    """A stored file: its path below the root, and what its manifest says of it."""

    path: str
    file: StoredFile


def lay_out(store: ArtifactStore, run: Run, manifests: Mapping[str, Manifest]) -> str:
    """Copy the page and the deliverables of one run to their place, and make the run the newest result.

    The report is told what its artifact cannot know: which run this is, what it reused and what it cost.

    Doing it again changes nothing; files that the record of an earlier try names and this one did not make are removed,
    and nothing else is. An older run that ends late does not replace a newer one in `latest.json`. Where another
    owner's run has the same id, this one's folder gets another name.

    :param manifests: by stage; all that have deliverables.
    :returns: the folder's URI.
    """
    folder = _own_folder(store, run)
    before = _laid_before(store, folder, run)
    sources = _deliverables(store, manifests)
    files = {name: source.file for name, source in sources.items()}
    record = record_of(store, run, manifests, folder=folder, files=files)
    copied = [name for name in sources if name != REPORT]
    in_parallel(lambda name: _copy(store, sources[name], f"{folder}/{name}"), copied)
    if REPORT in sources:
        page = store.storage.read(sources[REPORT].path)
        if hashlib.sha256(page).hexdigest() != sources[REPORT].file.sha256:
            raise _damaged(store, sources[REPORT])
        store.storage.write(f"{folder}/{REPORT}", with_run(page.decode(), record).encode())
    for stale in before - sources.keys():
        store.storage.delete(f"{folder}/{stale}")
    store.storage.write(f"{folder}/run.json", _json(record))
    if not _is_older(store, run):
        _make_latest(store, run.scene, record)
    return store.storage.uri_of(folder)


def _copy(store: ArtifactStore, source: _Source, target: str) -> None:
    """Copy a file, and look at what arrived: people open it, and nobody looks at digests after them."""
    store.storage.copy(source.path, target)
    if store.storage.sha256(target) != source.file.sha256:
        store.storage.delete(target)
        raise _damaged(store, source)


def _damaged(store: ArtifactStore, source: _Source) -> Infrastructure:
    return Infrastructure(
        f"{store.storage.uri_of(source.path)} is damaged: its digest is not the manifest's.",
        hint="Trigger again with the stage that made it under Re-run stages (force).",
    )


def _own_folder(store: ArtifactStore, run: Run) -> str:
    """The run's folder, which no other run has: whoever is first leaves its mark there."""
    mark = run.owner.encode()
    for name in (run.id, f"{run.id} of {run.owner}"):
        folder = folder_of(run.scene, name)
        if store.storage.create(f"{folder}/owner", mark) or store.storage.read(f"{folder}/owner") == mark:
            return folder
    raise InvalidRequest(
        f"Another run has the folder {store.storage.uri_of(folder)}.", hint="Trigger again, under another run id."
    )


def _laid_before(store: ArtifactStore, folder: str, run: Run) -> set[str]:
    """The files that an earlier try of the same run laid out, as its record names them."""
    try:
        record = read_record(store.storage, f"{folder}/run.json")
    except (NotFound, MalformedRecord):
        return set()
    files = record["files"] if record.get("run_id") == run.id else []
    named = {name for name in files if not path_problem(name)}
    return named - {"owner", "run.json", "estimate.json"}


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
    """A run's record; nothing while it is being laid out, and of what is none."""
    try:
        return read_record(store.storage, f"{runs}/{name}/run.json")
    except (NotFound, MalformedRecord):
        return {}


def _started(record: Mapping[str, Any]) -> str:
    # All in UTC and of one form, so they sort as they are.
    return str(record.get("started", ""))


def _deliverables(store: ArtifactStore, manifests: Mapping[str, Manifest]) -> dict[str, _Source]:
    """Name in the run's folder → where it is, for every deliverable that its stage made."""
    return {
        file.path: _Source(store.file_path(manifests[spec.name], file.path), file)
        for spec in STAGES.values()
        if spec.deliverables and spec.name in manifests
        for file in manifests[spec.name].files
        if any(each.holds(file.path) for each in spec.deliverables)
    }


def _is_older(store: ArtifactStore, run: Run) -> bool:
    """Whether a newer run is the scene's latest result."""
    try:
        latest = read_record(store.storage, f"scenes/{run.scene}/latest.json")
    except (NotFound, MalformedRecord):
        return False
    return dt.datetime.fromisoformat(latest["started"]) > run.started
