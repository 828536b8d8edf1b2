"""Scenes while machines, processes, containers, the store and the disk do what they can: all of them succeed.

`E2E3D_CHAOS_SCENES` says how many `make soak` makes, and `E2E3D_CHAOS_SEED` what is drawn.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
import urllib.error
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import docker
import psutil
import pytest
import yaml

from airflow_provider_e2e3d.scenes.record import read_record
from e2e3d_stages.contract.messages import Manifest
from e2e3d_stages.registry import STAGES
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.opening import open_storage
from tests.clock import FastClock
from tests.conftest import ALWAYS, TOLD_IMAGE
from tests.end_to_end.conftest import ENDS, Airflow, is_ready, settings, until
from tests.faulty_store import FaultyStore
from tests.provider.conftest import Script, told_container, told_profiles
from tests.provider.test_store_faults import artifacts
from tests.soak.test_many_captures import Components

pytestmark = [pytest.mark.soak, pytest.mark.timeout(0)]

SCENES = int(os.environ.get("E2E3D_CHAOS_SCENES", 20))
SEED = int(os.environ.get("E2E3D_CHAOS_SEED", 1))
# Runs that are open; SQLite bears no more.
AT_ONCE = 6
# Every fourth capture is made by two runs at a time, which want the same artifacts.
RIVALS_EVERY = 4
OUTAGE_SECONDS = 180
# Between two of what goes wrong.
PAUSE_SECONDS = (20, 45)
# A stage bears two crashes; what it has of other tries is for what happens to Airflow.
ENDS_A_KEY = 1
# An overtaken job looks for who has overtaken it so often, and the store may be slow in telling.
NOTICED_WITHIN_SECONDS = 60


@dataclass
class Chaos:
    """What goes wrong, and what is to be set right again later.

    :param root: of the store, as jobs are given it.
    :param did: how often each thing went wrong.
    :param ended: how often the worker or the program of a key was ended.
    """

    root: str
    pieces: Components
    faulty: FaultyStore
    engine: docker.APIClient
    draw: random.Random
    did: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    later: list[tuple[float, str, Callable[[], None]]] = field(default_factory=list)

    def go_on(self) -> None:
        """Let one more thing go wrong, after what is due was set right."""
        self.settle(time.monotonic())
        kind = self.draw.choice([self.kill, self.freeze, self.end_a_worker, self.end_a_program, self.pause_a_program])
        if self.draw.random() < 0.4:
            kind = self.trouble_the_store
        kind()
        time.sleep(self.draw.uniform(*PAUSE_SECONDS))

    def settle(self, until_then: float = float("inf")) -> None:
        """Set right what is due."""
        due = [each for each in self.later if each[0] <= until_then]
        self.later = [each for each in self.later if each[0] > until_then]
        for _, _, undo in due:
            with contextlib.suppress(ProcessLookupError, psutil.Error, docker.errors.APIError):
                undo()

    def _undo_in(self, what: str, seconds: tuple[float, float], undo: Callable[[], None]) -> None:
        self.later.append((time.monotonic() + self.draw.uniform(*seconds), what, undo))

    def _component(self) -> str | None:
        """One that nothing is wrong with."""
        name = self.draw.choice(["scheduler", "triggerer", "dag-processor"])
        return None if any(what == name for _, what, _ in self.later) else name

    def kill(self) -> None:
        if name := self._component():
            self.did[f"{name} killed"] += 1
            self.pieces.kill(name)
            self._undo_in(name, (1, 10), partial(self.pieces.start, name))

    def freeze(self) -> None:
        if name := self._component():
            self.did[f"{name} paused"] += 1
            self.pieces.freeze(name)
            self._undo_in(name, (5, 30), partial(self.pieces.freeze, name, thaw=True))

    def _programs(self) -> list[tuple[str, psutil.Process]]:
        """Stage programs that run as processes, with what they work on."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if words and words[-1].startswith(f"{self.root}/artifacts/") and process.parent():
                    found.append((words[-1].split("/")[-4], process))
        return found

    def _containers(self) -> list[tuple[str, str]]:
        """Stages' containers that run, with what they work on."""
        found = self.engine.containers(filters={"label": "e2e3d.request", "status": "running"})
        labels = [(each["Labels"], each["Id"]) for each in found]
        return [(told["e2e3d.key"], name) for told, name in labels if told["e2e3d.request"].startswith(self.root)]

    def _may_end(self, key: str) -> bool:
        if self.ended[key] >= ENDS_A_KEY:
            return False
        self.ended[key] += 1
        return True

    def end_a_worker(self) -> None:
        """SIGKILL to the process of a task that waits for its program."""
        for key, program in self._programs():
            parent = program.parent()
            if parent and parent.pid != os.getpid() and self._may_end(key):
                self.did["worker killed"] += 1
                return parent.kill()
        return None

    def end_a_program(self) -> None:
        """SIGKILL to a program, or to a container of one."""
        for key, container in self._containers():
            if self._may_end(key):
                self.did["container killed"] += 1
                with contextlib.suppress(docker.errors.APIError):
                    self.engine.kill(container)
                return
        for key, program in self._programs():
            if self._may_end(key):
                self.did["program killed"] += 1
                with contextlib.suppress(psutil.Error):
                    program.kill()
                return

    def pause_a_program(self) -> None:
        """Stop a program or a container; now and then for longer than a lease."""
        seconds = self.draw.choice([(5, 20), (5, 20), (100, 130)])
        for _, container in self._containers():
            with contextlib.suppress(docker.errors.APIError):
                self.engine.pause(container)
                self.did["container paused"] += 1
                return self._undo_in(container, seconds, partial(self.engine.unpause, container))
        for _, program in self._programs():
            with contextlib.suppress(psutil.Error):
                program.send_signal(signal.SIGSTOP)
                self.did["program paused"] += 1
                return self._undo_in(str(program.pid), seconds, partial(program.send_signal, signal.SIGCONT))
        return None

    def trouble_the_store(self) -> None:
        """Let a share of its answers fail, and be gone once."""
        if not self.did["store away"] and self.draw.random() < 0.3:
            self.did["store away"] += 1
            self.faulty.away(OUTAGE_SECONDS)
            return
        if any(what == "store" for _, what, _ in self.later):
            return
        kind = self.draw.choice(["busy", "reset", "late", "hang", "trickle", "silence"])
        self.did[f"store: {kind}"] += 1
        self.faulty.fail(**{kind: self.draw.uniform(0.1, 0.4)})
        self._undo_in("store", (5, 20), self.faulty.fail)


