"""Run structure from motion in a child process, watch over it, and report what it found."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from e2e3d_stages.contract.messages import (
    Failure,
    FailureCode,
    InvalidRequest,
    OutOfMemory,
    StageError,
    UnreadableCapture,
)
from e2e3d_stages.contract.paths import safe_path
from e2e3d_stages.runtime.context import StageContext
from e2e3d_stages.sfm.measured import place_in, read_measured
from e2e3d_stages.sfm.params import Params

CHILD = "e2e3d_stages.sfm.reconstruct"
POLL_SECONDS = 0.2
LOG_LINES = 15
NAMED_IN_WARNING = 10
SECOND_MODEL_SHARE = 0.3


def run(context: StageContext) -> dict[str, Any]:
    """Write undistorted photos and their masks, the sparse model, and what there is to know of both as JSON.

    Poses that came with the capture are taken over as they are.

    Whatever was found is committed, nothing included: whether it is enough is for the operator's gate to say.

    :return: photos given, registered and supported, models, points, reprojection error, GPS residual and more.
    :raises OutOfMemory: the child was killed, or could not allocate.
    :raises UnreadableCapture: the poses that came with the capture are no model.
    :raises InvalidRequest: photos do not show the distance that was measured.
    :raises StageError: the child ended in any other way.
    """
    record = json.loads((context.inputs["ingest"].folder / "photos.json").read_text(encoding="utf-8"))
    for photo in record["photos"]:
        # COLMAP joins them to the photos' folder.
        safe_path(photo["name"])
    if context.params.measured:
        # Before hours of work that would end in the same words.
        for sighting in sum(read_measured(context.params.measured).ends, ()):
            place_in(sighting, record["photos"])
    poses = context.inputs["ingest"].folder / "poses"
    masks = context.inputs["ingest"].folder / "masks"
    task = {
        "images": str(context.inputs["ingest"].folder / "images"),
        "photos": record["photos"],
        "poses": str(poses) if poses.is_dir() else None,
        "masks": str(masks) if masks.is_dir() else None,
        "cut_out": record.get("masks", {}).get("cut_out", False),
        "positions": record.get("positions"),
        "params": context.params.model_dump(),
        "threads": context.threads,
        "output": str(context.output),
        "scratch": str(context.scratch),
    }
    (context.scratch / "task.json").write_text(json.dumps(task), encoding="utf-8")
    supervise([sys.executable, "-m", CHILD, str(context.scratch / "task.json")], context)
    metrics: dict[str, Any] = json.loads((context.scratch / "metrics.json").read_text(encoding="utf-8"))
    _warn(context, metrics)
    return metrics


def supervise(command: list[str], context: StageContext) -> None:
    """Run the child to its end: pass its progress on, stop it when the stage is stopped, name how it failed.

    pycolmap ends the whole process on some errors, out of any `except`'s reach; hence a process of its own.
    """
    log_path, events = context.scratch / "child.log", _Events(context.scratch / "events.jsonl", context)
    with log_path.open("wb") as log:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            while child.poll() is None and not context.stopping:
                time.sleep(POLL_SECONDS)
                events.pass_on()
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()
    context.check_stop()
    events.pass_on()
    if child.returncode:
        raise _failure(child.returncode, log_path, context.scratch / "failure.json")


class _Events:
    """The child's progress, one JSON object a line, read as it grows."""

    def __init__(self, path: Path, context: StageContext) -> None:
        path.touch()
        self._file = path.open(encoding="utf-8")
        self._context = context
        self._rest = ""

    def pass_on(self) -> None:
        lines = (self._rest + self._file.read()).split("\n")
        self._rest = lines.pop()
        for line in lines:
            event = json.loads(line)
            self._context.progress(event["done"], event["total"], event["unit"], phase=event["phase"])


def _failure(returncode: int, log_path: Path, told: Path) -> StageError:
    if told.exists():
        failure = Failure.model_validate_json(told.read_bytes())
        kind = InvalidRequest if failure.code is FailureCode.INVALID_REQUEST else UnreadableCapture
        return kind(failure.message, hint=failure.hint)
    lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
    text = "\n".join(lines)
    if returncode == -signal.SIGKILL or "bad_alloc" in text or "MemoryError" in text:
        return OutOfMemory(
            "Structure from motion ran out of memory (its process was killed).",
            hint="Choose a smaller preset, fewer features a photo (sfm_max_features), smaller photos "
            "(ingest_max_size), or a machine with more memory.",
            details={"log": lines},
        )
    how = f"signal {signal.Signals(-returncode).name}" if returncode < 0 else f"status {returncode}"
    return StageError(
        f"Structure from motion ended with {how}: {lines[-1] if lines else 'it left no message'}",
        hint="This is a fault of the program and not of your photos: clear the task to try again. If it fails again, "
        "give the task's log to whoever runs this Airflow.",
        details={"log": lines},
    )


