"""What metrics, traces and lineage cost a run together: Airflow's own share, with and without them, in pairs.

The stages' programs do nothing here: what they do costs the same either way. To say what share of a run it is, give the
seconds that one takes.

python bench/observing.py [PAIRS [SECONDS]]
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

AIRFLOW = Path(sys.executable).with_name("airflow")


def main(pairs: str = "5", seconds: str = "") -> None:
    """Run them in turns, the first of a pair being the other one each time, and print medians as JSON.

    :param seconds: that a run with programs that work takes.
    """
    from tests.collector import Collector
    from tests.provider.conftest import Script, told_profiles

    with tempfile.TemporaryDirectory() as name, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        home = Path(name)
        statsd.bind(("127.0.0.1", 0))
        collector = Collector(home / "traces.json")
        environment = {
            **os.environ,
            "AIRFLOW_HOME": name,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__E2E3D__PROFILES_FILE": str(home / "profiles.yaml"),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        (home / "captures" / "statue").mkdir(parents=True)
        (home / "captures" / "statue" / "1.jpg").write_bytes(b"a photo")
        told_profiles(home / "profiles.yaml", home / "captures", Script(home / "script"))
        observed = {
            **collector.environment,
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(statsd.getsockname()[1]),
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
                {"type": "file", "log_file_path": str(home / "lineage.json"), "append": True}
            ),
        }
        subprocess.run([AIRFLOW, "db", "migrate"], env=environment, check=True, capture_output=True)
        # What is read for the first time takes longer.
        run(home, environment)
        found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
        for pair in range(int(pairs)):
            for on in (False, True) if pair % 2 else (True, False):
                found[on].append(run(home, {**environment, **(observed if on else {})}))
        told = {
            "spans": len(collector.spans()),
            "lineage_events": len((home / "lineage.json").read_text().splitlines()),
        }
        more = {
            what: round(
                statistics.median(on[what] - off[what] for on, off in zip(found[True], found[False], strict=True)), 2
            )
            for what in found[True][0]
        }
        usual = {what: round(statistics.median(each[what] for each in found[False]), 1) for what in more}
        figures = {"without": usual, "more_with": more, **told, "all": {"with": found[True], "without": found[False]}}
        if seconds:
            figures["percent_more"] = round(100 * more["wall_seconds"] / float(seconds), 2)
        print(json.dumps(figures, indent=1))


def run(home: Path, environment: dict[str, str]) -> dict[str, float]:
    """Make everything anew; seconds of this machine's clock, and of its cores."""
    shutil.rmtree(home / "store", ignore_errors=True)
    conf = json.dumps({"capture": str(home / "captures" / "statue")})
    begun = time.monotonic()
    with (home / "log").open("w") as log:
        command: list[str | Path] = [AIRFLOW, "dags", "test", "reconstruct", "--conf", conf]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        # With all that it started and waited for.
        _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, (home / "log").read_text()[-3000:]
    return {"wall_seconds": time.monotonic() - begun, "cpu_seconds": usage.ru_utime + usage.ru_stime}


if __name__ == "__main__":
    main(*sys.argv[1:])
