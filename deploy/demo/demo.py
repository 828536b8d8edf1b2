"""`make demo` and `make ui`: the reconstruct DAG in an Airflow of its own, in .demo, without Docker or a server."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from e2e3d_stages.contract import figures
from e2e3d_stages.contract.messages import Progress
from e2e3d_stages.contract.spec import PRESETS
from e2e3d_stages.registry import STAGES
from e2e3d_stages.store.artifacts import ArtifactStore

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".demo"
SAMPLE = ROOT / "sample"
AIRFLOW = Path(sys.executable).with_name("airflow")
# Between two lines where the output is no terminal.
QUIET_SECONDS = 10.0


def main() -> int:
    """Run one capture, or Airflow's UI."""
    parser = argparse.ArgumentParser(description="Photos in, a scene out, on this machine.")
    parser.add_argument("what", choices=["run", "ui"])
    parser.add_argument("--capture", type=Path, default=SAMPLE / "caliterra" / "images", help="folder or zip of photos")
    parser.add_argument("--preset", choices=PRESETS, default="draft")
    options = parser.parse_args()
    capture = options.capture.expanduser().resolve()
    if not capture.exists():
        print(f"There is nothing at {capture}. Say where the photos are: make demo CAPTURE=path/to/photos")
        return 2
    HOME.mkdir(exist_ok=True)
    environment = _environment(capture)
    _prepare_database(environment)
    return _run(capture, options.preset, environment) if options.what == "run" else _ui(capture, environment)


def _environment(capture: Path) -> dict[str, str]:
    bundle = [{"name": "e2e3d", "classpath": "airflow_provider_e2e3d.bundle.E2E3DDagBundle", "kwargs": {}}]
    return {
        **os.environ,
        "PATH": f"{AIRFLOW.parent}{os.pathsep}{os.environ['PATH']}",
        "AIRFLOW_HOME": str(HOME),
        # There is no login, so nobody but this machine may ask.
        "AIRFLOW__API__HOST": "127.0.0.1",
        # Airflow builds its execution API at its first request, for longer than a task would wait.
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
        # While stages use every core; a DAG that is not read in within 50 is gone from the UI.
        "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "300",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundle),
        "AIRFLOW__E2E3D__PROFILES_FILE": str(Path(__file__).with_name("profiles.yaml")),
        "E2E3D_SAMPLE": str(SAMPLE),
        "E2E3D_CAPTURES": str(capture.parent),
    }


def _prepare_database(environment: dict[str, str]) -> None:
    if (HOME / "migrated").exists():
        return
    print("Preparing Airflow's database in .demo …", flush=True)
    with (HOME / "migrate.log").open("w") as log:
        subprocess.run([AIRFLOW, "db", "migrate"], env=environment, stdout=log, stderr=log, check=True)
    (HOME / "migrated").touch()


def _ui(capture: Path, environment: dict[str, str]) -> int:
    print("Airflow is starting, which takes a minute. Then open http://localhost:8080/dags/reconstruct (no login),")
    print("press Trigger, and give the capture:")
    print(f"    {capture}")
    print("What `make demo` made is under Scenes. Ctrl-C ends it.", flush=True)
    try:
        return subprocess.run([AIRFLOW, "standalone"], env=environment, check=False).returncode
    except KeyboardInterrupt:
        return 0


def _run(capture: Path, preset: str, environment: dict[str, str]) -> int:
    conf = json.dumps({"capture": str(capture), "preset": preset})
    log_file = HOME / "run.log"
    started = time.time()
    print(f"{capture} → its stages in Airflow (log: {log_file})")
    with log_file.open("w") as log:
        command: list[str | Path] = [AIRFLOW, "dags", "test", "reconstruct", "--conf", conf]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            watch = _Watch(started)
            while process.poll() is None:
                watch.show()
                time.sleep(1)
            watch.show()
        except KeyboardInterrupt:
            process.wait()
            return 130
    print()
    if process.returncode:
        _explain(log_file)
        return 1
    return _summary(started)


class _Watch:
    """The newest progress of the attempt that is running, one line a stage."""

    def __init__(self, started: float) -> None:
        self._store = ArtifactStore.open((HOME / "store").as_uri())
        self._started = started
        self._shown: Progress | None = None
        self._printed = 0.0
        self._tty = sys.stdout.isatty()

    def show(self) -> None:
        progress = self._newest()
        if progress is None or progress == self._shown:
            return
        new_stage = self._shown is None or self._shown.stage != progress.stage
        if self._tty:
            print("\n" if new_stage else "\r\033[K", end="")
            # A line that wraps could not be written over.
            print(self._line(progress)[: shutil.get_terminal_size().columns - 1], end="", flush=True)
        elif new_stage or time.monotonic() - self._printed > QUIET_SECONDS:
            print(self._line(progress), flush=True)
        else:
            return
        self._shown, self._printed = progress, time.monotonic()

    def _line(self, progress: Progress) -> str:
        return f"  {STAGES[progress.stage].work:21} {progress}"

    def _newest(self) -> Progress | None:
        found = [
            progress
            for stage in STAGES
            for key in self._store.storage.folders(f"artifacts/{stage}")
            if (progress := self._store.progress(stage, key, self._store.last_attempt(stage, key)))
            and progress.updated.timestamp() > self._started
        ]
        return max(found, key=lambda progress: progress.updated, default=None)


def _explain(log_file: Path) -> None:
    """The reason why the run failed, in the words of the exception that ended it."""
    told = re.findall(
        r"^airflow_provider_e2e3d\.exceptions\.\w+: (.*?)(?=^\d{4}-\d\d-\d\dT)", log_file.read_text(), re.M | re.S
    )
    print(told[-1].strip() if told else "The run failed for a reason that only its log tells.")
    print(f"The whole log: {log_file}")


def _summary(started: float) -> int:
    latest = max((HOME / "store" / "scenes").glob("*/latest.json"), key=lambda file: file.stat().st_mtime)
    record = json.loads(latest.read_text())
    reused = [stage for stage, made in record["stages"].items() if made["reused"]]
    page = latest.parent / record["run"] / "index.html"
    known = figures.lines({**record, "seconds": time.time() - started})
    if reused:
        known["Reused"] = ", ".join(reused)
    print(record["scene"])
    for label, text in known.items():
        print(f"  {label:13} {text}")
    for made in record["stages"].values():
        for warning in made["warnings"]:
            print(f"Warning: {warning['message']} {warning['advice']}")
    print(f"The scene:  {page}")
    print(f"The report: {page.with_name('report.html')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