@dataclass
class Place:
    """Airflow, captures in a bucket, and what breaks them."""

    folder: Path
    root: str
    direct: dict[str, str]
    script: Script
    airflow: Airflow
    chaos: Chaos

    def capture(self, number: int) -> str:
        """Upload photos of a scene."""
        storage = open_storage(f"{self.root}/captures/scene-{number}", self.direct)
        for photo in range(4):
            storage.write(f"{photo}.jpg", f"{number} {photo}".encode() * 1000)
        return storage.uri

    @property
    def store(self) -> ArtifactStore:
        """What is there, seen undisturbed."""
        return ArtifactStore.open(f"{self.root}/store", self.direct)


@pytest.fixture
def place(s3_root: str, s3_endpoint: str, engine: docker.APIClient, told_image: str, tmp_path: Path) -> Iterator[Place]:
    script = Script(tmp_path / "script")
    for name in ("calls", "scenes", "moments"):
        # Containers run as the image's own user.
        (script.folder / name).touch()
        (script.folder / name).chmod(0o666)
    for stage in STAGES:
        script[stage] = ["labour"]
    # The disk of one attempt is full.
    script["train"] = ["labour", "labour", "fill the disk", "labour"]
    faulty = FaultyStore(s3_endpoint, FastClock(1), SEED)
    told_profiles(tmp_path / "profiles.yaml", tmp_path / "captures", script)
    local = yaml.safe_load((tmp_path / "profiles.yaml").read_text())["local"]
    container = told_container(script)
    scratch = {"target": "/tmp", "source": None, "type": "tmpfs", "tmpfs_size": 4 << 20}
    container["mounts"].append(scratch)
    local |= {"store": f"{s3_root}/store", "captures": [f"{s3_root}/captures"], "store_conn_id": "the_store"}
    local["stages"]["train"] = {"backend": "docker", "image": TOLD_IMAGE, "network_mode": "host", **container}
    (tmp_path / "profiles.yaml").write_text(yaml.safe_dump({"local": local}))
    access = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")}
    connection = {
        "conn_type": "aws",
        "login": access["AWS_ACCESS_KEY_ID"],
        "password": access["AWS_SECRET_ACCESS_KEY"],
        "extra": {"endpoint_url": faulty.url, "region_name": access["AWS_DEFAULT_REGION"]},
    }
    url, environment = settings(tmp_path)
    environment["AIRFLOW_CONN_THE_STORE"] = json.dumps(connection)
    environment["AWS_ENDPOINT_URL_S3"] = faulty.url
    pieces = Components(tmp_path, environment)
    airflow = Airflow(url)
    draw = random.Random(SEED)
    chaos = Chaos(f"{s3_root}/store", pieces, faulty, engine, draw)
    try:
        until(lambda: is_ready(airflow), 300)
        yield Place(tmp_path, s3_root, {**access, "AWS_ENDPOINT_URL_S3": s3_endpoint}, script, airflow, chaos)
    finally:
        chaos.settle()
        pieces.stop()
        for _, program in chaos._programs():
            program.kill()
        for found in engine.containers(all=True, filters={"label": "e2e3d.request"}):
            if found["Labels"]["e2e3d.request"].startswith(chaos.root):
                engine.remove_container(found["Id"], v=True, force=True)
        faulty.close()


