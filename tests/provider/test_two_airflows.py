"""Two Airflows on one store, whose runs have the same names: the work is done once, and nothing is mixed up."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import ALWAYS, until
from tests.provider.conftest import Script

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).with_name("another_airflow.py")


class Another:
    """One more Airflow with a home of its own, and its one run."""

    def __init__(self, home: Path, capture: Path, last: str, stale_after: float) -> None:
        self._log = home / "log"
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM, str(stale_after), last, json.dumps({"capture": str(capture)})],
            env={
                **os.environ,
                "AIRFLOW_HOME": str(home),
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
            },
            stdout=self._log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def log(self) -> str:
        return self._log.read_text()


@pytest.fixture
def another(airflow_home: Path, profiles: Path, captures: Path, tmp_path: Path) -> Iterator[Callable[..., Another]]:
    """Starts a run in an Airflow of a name, up to a stage."""
    made: list[Another] = []

    def start(name: str, last: str, stale_after: float = 90) -> Another:
        home = tmp_path / name
        home.mkdir()
        shutil.copy(airflow_home / "airflow.db", home)
        made.append(Another(home, captures / "statue", last, stale_after))
        return made[-1]

    yield start
    for each in made:
        if each.process.poll() is None:
            os.killpg(each.process.pid, signal.SIGKILL)


@pytest.mark.soak
def test_the_second_waits_for_the_first_and_takes_its_artifact(
    another: Callable[..., Another], script: Script, tmp_path: Path
) -> None:
    script["sfm"] = ["wait"]
    first = another("first", "publish")
    until(lambda: "sfm" in script.calls, 300)
    second = another("second", "publish")
    until(lambda: "is making it" in second.log, 300)
    assert "Reattached" not in second.log
    (script.folder / "go on").touch()
    assert (first.process.wait(300), second.process.wait(300)) == (0, 0), first.log + second.log
    assert sorted(script.calls) == sorted(ALWAYS)
    scene = tmp_path / "store" / "scenes" / "statue"
    runs = {run.parent.name: json.loads(run.read_text()) for run in scene.glob("*/run.json")}
    assert len(runs) == 2, "one run's results lie over the other's"
    assert all(run["run"] == name for name, run in runs.items())
    latest = json.loads((scene / "latest.json").read_text())
    assert latest["started"] == max(run["started"] for run in runs.values())


def test_when_the_first_dies_with_its_program_the_second_takes_over(
    another: Callable[..., Another], script: Script, tmp_path: Path
) -> None:
    script["train"] = ["wait", "succeed"]
    first = another("first", "train")
    until(lambda: "train" in script.calls, 300)
    # The living program is heard of every 2 seconds.
    second = another("second", "train", stale_after=8)
    until(lambda: "is making it" in second.log, 300)
    assert "Reattached" not in second.log
    first.process.kill()
    kill_program(tmp_path, "train")
    assert second.process.wait(300) == 0, second.log
    assert "Attempt 2 on backend local" in second.log
    assert script.calls.count("train") == 2


def kill_program(folder: Path, stage: str) -> None:
    """End a stage's program as a crash of its machine does."""
    for process in psutil.process_iter(["cmdline"]):
        if f"{folder.name}/store/artifacts/{stage}/" in " ".join(process.info["cmdline"] or []):
            process.kill()
