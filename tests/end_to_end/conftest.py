"""A whole Airflow as `airflow standalone` starts it: scheduler, triggerer, DAG processor and API server."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.collector import Collector
from tests.conftest import ROOT, TOLD_IMAGE, free_port, until
from tests.provider.conftest import Script, told_container, told_pods, told_profiles
from tests.web import Web

ENDS = ("success", "failed")
COMPONENTS = ("api-server", "scheduler", "triggerer", "dag-processor")
# Airflow's own way to settle what DAGs leave open to whoever runs it: here, that a test waits a second for a retry.
POLICY = """
import datetime as dt

def task_policy(task):
    task.retry_delay = dt.timedelta(seconds=1)
"""


class Airflow:
    """A running Airflow, spoken to over REST."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._token = ""

    def call(self, method: str, path: str, body: dict[str, Any] | None = None, *, api: str = "/api/v2") -> Any:
        """One request; JSON in, JSON out.

        :param api: Airflow's own, or `/e2e3d/api`, which our pages ask.
        :raises urllib.error.HTTPError: as the server says.
        """
        if not self._token:
            with urllib.request.urlopen(f"{self.url}/auth/token", timeout=30) as answer:
                self._token = json.load(answer)["access_token"]
        request = urllib.request.Request(
            f"{self.url}{api}{path}",
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def trigger(self, dag: str = "reconstruct", **conf: Any) -> str:
        """Start a run of a DAG; its id."""
        run: dict[str, Any] = self.call("POST", f"/dags/{dag}/dagRuns", {"logical_date": None, "conf": conf})
        return str(run["dag_run_id"])

    def task(self, run: str, task: str, dag: str = "reconstruct") -> dict[str, Any]:
        """One task instance."""
        found: dict[str, Any] = self.call("GET", f"/dags/{dag}/dagRuns/{run}/taskInstances/{task}")
        return found

    def log(self, place: Path, run: str, task: str, attempt: int, dag: str = "reconstruct") -> str:
        """What one try of a task has logged so far."""
        file = place / f"home/logs/dag_id={dag}/run_id={run}/task_id={task}/attempt={attempt}.log"
        return file.read_text() if file.exists() else ""

    def state(self, run: str, dag: str = "reconstruct") -> str:
        """How a run is."""
        return str(self.call("GET", f"/dags/{dag}/dagRuns/{run}")["state"])

    def end_of(self, run: str, dag: str = "reconstruct", seconds: float = 180) -> str:
        """Wait until a run is over; how it ended."""
        deadline = time.monotonic() + seconds
        while (state := self.state(run, dag)) not in ENDS:
            assert time.monotonic() < deadline, f"{run} is {state} after {seconds:g} s"
            # Answering takes the cores that the run needs.
            time.sleep(0.5)
        return state

    def runs(self, dag: str) -> dict[str, str]:
        """State by id of every run of a DAG."""
        found = self.call("GET", f"/dags/{dag}/dagRuns?limit=100")["dag_runs"]
        return {run["dag_run_id"]: run["state"] for run in found}


class Standalone(Airflow):
    """`airflow standalone`, whose components can be killed; it does not start anew what was.

    :param environment: with which it was started.
    :param log: where it writes to.
    """

    def __init__(self, url: str, process: subprocess.Popen[bytes], environment: dict[str, str], log: Path) -> None:
        super().__init__(url)
        self.process = process
        self.environment = environment
        self.output = log
        self._started = [process]

    def kill(self, component: str) -> None:
        """End a component and all that it started, without a word."""
        started = [psutil.Process(process.pid) for process in self._started]
        alive = [it for it in (*started, *started[0].children()) if it.status() != psutil.STATUS_ZOMBIE]
        (found,) = (it for it in alive if component in it.cmdline())
        for process in (found, *found.children(recursive=True)):
            process.kill()

    def start(self, component: str) -> None:
        """Start a component that was killed."""
        command = [Path(sys.executable).with_name("airflow"), component]
        with self.output.open("a") as log:
            self._started.append(
                subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
            )

    def restart(self) -> None:
        """End everything at once, as a machine's end does, and start each component anew."""
        self.stop()
        self._started.clear()
        for component in COMPONENTS:
            self.start(component)

    def stop(self) -> None:
        """End everything at once; in good order it would take many seconds."""
        started = [psutil.Process(process.pid) for process in self._started]
        for process in [*started, *(child for each in started for child in each.children(recursive=True))]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for popen in self._started:
            popen.wait(30)


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a capture, for a profile whose stage programs do what the test says."""
    folder = tmp_path_factory.mktemp("standalone")
    (folder / "captures" / "statue").mkdir(parents=True)
    (folder / "captures" / "statue" / "1.jpg").write_bytes(b"a photo")
    return folder


@pytest.fixture(scope="package")
def script(place: Path) -> Script:
    """What the stage programs are told."""
    return Script(place / "script")


def settings(place: Path) -> tuple[str, dict[str, str]]:
    """Address and environment of an Airflow with its home in a folder, and its profiles beside it."""
    port, *others = (free_port() for _ in range(4))
    home = place / "home"
    home.mkdir()
    url = f"http://127.0.0.1:{port}"
    return url, {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__PARALLELISM": "3",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__E2E3D__CLEANUP_SCHEDULE": "",
        "AIRFLOW__E2E3D__PROFILES_FILE": str(place / "profiles.yaml"),
        "AIRFLOW__E2E3D__WATCH_CAPTURES": (place / "captures" / "uploads").as_uri(),
        "AIRFLOW__E2E3D__WATCH_POLL_SECONDS": "2",
        "AIRFLOW__E2E3D__WATCH_QUIET_SECONDS": "5",
        # Files that stay as they are need not be read all the time.
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "120",
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(others[0]),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(others[1]),
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(others[2]),
        # How soon a task follows the one before it.
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
        "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
        # When the next triggerer takes over what a dead one had.
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "8",
        # Seconds that a task waits for an answer of the api-server: 5 are too few on a busy machine.
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
    }


@pytest.fixture(scope="package")
def told() -> Iterator[Web]:
    """A web server that Airflow tells of every end."""
    server = Web()
    yield server
    server.server.shutdown()


@pytest.fixture(scope="package")
def collector(place: Path) -> Iterator[Collector]:
    """Where Airflow sends the traces of its runs."""
    made = Collector(place / "traces.json")
    yield made
    made.server.shutdown()


@pytest.fixture(scope="package")
def airflow(place: Path, script: Script, told: Web, collector: Collector) -> Iterator[Standalone]:
    """Airflow's own components, healthy, with the provider's DAGs; one for the tests of every module."""
    told_profiles(place / "profiles.yaml", place / "captures", script)
    containers = {
        "store": (place / "container store").as_uri(),
        "captures": [(place / "captures").as_uri()],
        "preset": "draft",
        "stages": {"default": {"backend": "docker", "image": TOLD_IMAGE, **told_container(script)}},
    }
    # A test that wants pods starts a cluster, and leaves there how to reach it.
    (place / "pods").mkdir()
    told_of_pods = told_pods(script, place / "kubeconfig", place / "pods", place / "captures")
    pods = {
        **containers,
        "store": (place / "pods").as_uri(),
        "stages": {"default": {"backend": "kubernetes", "image": TOLD_IMAGE, **told_of_pods}},
    }
    with (place / "profiles.yaml").open("a") as file:
        yaml.safe_dump({"docker": containers, "kubernetes": pods}, file)
    url, environment = settings(place)
    environment |= collector.environment
    environment["AIRFLOW_CONN_A_HOOK"] = json.dumps({"conn_type": "http", "host": f"{told.url}/hook"})
    environment["AIRFLOW__E2E3D__NOTIFY_WEBHOOK_CONN_ID"] = "a_hook"
    # Batches of more scenes have several pages.
    environment["AIRFLOW__CORE__MAX_MAP_LENGTH"] = "3"
    environment["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"] = with_own_dags(place)
    (place / "home" / "config").mkdir()
    (place / "home" / "config" / "airflow_local_settings.py").write_text(POLICY)
    with (place / "standalone.log").open("w") as log:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("airflow"), "standalone"],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    running = Standalone(url, process, environment, place / "standalone.log")
    try:
        until(lambda: is_ready(running), 240)
        yield running
    finally:
        running.stop()


def with_own_dags(place: Path) -> str:
    """The bundles: the provider's, and one with the docs' example that watches uploads and a DAG of the tests' own."""
    (place / "own").mkdir()
    shutil.copy(Path(__file__).with_name("three_places.py"), place / "own")
    example = (ROOT / "docs" / "examples" / "on_my_uploads.py").read_text()
    uploads = (place / "captures" / "uploads").as_uri()
    example = example.replace("/data/captures/drone", uploads).replace("min_photos=20", "min_photos=20, poll_seconds=5")
    (place / "own" / "on_my_uploads.py").write_text(example)
    own = {
        "name": "own",
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(place / "own")},
    }
    return json.dumps([*json.loads(os.environ["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"]), own])


def is_ready(running: Airflow) -> bool:
    """Whether it answers and knows the DAGs."""
    try:
        return all(running.call("GET", f"/dags/{dag}")["dag_id"] for dag in ("reconstruct", "reconstruct_batch"))
    except (OSError, urllib.error.URLError, ValueError):
        return False