def started(airflow: Airflow, scene: str, capture: str) -> bool:
    """Trigger a run that is called like its scene; False while the API is busy."""
    asked = {"dag_run_id": scene, "logical_date": None, "conf": {"capture": capture, "scene": scene}}
    try:
        airflow.call("POST", "/dags/reconstruct/dagRuns", asked)
    except urllib.error.HTTPError as refusal:
        # It may have been started by a request that failed.
        return refusal.code == HTTPStatus.CONFLICT
    except OSError:
        return False
    return True


def asked(airflow: Airflow, run: str) -> str:
    """How a run is, also while the API is busy."""
    try:
        return airflow.state(run)
    except OSError:
        return "unknown"


def worked(script: Script) -> list[dict[str, Any]]:
    """What jobs wrote down of each second of their work, in the order of time."""
    lines = (script.folder / "moments").read_text().splitlines()
    return sorted((json.loads(line) for line in lines), key=lambda moment: float(moment["at"]))


def latest_work_of_overtaken(moments: list[dict[str, Any]]) -> float:
    """For how long, at most, a job worked on after another at its key had begun."""
    begun: dict[str, dict[int, float]] = defaultdict(dict)
    longest = 0.0
    for moment in moments:
        attempts = begun[moment["key"]]
        attempts.setdefault(moment["attempt"], moment["at"])
        later = [since for attempt, since in attempts.items() if attempt > moment["attempt"]]
        longest = max(longest, moment["at"] - min(later, default=moment["at"]))
    return longest


def test_all_scenes_succeed_and_nothing_is_done_twice_or_lost(place: Place) -> None:
    print(f"Seed {SEED}, {SCENES} scenes")
    begun = time.monotonic()
    waiting: list[tuple[str, str]] = []
    for number in range(SCENES):
        capture = place.capture(number)
        waiting.append((f"scene-{number}", capture))
        if number % RIVALS_EVERY == 0:
            waiting.append((f"rival-{number}", capture))
    runs = [scene for scene, _ in waiting]
    states: dict[str, str] = {}
    opened: set[str] = set()
    while set(states) != set(runs):
        assert time.monotonic() - begun < 120 * SCENES + 1200, f"still open: {set(runs) - set(states)}"
        while waiting and len(opened - set(states)) < AT_ONCE and started(place.airflow, *waiting[0]):
            opened.add(waiting.pop(0)[0])
        place.chaos.go_on()
        ended = {run: state for run in opened - set(states) if (state := asked(place.airflow, run)) in ENDS}
        states |= ended
        if ended:
            print(f"{time.monotonic() - begun:5.0f} s: {len(states)} of {len(runs)} runs ended", *ended.items())
    place.chaos.settle()
    place.chaos.faulty.fail()
    moments = worked(place.script)
    made: list[Manifest] = artifacts(place.store)
    tasks = place.airflow.call("GET", "/dags/reconstruct/dagRuns/~/taskInstances?limit=1000")["task_instances"]
    attempts = {(moment["key"], moment["attempt"]) for moment in moments}
    figures = {
        "seed": SEED,
        "scenes": SCENES,
        "runs": dict(Counter(states.values())),
        "seconds": round(time.monotonic() - begun),
        "went wrong": dict(place.chaos.did),
        "requests": dict(place.chaos.faulty.seen),
        "tasks tried again": sum(max(0, task["try_number"] - 1) for task in tasks),
        "attempts": len(attempts),
        "artifacts": len(made),
        "seconds worked": len(moments),
        "overtaken and worked on for": round(latest_work_of_overtaken(moments), 1),
    }
    print(json.dumps(figures, indent=1))
    failed = [(task["dag_run_id"], task["task_id"]) for task in tasks if task["state"] == "failed"]
    assert set(states.values()) == {"success"}, failed
    assert latest_work_of_overtaken(moments) < NOTICED_WITHIN_SECONDS
    # Rivals share what they make but the page, which has their name on it, and each artifact is made once.
    counted = Counter(manifest.stage for manifest in made)
    assert counted == {**dict.fromkeys(STAGES["publish"].inputs, SCENES), "publish": len(runs)}
    assert len({(manifest.stage, manifest.key) for manifest in made}) == len(made)
    for scene in runs:
        latest = json.loads(place.store.storage.read(f"scenes/{scene}/latest.json"))
        record = read_record(place.store.storage, f"scenes/{scene}/{latest['run']}/run.json")
        keys = {stage["key"] for stage in record["stages"].values()}
        assert keys <= {manifest.key for manifest in made}
        assert len(keys) == len(ALWAYS)
