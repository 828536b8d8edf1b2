"""Time of our structure from motion beside plain pycolmap's: default options, one incremental mapper, same photos.

    python bench/sfm.py [--capture sample/caliterra/images] [--preset draft]

Both run in a process of their own, one after the other, from prepared photos to undistorted ones. Prints JSON; the
exit status is 1 where ours takes more than 0.8 of the time, or places fewer photos that can be believed.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from e2e3d_stages.contract.messages import Request
from e2e3d_stages.registry import STAGES
from e2e3d_stages.runtime.context import StageContext
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.captures import fetch_capture, list_capture_files
from e2e3d_stages.store.opening import open_storage

ROOT = Path(__file__).parent.parent
TARGET_RATIO = 0.8


def main() -> int:
    """Run both and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capture", type=Path, default=ROOT / "sample" / "caliterra" / "images")
    parser.add_argument("--preset", default="draft")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = prepare(options.capture, options.preset, folder / "ingest")
        ours = measured(run_ours, prepared, options.preset, folder / "ours")
        plain = measured(run_plain, prepared, options.preset, folder / "plain")
    figures = {
        "photos": ours["photos_given"],
        "ours": ours,
        "plain": plain,
        "ratio": round(ours["seconds"] / plain["seconds"], 3),
        "cpu_ratio": round(ours["cpu_seconds"] / plain["cpu_seconds"], 3),
        "target_ratio": TARGET_RATIO,
    }
    print(json.dumps(figures, indent=2))
    good = figures["ratio"] <= TARGET_RATIO and ours["photos_supported"] >= plain["photos_supported"]
    return 0 if good else 1


def measured(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What some work found, with its wall and CPU time, done in a fresh process."""
    before = _children_cpu()
    started = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(work, arguments)
        pool.close()
        pool.join()
    seconds = time.monotonic() - started
    return {"seconds": round(seconds, 2), "cpu_seconds": round(_children_cpu() - before, 2), **found}


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def prepare(capture: Path, preset: str, folder: Path) -> Path:
    """The capture as `ingest` prepares it."""
    from e2e3d_stages.ingest import stage

    context = _context("ingest", preset, folder, capture=capture)
    stage.run(context)
    context.close()
    return context.output


def run_ours(prepared: Path, preset: str, folder: Path) -> dict[str, Any]:
    """The `sfm` stage."""
    from e2e3d_stages.sfm import stage

    logging.disable(logging.WARNING)
    context = _context("sfm", preset, folder, prepared=prepared)
    metrics = stage.run(context)
    context.close()
    return _figures(metrics)


def run_plain(prepared: Path, preset: str, folder: Path) -> dict[str, Any]:
    """pycolmap with its default options; its photos judged by our rule."""
    import pycolmap

    from e2e3d_stages.sfm.reconstruct import Task, gather_evidence

    pycolmap.logging.minloglevel = 2
    folder.mkdir()
    images, database = prepared / "images", folder / "features.db"
    pycolmap.extract_features(database, images, camera_mode=pycolmap.CameraMode.SINGLE)
    pycolmap.match_exhaustive(database)
    models = pycolmap.incremental_mapping(database, images, folder)
    largest = max(models.values(), key=lambda model: model.num_reg_images())
    largest.write(folder)
    pycolmap.undistort_images(folder / "undistorted", folder, images)

    photos = json.loads((prepared / "photos.json").read_text(encoding="utf-8"))["photos"]
    task = Task(images=images, photos=photos, params=_params("sfm", preset), threads=1, output=folder, scratch=folder)
    task.read_ids()
    evidence = gather_evidence(task, [largest])
    return _figures(
        {
            "photos_given": len(photos),
            "photos_registered": largest.num_reg_images(),
            "photos_supported": sum(photo.supported for photo in evidence.values()),
            "points": largest.num_points3D(),
            "reprojection_error_px": round(largest.compute_mean_reprojection_error(), 4),
            "focal_px": [round(camera.mean_focal_length(), 1) for camera in largest.cameras.values()],
        }
    )


def _figures(metrics: dict[str, Any]) -> dict[str, Any]:
    names = ("given", "registered", "supported")
    kept = [*(f"photos_{name}" for name in names), "points", "reprojection_error_px", "focal_px"]
    return {name: metrics[name] for name in kept}


def _params(stage: str, preset: str) -> Any:
    return STAGES[stage].resolve(preset, {})


def _context(
    stage: Any, preset: str, folder: Path, *, capture: Path | None = None, prepared: Path | None = None
) -> StageContext:
    folder.mkdir()
    params = _params(stage, preset)
    request = Request(stage=stage, stage_version=1, key="bench", attempt=1, params=params.model_dump())
    inputs: dict[Any, Any] = {"ingest": SimpleNamespace(folder=prepared)} if prepared else {}
    store = ArtifactStore.open((folder / "store").as_uri())
    photos = None
    if capture:
        storage = open_storage(capture.as_uri())
        photos = fetch_capture(storage, list_capture_files(storage), folder / "capture")
    return StageContext(store=store, request=request, params=params, inputs=inputs, capture=photos, folder=folder)


if __name__ == "__main__":
    sys.exit(main())
