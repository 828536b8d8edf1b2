"""Stands in for `python -m e2e3d_stages`: the real runtime around stage programs that do what a test says.

What to do is read from `$E2E3D_TEST_SCRIPT/<stage>.json`: a list with one word an attempt, the last word repeated.
A capture's own `told.json`, a word by stage, goes before. Each call adds a line to `$E2E3D_TEST_SCRIPT/calls`, and one
with the capture's name to `scenes` beside it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from e2e3d_stages import __main__ as entry_point
from e2e3d_stages.contract.messages import Infrastructure, OutOfMemory, UnreadableCapture
from e2e3d_stages.program import run
from e2e3d_stages.registry import STAGES
from e2e3d_stages.runtime.context import StageContext

SCRIPT = Path(os.environ["E2E3D_TEST_SCRIPT"])
PHOTOS = [{"source": f"{n}.jpg", "supported": n < 2, "reason": "no overlap" if n > 1 else None} for n in range(10)]

# What `labour` takes.
LABOUR_SECONDS = 8


def capture_words(job: StageContext, stage: str) -> dict[str, str]:
    """What the capture itself says, handed on from stage to stage; under `capture` its name."""
    before = [artifact.folder / "told.json" for artifact in job.inputs.values()]
    if job.capture is not None:
        before = [file.path for file in job.capture.files if file.name == "told.json"]
    told = next(iter(before), None)
    words = json.loads(told.read_text()) if told and told.exists() else {}
    words.setdefault("capture", job.capture.name if job.capture is not None else "none")
    (job.output / "told.json").write_text(json.dumps(words))
    with (SCRIPT / "scenes").open("a") as scenes:
        scenes.write(f"{words['capture']}/{stage}\n")
    return words


def script_word(stage: str) -> str:
    """What this call is to do."""
    with (SCRIPT / "calls").open("a") as calls:
        calls.write(stage + "\n")
    file = SCRIPT / f"{stage}.json"
    words: list[str] = json.loads(file.read_text()) if file.exists() else ["succeed"]
    number = (SCRIPT / "calls").read_text().splitlines().count(stage)
    return words[min(number, len(words)) - 1]


def metrics(stage: str, word: str, job: StageContext) -> dict[str, Any]:
    """Numbers that the later stages and the gate read."""
    if stage == "ingest":
        return {"files_given": 10, "photos": 10, "long_side": 4000}
    if stage == "sfm":
        placed = 2 if word == "poor" else 10
        (job.output / "photos.json").write_text(json.dumps(PHOTOS))
        return {
            "photos_given": 10,
            "photos_supported": placed,
            "photos_registered": placed,
            "points_per_photo_median": 500,
            "points": 12_345,
            "reprojection_error_px": 0.6175,
            "turned_share": 0.9 if word == "turned" else 0.05,
        }
    if stage == "render":
        (job.output / "flight.mp4").write_bytes(b"a film of the scene")
    if stage == "publish":
        (job.output / "thumbnail.jpg").write_bytes(b"a picture of the scene")
    return {"word": word, "params": job.params.model_dump(mode="json")}


def fail(error: Exception) -> Callable[[StageContext, str], None]:
    """A word that ends the program so."""

    def word(_job: StageContext, _stage: str) -> None:
        raise error

    return word


def die(job: StageContext, _stage: str) -> None:
    """Be gone after a checkpoint, without a word."""
    with job.checkpoint(120) as folder:
        (folder / "state").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
    # A container's first process cannot kill itself.
    os._exit(128 + signal.SIGKILL)


def wait(job: StageContext, _stage: str) -> None:
    """Work until told to go on."""
    for moment in range(1, 1800):
        job.progress(moment, 1800, "moments", at=time.time())
        if job.stopping:
            with job.checkpoint(moment) as folder:
                (folder / "state").write_text("x")
            (SCRIPT / "stopped").touch()
        job.check_stop()
        if (SCRIPT / "go on").exists():
            break
        time.sleep(0.1)


def work(job: StageContext, _stage: str) -> None:
    """Take a few seconds."""
    for second in range(6):
        job.progress(second, 6, "seconds")
        time.sleep(1)


def labour(job: StageContext, _stage: str) -> None:
    """Work, with a checkpoint every few seconds, and write down in `moments` what was worked on when and by whom."""
    key, _, attempt, _ = sys.argv[-1].split("/")[-4:]
    resumed = job.latest_checkpoint()
    for second in range(resumed[0] if resumed else 0, LABOUR_SECONDS):
        with (SCRIPT / "moments").open("a") as moments:
            moments.write(json.dumps({"key": key, "attempt": int(attempt), "second": second, "at": time.time()}) + "\n")
        job.progress(second, LABOUR_SECONDS, "seconds")
        time.sleep(1)
        if (second + 1) % 3 == 0:
            with job.checkpoint(second + 1) as folder:
                (folder / "state").write_text("x")
        job.check_stop()


def chatter(_job: StageContext, _stage: str) -> None:
    """Write a long log."""
    for number in range(15_000):
        print(f"line {number} {'x' * 50}")


def fill_the_disk(job: StageContext, _stage: str) -> None:
    """Write more than a small scratch folder holds."""
    (job.scratch / "much").write_bytes(bytes(100 << 20))


def write_much(job: StageContext, _stage: str) -> None:
    """Leave a checkpoint and a file that goes to a bucket in parts."""
    with job.checkpoint(10) as folder:
        (folder / "state").write_bytes(bytes(1 << 20))
    (job.output / "much").write_bytes(bytes(range(256)) * 36_000)


def eat_memory(job: StageContext, stage: str) -> None:
    """Need too much memory for what was asked at first, and little for anything smaller."""
    if job.params == STAGES[stage].resolve("draft", {}):
        print(len([bytes(range(256)) * 40_000 for _ in range(1000)]))


WORDS: dict[str, Callable[[StageContext, str], None]] = {
    "unreadable": fail(UnreadableCapture("There are only 2 photos.", hint="Take at least 3.")),
    "out of memory": fail(OutOfMemory("The GPU's memory ran out.")),
    "infrastructure": fail(Infrastructure("The bucket did not answer.")),
    "crash": fail(ZeroDivisionError("division by zero")),
    "die": die,
    "wait": wait,
    "work": work,
    "labour": labour,
    "chatter": chatter,
    "fill the disk": fill_the_disk,
    "eat memory": eat_memory,
    "write much": write_much,
}


def program(stage: str, job: StageContext) -> dict[str, Any]:
    """One stage's program."""
    word = script_word(stage)
    word = capture_words(job, stage).get(stage, word)
    resumed = job.latest_checkpoint()
    print(f"{stage} does {word}, from step {resumed[0] if resumed else 0}", flush=True)
    if word in WORDS:
        WORDS[word](job, stage)
    (job.output / "file").write_text(stage)
    return {**metrics(stage, word, job), "resumed_from": resumed[0] if resumed else 0}


def main() -> int:
    """Behave as `python -m e2e3d_stages run URI`, or as SageMaker's `train`."""
    for stage in STAGES:
        module = types.ModuleType(f"e2e3d_stages.{stage}.stage")
        module.run = lambda job, stage=stage: program(stage, job)  # type: ignore[attr-defined]
        sys.modules[module.__name__] = module
    if speed := os.environ.get("E2E3D_TEST_SPEED"):
        # Not there in the image, where nothing is hurried.
        from tests.clock import FastClock

        FastClock(float(speed)).rule_s3()
    return entry_point.main() if sys.argv[-1] == "train" else run(sys.argv[-1])


if __name__ == "__main__":
    sys.exit(main())
