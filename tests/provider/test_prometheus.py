"""A real Prometheus with the platform's rules: a real run answers every question of every dashboard and alert."""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml

from airflow_provider_e2e3d import metrics
from tests.airflow_runs import Outcome
from tests.browser import needed
from tests.conftest import ROOT, free_port
from tests.provider.conftest import Script
from tests.provider.test_metrics import counted
from tests.statsd_exporter import StatsdExporter
from tests.test_monitoring import MONITORING, asked, rules

IMAGE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["prometheus"]["image"]

pytestmark = pytest.mark.slow


class Prometheus:
    """The server that the platform has, asked over HTTP."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/api/v1"

    def ask(self, question: str) -> list[dict[str, Any]]:
        """What it answers now."""
        query = urllib.parse.urlencode({"query": question})
        with urllib.request.urlopen(f"{self.url}/query?{query}", timeout=30) as answer:
            return list(json.load(answer)["data"]["result"])

    def ask_until(self, question: str, enough: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """The same, once it has scraped what was told."""
        until = time.monotonic() + 60
        while not enough(found := self.ask(question)) and time.monotonic() < until:
            time.sleep(0.5)
        return found


@pytest.fixture
def prometheus(engine: docker.APIClient, told: StatsdExporter, tmp_path: Path) -> Iterator[Prometheus]:
    """A Prometheus with the platform's own configuration, which scrapes often what the exporter has."""
    try:
        engine.inspect_image(IMAGE)
    except docker.errors.ImageNotFound:
        try:
            engine.pull(IMAGE)
        except docker.errors.APIError as error:
            needed(None, f"the image {IMAGE} ({error})")
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{told.port}"]}]
    folder = tmp_path / "prometheus"
    folder.mkdir()
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (folder / "rules.yml").write_text((MONITORING / "rules.yml").read_text())
    port = free_port()
    made = engine.create_container(
        IMAGE,
        command=[
            "--config.file=/etc/prometheus/prometheus.yml",
            "--storage.tsdb.path=/tmp/prometheus",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        host_config=engine.create_host_config(network_mode="host", binds=[f"{folder}:/etc/prometheus:ro"]),
    )
    for each in (tmp_path, folder, *folder.iterdir()):
        each.chmod(0o755)
    engine.start(made)
    server = Prometheus(port)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                server.ask("1")
                break
            except OSError:
                assert time.monotonic() < until, engine.logs(made).decode()
                time.sleep(0.5)
        yield server
    finally:
        engine.remove_container(made, v=True, force=True)


def filled_in(question: str) -> str:
    """As Grafana asks it for the last ten minutes."""
    return question.replace("$__range", "10m")


def test_every_question_of_every_dashboard_and_alert_is_answered(
    prometheus: Prometheus,
    run: Callable[..., Outcome],
    script: Script,
    told: StatsdExporter,
) -> None:
    # The first run makes the counters, and the second has them grow; a histogram begins with its first value.
    assert run("publish").state == "success"
    counted(told, metrics.SCENES)
    prometheus.ask_until(metrics.SCENE_DURATION.prometheus + "_count", bool)
    script["train"] = ["succeed", "crash", "succeed"]
    assert run("publish", force=["ingest"]).state == "success"
    # What the stage programs here do not measure.
    metrics.scene_succeeded({"psnr": 30.1, "gaussians": 1000, "sog_bytes": 12_000}, 60)
    counted(told, metrics.SCENES)
    twice = prometheus.ask_until(
        f"{metrics.SCENE_DURATION.prometheus}_count", lambda found: bool(found) and float(found[0]["value"][1]) == 3
    )
    assert twice
    alerts = {rule["alert"] for rule in rules()}
    for who, question in asked().items():
        # An alert's question has an answer where something is wrong.
        question = question.rpartition(" > ")[0] or question.rpartition(" < ")[0] if who in alerts else question
        if who != "AirflowSilent":
            assert prometheus.ask(filled_in(question)), f"{who} asks for what nobody tells: {question}"
    numbers = {who: [float(each["value"][1]) for each in prometheus.ask(filled_in(asked()[who]))] for who in asked()}
    assert numbers["operations: Scenes made"][0] > 0
    assert any(number > 0 for number in numbers["operations: Retries an hour"])
    assert all(number > 0 for number in numbers["scene: Where the time goes"])
    firing = {rule["alert"] for rule in rules() if prometheus.ask(rule["expr"])}
    # No scheduler runs here; a disk that is full is this machine's.
    assert firing - {"DiskFull"} == {"AirflowSilent"}


def broken_scenes() -> None:
    """Two of four scenes fail for reasons that are not their photos'."""
    for code in ("crash", "infrastructure"):
        metrics.SCENES.tell(result="succeeded", code="none")
        metrics.SCENES.tell(result="failed", code=code)


BREAKS: dict[str, Callable[[StatsdExporter], object]] = {
    "ScenesFail": lambda _told: broken_scenes(),
    "StageStuck": lambda _told: metrics.JOB_SECONDS.tell(15, stage="train", backend="local", state="stuck"),
    "StoreAway": lambda _told: metrics.UNANSWERED.tell(by="store"),
    "BackendAway": lambda _told: metrics.UNANSWERED.tell(by="backend"),
    "InfrastructureFails": lambda _told: metrics.RETRIES.tell(3, stage="train", code="infrastructure"),
    "MoneyADay": lambda _told: metrics.COST.tell(150, stage="train", backend="local"),
    "DiskFull": lambda told: setattr(told, "free_share", 0.05),
}


def test_every_alert_fires_when_what_it_watches_is_broken_and_not_before(
    prometheus: Prometheus,
    told: StatsdExporter,
) -> None:
    told.free_share = 0.5
    metrics.begin_run()
    metrics.begin_attempt("train", "local")
    # A scheduler's heartbeat, as Airflow tells it.
    beat = {"airflow_scheduler_heartbeat": {(): 1.0}}
    told.kinds["airflow_scheduler_heartbeat"] = "counter"
    told.samples.update(beat)
    expressions = {rule["alert"]: rule["expr"] for rule in rules()}
    prometheus.ask_until("count(airflow_e2e3d_unanswered_total)", bool)
    prometheus.ask_until("count_over_time(airflow_scheduler_heartbeat[1m]) > 1", bool)
    told.samples["airflow_scheduler_heartbeat"][()] = 5.0
    prometheus.ask_until("increase(airflow_scheduler_heartbeat[5m]) > 0", bool)
    assert {name for name, question in expressions.items() if prometheus.ask(question)} == set()
    for what in BREAKS.values():
        what(told)
    for name in BREAKS:
        assert prometheus.ask_until(expressions[name], bool), f"{name} does not fire"
    # The scheduler was heard of all the time.
    assert not prometheus.ask(expressions["AirflowSilent"])
    assert set(BREAKS) | {"AirflowSilent"} == set(expressions)
