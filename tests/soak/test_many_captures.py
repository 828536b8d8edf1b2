"""Batches of the size and with the accidents that they meet in earnest."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import moto.core.models
import moto.s3.models
import psutil
import pytest
import yaml
from PIL import Image

from tests.conftest import ALWAYS
from tests.end_to_end.conftest import Airflow, is_ready, settings, until
from tests.end_to_end.test_standalone import task_process
from tests.provider.conftest import Script, told_profiles

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7200)]

GOOD = 54
COMPONENTS = ("api-server", "dag-processor", "scheduler", "triggerer")
# An Airflow that notices soon what died.
WATCHFUL = {
    "AIRFLOW__API_AUTH__JWT_SECRET": "of the test",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "20",
}


class Components:
    """Airflow's components, each a process that can be killed and started anew."""

    def __init__(self, place: Path, environment: dict[str, str]) -> None:
        self.place, self.environment = place, {**environment, **WATCHFUL}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.ever: list[subprocess.Popen[bytes]] = []
        airflow = Path(sys.executable).with_name("airflow")
        subprocess.run([airflow, "db", "migrate"], env=self.environment, check=True, capture_output=True)
        for name in COMPONENTS:
            self.start(name)

    def start(self, name: str) -> None:
        """Start a component."""
        with (self.place / f"{name}.log").open("a") as log:
            self.running[name] = subprocess.Popen(
                [Path(sys.executable).with_name("airflow"), name],
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.ever.append(self.running[name])

    def kill(self, name: str) -> None:
        """SIGKILL, to the process itself as the kernel does it; its children learn nothing."""
        self.running[name].kill()
        self.running[name].wait()

    def freeze(self, name: str, *, thaw: bool = False) -> None:
        """SIGSTOP to all that a component consists of, or SIGCONT."""
        os.killpg(self.running[name].pid, signal.SIGCONT if thaw else signal.SIGSTOP)

    def stop(self) -> None:
        """End them all, and what those that were killed left behind."""
        for process in self.ever:
            for how, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
                try:
                    os.killpg(process.pid, how)
                    process.wait(patience)
                except (ProcessLookupError, subprocess.TimeoutExpired):
                    continue


@pytest.fixture
def components(tmp_path: Path) -> Iterator[tuple[Airflow, Components]]:
    """Airflow, for the profiles in `profiles.yaml`."""
    url, environment = settings(tmp_path)
    started = Components(tmp_path, environment)
    running = Airflow(url)
    try:
        until(lambda: is_ready(running), 300)
        yield running, started
    finally:
        started.stop()


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """What the stage programs are told, and a profile for them."""
    made = Script(tmp_path / "script")
    told_profiles(tmp_path / "profiles.yaml", tmp_path / "captures", made)
    return made


def last_result(place: Path) -> dict[str, Any]:
    """What the newest batch says of itself."""
    newest = max((place / "store" / "batches").glob("*/*/batch.json"), key=lambda file: file.stat().st_mtime)
    found: dict[str, Any] = json.loads(newest.read_text())
    return found


def ended(airflow: Airflow, run: str) -> Callable[[], bool]:
    """Asks whether a batch has, also while the API is busy."""

    def ask() -> bool:
        try:
            return airflow.state(run, "reconstruct_batch") in ("success", "failed")
        except OSError:
            return False

    return ask


def test_a_batch_whose_airflow_is_killed_piece_by_piece_loses_and_repeats_nothing(
    script: Script, components: tuple[Airflow, Components], tmp_path: Path
) -> None:
    airflow, pieces = components
    names = [f"scene-{number}" for number in range(6)]
    for name in names:
        (tmp_path / "captures" / name).mkdir(parents=True)
        (tmp_path / "captures" / name / "1.jpg").write_text(f"a photo of {name}")
    for stage in ("ingest", "train"):
        script[stage] = ["work"]
    run = airflow.trigger("reconstruct_batch", captures=str(tmp_path / "captures"), quiet_seconds=0)

    def after(number: int) -> None:
        until(lambda: len(script.scenes) >= number, 400)

    after(3)
    pieces.kill("scheduler")
    time.sleep(2)
    pieces.start("scheduler")
    after(9)
    pieces.kill("triggerer")
    after(12)
    pieces.start("triggerer")
    until(lambda: any(line.endswith("/train") for line in script.scenes), 400)
    killed = kill_a_worker(tmp_path)
    until(ended(airflow, run), 1500)

    assert airflow.state(run, "reconstruct_batch") == "success"
    assert last_result(tmp_path)["counts"] == {"succeeded": 6}
    assert Counter(script.scenes) == {f"{name}/{stage}": 1 for name in names for stage in ALWAYS}
    assert airflow.runs("reconstruct") == {f"{name}__{run}": "success" for name in names}
    assert not killed.is_running()


def kill_a_worker(place: Path) -> psutil.Process:
    """SIGKILL to the process of a task that waits for its stage program."""
    for _ in range(600):
        for stage in ("train", "ingest"):
            try:
                process = task_process(place, stage)
                process.kill()
            except (AssertionError, psutil.Error):
                continue
            return process
        time.sleep(0.2)
    raise AssertionError("no task waits for its stage program")


# Less than this makes no scene that its gate lets through.
TINY = {
    "ingest_max_size": 480,
    "sfm_max_features": 2048,
    "min_points_per_photo": 30,
    "train_iterations": 30,
    "train_max_gaussians": 2000,
    "train_long_side": 120,
}
# What each broken capture must fail with.
BROKEN = {
    "broken-empty": "unreadable_capture",
    "broken-one-photo": "unreadable_capture",
    "broken-zip": "unreadable_capture",
    "broken-no-photos": "unreadable_capture",
    "broken-same-photo": "unreadable_capture",
    "broken-no-overlap": "quality_gate",
}


def make_captures(folder: Path, sample: Path, good: int) -> None:
    """Crops and subsets of the sample's photos, and six captures that cannot become a scene."""
    photos = sorted(sample.iterdir())
    for number in range(good):
        first, crop = divmod(number, 3)
        capture = folder / f"scene-{number:02}"
        capture.mkdir(parents=True)
        for photo in photos[first : first + 8]:
            with Image.open(photo) as image:
                width, height = image.size
                box = (crop * width // 20, 0, width - (2 - crop) * width // 20, height)
                image.crop(box).resize((720, 540)).save(capture / photo.name, quality=90)
    one = folder / "scene-00" / photos[0].name
    for name in ("broken-one-photo", "broken-no-photos", "broken-same-photo", "broken-no-overlap"):
        (folder / name).mkdir()
    zipfile.ZipFile(folder / "broken-empty.zip", "w").close()
    (folder / "broken-zip.zip").write_bytes(b"PK" + one.read_bytes())
    shutil.copy(one, folder / "broken-one-photo")
    for number in range(8):
        (folder / "broken-no-photos" / f"{number}.jpg").write_text(f"no photo {number}")
        shutil.copy(one, folder / "broken-same-photo" / f"{number}.jpg")
        Image.effect_noise((720, 540), 90).convert("RGB").save(folder / "broken-no-overlap" / f"{number}.jpg")


@pytest.fixture
def sixty(tmp_path: Path, sample: Path) -> Path:
    """The captures, and a profile for them, before Airflow looks at it."""
    make_captures(tmp_path / "captures", sample, GOOD)
    profile = {"store": (tmp_path / "store").as_uri(), "captures": [(tmp_path / "captures").as_uri()]}
    (tmp_path / "profiles.yaml").write_text(yaml.safe_dump({"local": {**profile, "preset": "draft"}}))
    return tmp_path / "captures"


def test_sixty_captures_of_which_six_are_broken_and_then_again(
    sixty: Path, components: tuple[Airflow, Components], tmp_path: Path
) -> None:
    airflow, _ = components
    asked = {"captures": str(sixty), "quiet_seconds": 0, "parameters": TINY}
    started = time.monotonic()
    run = airflow.trigger("reconstruct_batch", **asked)
    until(ended(airflow, run), 7000)
    wall = time.monotonic() - started
    result = last_result(tmp_path)
    stages = sum(
        json.loads(file.read_text())["usage"]["wall_seconds"]
        for file in (tmp_path / "store" / "artifacts").glob("*/*/manifest.json")
    )
    figures: dict[str, Any] = {"wall_seconds": round(wall), "stage_seconds": round(stages), "counts": result["counts"]}
    figures["seconds_a_scene_besides_stages"] = round((wall * 3 - stages) / len(result["rows"]), 1)
    print(json.dumps(figures))
    reasons = {row["scene"]: row["outcome"]["reason"]["code"] for row in result["rows"] if row["state"] == "failed"}
    assert reasons == BROKEN
    assert result["counts"] == {"succeeded": GOOD, "failed": len(BROKEN)}

    runs = airflow.runs("reconstruct")
    again = airflow.trigger("reconstruct_batch", **asked)
    until(ended(airflow, again), 600)
    result = last_result(tmp_path)
    assert result["counts"] == {"reused": GOOD, "failing": len(BROKEN)}
    assert {row["scene"]: row["outcome"]["reason"]["code"] for row in result["rows"] if "reason" in row["outcome"]} == (
        BROKEN
    )
    assert airflow.runs("reconstruct") == runs

    forced = airflow.trigger("reconstruct_batch", **asked, force="failed")
    until(ended(airflow, forced), 1200)
    assert last_result(tmp_path)["counts"] == {"reused": GOOD, "failed": len(BROKEN)}
    assert len(airflow.runs("reconstruct")) == len(runs) + len(BROKEN)


def test_five_thousand_captures_in_a_bucket_are_planned_within_seconds(s3_root: str, tmp_path: Path) -> None:
    bucket, _, prefix = s3_root.removeprefix("s3://").partition("/")
    # The server's own memory: 20,000 uploads would take longer than all that is measured.
    shelf = moto.s3.models.s3_backends[moto.core.models.DEFAULT_ACCOUNT_ID]["aws"]
    for scene in range(5000):
        for photo in range(4):
            shelf.put_object(bucket, f"{prefix}/captures/scene-{scene:04}/{photo}.jpg", f"{scene}".encode())
    (tmp_path / "plan.py").write_text(PLAN_5000)
    done = subprocess.run([sys.executable, tmp_path / "plan.py", s3_root], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    print(told)
    assert told["first"]["counts"] == {"run": 1024, "waiting": 3976}
    assert told["again"]["counts"] == {"reused": 5000}
    for which in ("first", "again"):
        assert told[which]["requests"] == {"HeadBucket": 1, "ListObjectsV2": 20, "GetObject": 1, "PutObject": 1}
        assert told[which]["seconds"] < 20
    assert told["peak_mib"] < 300


# In a process of its own, to see its memory: what the task `plan` does, twice.
PLAN_5000 = """
import json, resource, sys, time
from collections import Counter
from airflow_provider_e2e3d.pipelines.batch.plan import BatchFolder, BatchRequest, plan_batch
from airflow_provider_e2e3d.pipelines.batch.report import ended, recorded
from airflow_provider_e2e3d.scenes.outcome import Outcome
from airflow_provider_e2e3d.profiles.profile import Profile
from e2e3d_stages.store.opening import open_storage
from tests.conftest import ALWAYS

root = sys.argv[1]
calls = Counter()
profile = Profile(store=f"{root}/store", captures=(f"{root}/captures",))

def open_at(uri):
    storage = open_storage(uri)
    storage._client.meta.events.register("before-call.s3", lambda model, **_: calls.update([model.name]))
    return storage

told = {}
for name in ("first", "again"):
    calls.clear()
    started, used = time.monotonic(), time.process_time()
    folder = BatchFolder(open_at(profile.store), f"{root}/captures")
    request = BatchRequest(captures=f"{root}/captures", profile="local", quiet_seconds=0)
    plan = plan_batch(request, name, profile, folder.ledger(), open_at, page_size=1024)
    folder.write_plan(name, plan)
    told[name] = {
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(time.process_time() - used, 1),
        "counts": plan.counts,
        "requests": dict(calls),
    }
    everything = plan_batch(request, name, profile, folder.ledger(), open_at, page_size=5000)
    result = ended(everything, {}, lambda run: Outcome(run=run, state="succeeded", page=f"{root}/store/x/index.html"))
    folder.write_ledger(recorded(folder.ledger(), everything.started, result))
told["peak_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(json.dumps(told))
"""