def _warn(context: StageContext, metrics: dict[str, Any]) -> None:
    photos = json.loads((context.output / "photos.json").read_text(encoding="utf-8"))
    unused = [photo for photo in photos if not photo["supported"]]
    if unused:
        named = "; ".join(f"{photo['source']}: {photo['reason']}" for photo in unused[:NAMED_IN_WARNING])
        more = f"; and {len(unused) - NAMED_IN_WARNING} more" if len(unused) > NAMED_IN_WARNING else ""
        context.warn(
            "photos_not_used",
            f"{len(unused)} of {len(photos)} photos are not used. {named}{more}.",
            "Take sharp photos in small steps, so that each shows most of what its neighbours show.",
        )
    if metrics["second_model_photos"] >= SECOND_MODEL_SHARE * max(metrics["photos_registered"], 1):
        context.warn(
            "capture_in_parts",
            f"{metrics['second_model_photos']} photos are of parts that do not connect with the largest one, "
            "which is used.",
            "Add photos that show the way from one part to the other.",
        )
    if metrics["masks_left_out"]:
        context.warn(
            "masks_left_out",
            "By what their masks keep, too few photos found a place: poses were found by all that the photos show.",
            "Nothing to do if camera and surroundings stood to each other as the photos show. On a turntable they did "
            "not: then draw larger masks, or stick something with a pattern to the turntable.",
        )
    if metrics["fisheye"]:
        context.warn(
            "fisheye",
            "A fisheye lens explains the photos best: they were straightened, and lost their edges.",
            "Nothing to do. More of them is used where the camera takes them with a linear field of view.",
        )
    if metrics["still_left_out"]:
        context.warn(
            "background_stood_still",
            "Something turned before a background that stood still: poses were found by what moved.",
            "On a turntable, add masks of the thing: what stood still is around it in all photos and spoils the scene. "
            "If it was the camera that moved, it was by too little: walk around, in larger steps.",
        )
    _warn_of_scale(context, metrics)


def _warn_of_scale(context: StageContext, metrics: dict[str, Any]) -> None:
    """What was told of metres, and is not what gives the scene its own."""
    if metrics.get("positions_problem"):
        context.warn(
            "positions_not_used",
            f"The positions that came with the photos give the scene neither scale nor up: "
            f"{metrics['positions_problem']}.",
            "Nothing to do if the scene need not have metres; otherwise export them again, in metres.",
        )
    asked: Params = context.params
    if asked.camera_height and metrics["metres_from"] is None:
        context.warn(
            "camera_height_not_used",
            "The points show no level ground below the cameras, so their height gives the scene no metres.",
            "Take some photos that show the ground, or give photos with GPS or positions.",
        )
    elif asked.camera_height and metrics["metres_from"] != "camera_height":
        context.warn(
            "camera_height_not_needed",
            "The camera height was not used: GPS, positions or a measured distance give the scene its metres.",
            "Nothing to do. What has neither of them is scaled by the camera height.",
        )
    if asked.measured and metrics["metres_from"] in ("gps", "positions"):
        context.warn(
            "measured_not_needed",
            f"The photos' GPS or positions give the scene its metres: by them the distance that was measured as "
            f"{read_measured(asked.measured).metres:g} m has {metrics['measured_m']:.4g} m.",
            "Nothing to do if that is near enough; otherwise take GPS or positions out of the capture: then what was "
            "measured scales the scene.",
        )
    if metrics["gps_problem"] and metrics["gps_photos"]:
        context.warn(
            "gps_not_used",
            f"GPS was not used to place the scene: {metrics['gps_problem']}.",
            "The scene is upright by its photos and has no scale in metres; nothing else depends on GPS."
            if metrics["up_from"] != "positions"
            else "The positions that came with the photos give it its scale; nothing else depends on GPS.",
        )
