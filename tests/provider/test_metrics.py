"""Metrics of ours: told where Airflow tells its own, with few labels, and at no cost where it does not."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from airflow.sdk._shared.observability.metrics import stats

from airflow_provider_e2e3d import metrics
from airflow_provider_e2e3d.jobs import attempt as attempts
from airflow_provider_e2e3d.jobs.attempt import Attempt
from airflow_provider_e2e3d.notifications import notifiers
from airflow_provider_e2e3d.notifications.notifiers import SceneSucceeded
from e2e3d_stages.contract.messages import Infrastructure, Progress, now
from tests.airflow_runs import Outcome
from tests.conftest import ALWAYS
from tests.provider.conftest import Script
from tests.statsd_exporter import StatsdExporter


def counted(exporter: StatsdExporter, metric: metrics.Metric, **labels: str) -> float:
    """A metric's value, with those labels, once what was told has arrived; values of other labels are added up."""
    metrics.PSNR.tell(arrived := time.monotonic())
    # Datagrams on one machine keep their order, but it is another thread that reads them.
    while exporter.samples[metrics.PSNR.prometheus][()] != float(f"{arrived}"):
        assert time.monotonic() < arrived + 60
        time.sleep(0.001)
    assert [line for line in exporter.refused if "e2e3d" in line] == []
    name = metric.prometheus + ("_count" if metric.kind == "duration" else "")
    samples = exporter.samples[name].items()
    return sum(value for found, value in samples if labels.items() <= dict(found).items())


@pytest.mark.slow
def test_a_scene_and_its_stages_are_counted_with_what_they_took_and_a_second_run_as_reuse(
    run: Callable[..., Outcome], script: Script, told: StatsdExporter
) -> None:
    script["train"] = ["crash", "succeed"]
    assert run("publish").state == "success"
    assert counted(told, metrics.SCENES, result="succeeded") == 1
    assert counted(told, metrics.SCENES, result="failed") == 0
    assert counted(told, metrics.SCENE_DURATION) == 1
    assert counted(told, metrics.PHOTOS, result="placed") == 10
    for stage in ALWAYS:
        assert counted(told, metrics.TRIES, stage=stage, backend="local", result="made") == 1
        assert counted(told, metrics.STAGE_DURATION, stage=stage, backend="local") == 1
        assert counted(told, metrics.QUEUE_DURATION, stage=stage, backend="local") == 1
        assert counted(told, metrics.STORED, stage=stage) > 0
        assert counted(told, metrics.JOB_SECONDS, stage=stage, state="running") > 0
    assert counted(told, metrics.TRIES, stage="train") == 2, "one that failed, one that made it"
    assert counted(told, metrics.RETRIES, stage="train", code="crash") == counted(told, metrics.RETRIES) == 1
    assert counted(told, metrics.TRIES, result="reused") == 0
    run("ingest")
    assert counted(told, metrics.TRIES, stage="ingest", result="reused") == 1
    assert counted(told, metrics.TRIES, result="made") == len(ALWAYS)
    # Scenes and runs are told by none of them.
    labels = {name for sample in told.samples.values() for found in sample for name, _ in found}
    assert labels.isdisjoint({"scene", "run_id", "key", "capture"})
    ours = {name for name in told.kinds if name.startswith("airflow_e2e3d_")}
    assert ours <= {metric.prometheus for metric in metrics.METRICS}


@pytest.mark.slow
def test_a_scene_that_fails_is_counted_once_by_its_class_however_often_it_was_tried(
    run: Callable[..., Outcome], script: Script, told: StatsdExporter
) -> None:
    script["sfm"] = ["poor"]
    assert run("sfm").state == "failed"
    assert counted(told, metrics.SCENES, result="failed", code="quality_gate") == 1
    assert counted(told, metrics.SCENES) == 1
    assert counted(told, metrics.TRIES, stage="sfm", result="made") == 1
    assert counted(told, metrics.RETRIES) == 0


def test_a_job_counts_the_time_that_it_waits_runs_and_says_nothing_new(
    told: StatsdExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(attempts, "time", SimpleNamespace(monotonic=lambda: at.now))
    clock = attempts._JobTime("train", "kubernetes")

    def passes(seconds: float, done: float | None) -> None:
        at.now += seconds
        words = {"stage": "train", "attempt": 1, "total": 9, "unit": "steps", "updated": now()}
        clock.count(None if done is None else Progress.model_validate({**words, "done": done}))

    passes(60, None)
    passes(15, 1)
    for _ in range(4):
        passes(900, 1)
    at.now += 5
    clock.end()
    where = {"stage": "train", "backend": "kubernetes"}
    assert counted(told, metrics.JOB_SECONDS, **where, state="waiting") == 60
    assert counted(told, metrics.JOB_SECONDS, **where, state="running") == 15 + 900 + 5
    assert counted(told, metrics.JOB_SECONDS, **where, state="stuck") == 2700


def test_a_store_that_does_not_answer_while_a_job_runs_is_counted(told: StatsdExporter) -> None:
    def away(*_: object) -> Any:
        raise Infrastructure("The store is away.")

    backend = SimpleNamespace(
        settings=SimpleNamespace(backend="docker"),
        poll=lambda _handle: SimpleNamespace(running=True),
        logs=lambda _handle, cursor: ([], cursor),
    )
    state = SimpleNamespace(stage="train", key="k", claim=None, handle={"container": "1"}, cursor=0)
    follower: Any = Attempt(SimpleNamespace(heartbeat=away), backend, state)  # type: ignore[arg-type]
    assert follower.follow(print).running
    assert counted(told, metrics.UNANSWERED, by="store") == 1


def test_what_is_told_wrong_costs_a_line_in_the_log_and_no_scene(
    told: StatsdExporter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("no")

    monkeypatch.setattr(stats, "incr", broken)
    metrics.UNANSWERED.tell(by="store")
    assert "e2e3d.unanswered could not be told" in caplog.text


@pytest.mark.slow
def test_where_metrics_are_off_nothing_is_imported_for_them() -> None:
    code = (
        "import sys; from airflow_provider_e2e3d import metrics; before = set(sys.modules); metrics.begin_run(); "
        "metrics.begin_attempt('train', 'local'); metrics.scene_succeeded({}, 1.0); "
        "print(*(set(sys.modules) - before)); assert 'statsd' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_whoever_is_told_of_an_end_is_told_though_it_cannot_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(metrics, "is_on", lambda: True)
    monkeypatch.setattr(notifiers, "configured_channels", lambda: ["webhook"])
    monkeypatch.setattr(notifiers, "notify", lambda notification, _picture: told.append(notification))
    # There is no record of a run to count.
    monkeypatch.setattr(SceneSucceeded, "notification", lambda *_: "the scene")
    monkeypatch.setattr(SceneSucceeded, "picture", lambda *_: None)
    SceneSucceeded().notify(cast(Any, {"params": {}}))
    assert told == ["the scene"]
