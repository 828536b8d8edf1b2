"""Lays a run's results out for people: `scenes/<scene>/<run>/`, and `latest.json` beside the runs.

Not part of the keyed artifact: cheap, repeatable, done at the end of every run, by the Airflow world.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from e2e3d_stages.contract import Manifest
from e2e3d_stages.storage import NotFound
from e2e3d_stages.store import ArtifactStore, in_parallel

# What a person gets of each stage; a file that ends in / names a folder, and one may be missing (no GPS, no georef).
DELIVERABLES: dict[str, tuple[str, ...]] = {
    "publish": ("index.html", "report.html", "thumbnail.jpg"),
    "train": ("scene.ply",),
    "compress": ("scene.sog", "scene.spz"),
    "sfm": ("sparse/0/", "georef.json", "photos.json"),
}


def folder_of(scene: str, run: str) -> str:
    """Where a run's results lie below the store's root.

    :param run: the run's name; what a folder's name should not hold is replaced.
    """
    return f"scenes/{scene}/{re.sub(r'[^A-Za-z0-9_.-]+', '-', run).strip('.')}"


def lay_out(
    store: ArtifactStore,
    scene: str,
    run: str,
    manifests: Mapping[str, Manifest],
    *,
    started: dt.datetime,
    reused: Collection[str] = (),
) -> str:
    """Copy the page and the deliverables of one run to their place, and make the run the newest result.

    Doing it again changes nothing; files of an earlier try that this one did not make are removed. An older run that
    ends late does not replace a newer one in `latest.json`.

    :param scene: a slug.
    :param run: the run's name.
    :param manifests: by stage; all that `DELIVERABLES` names.
    :param started: when the run started, with a time zone: newer wins.
    :param reused: stages whose artifacts were there before this run.
    :returns: the folder's URI.
    """
    folder = folder_of(scene, run)
    sources = _deliverables(store, manifests)
    in_parallel(lambda name: store.storage.copy(sources[name], f"{folder}/{name}"), sources)
    wanted = {f"{folder}/{name}" for name in (*sources, "run.json", "estimate.json")}
    for stale in [entry.path for entry in store.storage.list(folder) if entry.path not in wanted]:
        store.storage.delete(stale)
    record = {
        "scene": scene,
        "run": folder.rpartition("/")[2],
        "uri": store.storage.uri_of(folder),
        "started": started.astimezone(dt.timezone.utc).isoformat(),
        "files": sorted(sources),
        "metrics": key_metrics(manifests),
        "stages": {
            stage: {"key": manifest.key, "attempt": manifest.attempt, "reused": stage in reused}
            for stage, manifest in manifests.items()
        },
    }
    data = json.dumps(record, indent=1, ensure_ascii=False).encode()
    store.storage.write(f"{folder}/run.json", data)
    if not _is_older(store, scene, started):
        store.storage.write(f"scenes/{scene}/latest.json", data)
    return store.storage.uri_of(folder)


def _deliverables(store: ArtifactStore, manifests: Mapping[str, Manifest]) -> dict[str, str]:
    """Name in the run's folder → path in the store, for every wanted file that its stage made."""
    sources = {}
    for stage, wanted in DELIVERABLES.items():
        manifest = manifests[stage]
        for file in manifest.files:
            if any(file.path == name or (name.endswith("/") and file.path.startswith(name)) for name in wanted):
                sources[file.path] = store.file_path(manifest, file.path)
    return sources


def key_metrics(manifests: Mapping[str, Manifest]) -> dict[str, Any]:
    """The few numbers that tell how good a scene is."""
    names = {
        "sfm": ("photos_given", "photos_registered", "photos_supported"),
        "train": ("gaussians",),
        "compress": ("sog_bytes",),
        "evaluate": ("views", "psnr", "ssim", "psnr_400", "ssim_400", "psnr_full", "ssim_full", "compression_loss_db"),
    }
    found: dict[str, Any] = {}
    for stage, wanted in names.items():
        metrics = manifests[stage].metrics if stage in manifests else {}
        found |= {name: metrics[name] for name in wanted if name in metrics}
    return found


def _is_older(store: ArtifactStore, scene: str, started: dt.datetime) -> bool:
    """Whether a newer run is the scene's latest result."""
    try:
        latest = json.loads(store.storage.read(f"scenes/{scene}/latest.json"))
    except NotFound:
        return False
    return dt.datetime.fromisoformat(latest["started"]) > started
