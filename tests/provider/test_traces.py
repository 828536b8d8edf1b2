"""A job in its run's trace, and what its program is told of both; nothing of it where nobody traces."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from airflow_provider_e2e3d import traces
from airflow_provider_e2e3d.backends.base import JobSpec
from airflow_provider_e2e3d.backends.local.backend import LocalBackend, LocalSettings
from airflow_provider_e2e3d.jobs.making import Making
from e2e3d_stages.contract.messages import Claim, Failure, FailureCode, JobRecord, Phase, Request, now
from tests.airflow_runs import Outcome

CLAIM = Claim(owner="reconstruct/manual__1/train/-1/abc", attempt=2, claimed=now() - timedelta(seconds=90))
RECORD = JobRecord(profile="cluster", backend="kubernetes", handle={}, machine="g5")


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Where spans of this process go."""
    monkeypatch.setenv("AIRFLOW__TRACES__OTEL_ON", "True")
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return exporter


def test_a_job_and_the_parts_of_its_work_are_spans_below_the_task_s(spans: InMemorySpanExporter) -> None:
    at = now() - timedelta(seconds=60)
    phases = [
        Phase(name=name, started=at + timedelta(seconds=10 * n), finished=at + timedelta(seconds=10 * (n + 1)))
        for n, name in enumerate(["fetching sfm", "training"])
    ]
    failure = Failure(code=FailureCode.OUT_OF_MEMORY, message="The GPU's memory ran out.")
    tracer = trace.get_tracer("airflow")
    with tracer.start_as_current_span("task_run.train"):
        carrier = {"traceparent": traces.carrier()["TRACEPARENT"]}
        # One of several, when the task was deferred.
        with tracer.start_as_current_span("worker.train"):
            traces.tell_job(carrier, "train", "k", CLAIM, RECORD, phases, failure)
    fetching, training, job, worker, task = spans.get_finished_spans()
    assert [span.name for span in (fetching, training, job)] == ["fetching sfm", "training", "job train"]
    assert job.parent is not None
    assert job.parent.span_id == task.context.span_id
    assert {span.parent.span_id for span in (fetching, training) if span.parent} == {job.context.span_id}
    assert {span.context.trace_id for span in spans.get_finished_spans()} == {worker.context.trace_id}
    assert training.end_time is not None
    assert training.start_time == fetching.end_time
    assert training.end_time - fetching.start_time == 20 * 10**9  # type: ignore[operator]
    assert job.attributes is not None
    assert job.attributes["e2e3d.backend"] == "kubernetes"
    assert job.attributes["error.type"] == "out_of_memory"
    assert not job.status.is_ok


@pytest.mark.slow
def test_a_stage_that_ran_is_in_the_trace_with_what_it_did_when(
    run: Callable[..., Outcome], spans: InMemorySpanExporter
) -> None:
    assert run("ingest").state == "success"
    told = {span.name: span for span in spans.get_finished_spans()}
    job = told["job ingest"]
    for part in ("fetching photos", "storing"):
        assert told[part].parent is not None
        assert told[part].parent.span_id == job.context.span_id
        assert job.start_time <= told[part].start_time <= told[part].end_time <= job.end_time


def making() -> Making:
    """Of a task, as far as its jobs' environments need it."""
    store = SimpleNamespace(request_uri=lambda *place: "/".join(["file:///store/artifacts", *map(str, place)]))
    parts: Any = {"store": store, "profile": None, "log": None}
    return Making(**parts, environment={"AWS_SECRET_ACCESS_KEY": "s"}, profile_name="p", stage="train", owner="o")


def job() -> JobSpec:
    """The job of that task."""
    request = Request(stage="train", stage_version=1, key="k", attempt=2, params={})
    return making()._job(request, CLAIM)


def test_a_program_is_told_the_trace_that_it_belongs_to(spans: InMemorySpanExporter) -> None:
    with trace.get_tracer("airflow").start_as_current_span("worker.train") as span:
        told = job().told["TRACEPARENT"]
        backend = LocalBackend(LocalSettings(backend="local"))
        assert backend.environment(job())["TRACEPARENT"] == told
    assert told[:-2] == f"00-{span.get_span_context().trace_id:032x}-{span.get_span_context().span_id:016x}-"


def test_without_a_trace_and_a_format_a_program_is_told_of_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("E2E3D_LOG_FORMAT", raising=False)
    assert job().told == {}


def test_a_worker_s_format_of_logs_goes_along_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2E3D_LOG_FORMAT", "json")
    assert job().told == {"E2E3D_LOG_FORMAT": "json", "E2E3D_LOG_RUN": "reconstruct/manual__1"}


def test_a_program_s_log_in_json_says_whose_words_each_line_is(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/artifacts/train/{'k' * 32}/attempts/3/request.json"
    told = {
        "E2E3D_LOG_FORMAT": "json",
        "E2E3D_LOG_RUN": "reconstruct/manual__1",
        "TRACEPARENT": f"00-{'a' * 32}-{'b' * 16}-01",
    }
    done = subprocess.run(
        [sys.executable, "-m", "e2e3d_stages", "run", uri], env=told, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    (line,) = map(json.loads, done.stdout.splitlines())
    assert line.pop("time").endswith("+00:00")
    assert line.pop("message").startswith("There is no request at")
    assert line == {
        "level": "error",
        "run": "reconstruct/manual__1",
        "stage": "train",
        "key": "k" * 32,
        "attempt": "3",
        "trace_id": "a" * 32,
    }


@pytest.mark.slow
def test_where_nobody_traces_nothing_is_imported_for_it() -> None:
    code = (
        "import sys; from airflow_provider_e2e3d import traces; before = set(sys.modules); "
        "traces.tell_job(None, 'train', 'k', None, None, (), None); assert traces.carrier() == {}; "
        "print(*(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
