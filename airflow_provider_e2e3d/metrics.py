"""Metrics for whoever runs the platform, declared once and told through Airflow's own, by StatsD or OpenTelemetry.

Where `[metrics]` has neither on, nothing is imported and nothing is told. Labels have few values: what has many, as
scenes and runs, is for `run.json` and traces. Names by https://prometheus.io/docs/practices/naming.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from airflow.sdk.configuration import conf

from e2e3d_stages.contract import figures
from e2e3d_stages.contract.messages import FailureCode
from e2e3d_stages.registry import STAGES

log = logging.getLogger(__name__)

_SUFFIXES = {"counter": "_total", "gauge": "", "duration": "_seconds"}
_SWITCHES = ("statsd_on", "otel_on", "statsd_datadog_enabled")


def is_on() -> bool:
    """Whether Airflow tells metrics to anybody."""
    return any(conf.getboolean("metrics", switch, fallback=False) for switch in _SWITCHES)


@dataclass(frozen=True)
class Metric:
    """One metric: `airflow.e2e3d.<name>` as Airflow tells it.

    :param name: with its unit, but for durations, which StatsD counts in milliseconds and Prometheus in seconds.
    :param kind: a counter only grows, a gauge is the last value, a duration becomes a histogram.
    :param meaning: what it counts, for people.
    :param labels: what each of its labels may say, in words.
    """

    name: str
    kind: Literal["counter", "gauge", "duration"]
    meaning: str
    labels: Mapping[str, str]

    @property
    def prometheus(self) -> str:
        """Its name in Prometheus, with `deploy/monitoring/statsd.yml`."""
        return f"airflow_e2e3d_{self.name}{_SUFFIXES[self.kind]}"

    def tell(self, value: float = 1, **labels: str) -> None:
        """Add to a counter, set a gauge, or tell how many seconds something took; what goes wrong is a line in the log.

        :param labels: exactly those of the metric.
        """
        if not is_on():
            return
        assert labels.keys() == self.labels.keys(), f"{self.name} has the labels {', '.join(self.labels)}"
        name = f"e2e3d.{self.name}"
        try:
            stats = _stats()
            if self.kind == "counter":
                stats.incr(name, value, tags=labels)
            elif self.kind == "gauge":
                stats.gauge(name, value, tags=labels)
            else:
                stats.timing(name, value * 1000, tags=labels)
        except Exception:
            # Nobody needs a metric to make a scene.
            log.warning("%s could not be told", name, exc_info=True)


def _stats() -> Any:
    """Airflow's own; set up here where it is not, as in `dags test` and in triggers."""
    from airflow.sdk._shared.observability.metrics import stats
    from airflow.sdk.observability.metrics.stats_utils import get_stats_factory

    # Once more would lose what OpenTelemetry has not sent yet.
    if getattr(stats, "_factory", None) is None:
        legacy = conf.getboolean("metrics", "legacy_names_on", fallback=False)
        stats.initialize(factory=get_stats_factory(), export_legacy_names=legacy)
    return stats


_CODES = (*(code.value for code in FailureCode), "quality_gate", "unknown")
_RESULTS = ("made", "timed_out", *(code.value for code in FailureCode))
_STAGE = {"stage": "the stage's name", "backend": "the backend's name"}

SCENES = Metric(
    "scenes",
    "counter",
    "Scenes' runs that ended.",
    {"result": "`succeeded` or `failed`", "code": "the class of failure; `none` of a success"},
)
SCENE_DURATION = Metric("scene_duration", "duration", "From a run's start to its scene, of those that succeeded.", {})
PHOTOS = Metric("photos", "counter", "Photos of the scenes that succeeded.", {"result": "`placed` or `left_out`"})
PSNR = Metric("scene_psnr_decibels", "gauge", "PSNR of the scene that succeeded last, over its held-out photos.", {})
GAUSSIANS = Metric("scene_gaussians", "gauge", "Gaussians of the scene that succeeded last.", {})
SIZE = Metric("scene_size_bytes", "gauge", "What a browser loads of the scene that succeeded last.", {})
TRIES = Metric(
    "stage_tries",
    "counter",
    "Tries of stages that ended, and artifacts that were there.",
    {
        "stage": "the stage's name",
        "backend": "the backend's name; `none` of what was there",
        "result": "`made`, `reused`, `timed_out` or the class of failure",
    },
)
RETRIES = Metric(
    "stage_retries",
    "counter",
    "Tasks that will be tried again.",
    {"stage": "the stage's name, or `plan`", "code": "the class of failure"},
)
STAGE_DURATION = Metric("stage_duration", "duration", "What a stage's program took to make an artifact.", _STAGE)
QUEUE_DURATION = Metric("queue_duration", "duration", "From an attempt's claim to its program's start.", _STAGE)
JOB_SECONDS = Metric(
    "job_seconds",
    "counter",
    "Seconds of jobs, counted while they are followed: its rate is how many jobs there are.",
    {**_STAGE, "state": "`waiting` for a machine, `running`, or `stuck`: nothing new for half as long as is fatal"},
)
UNANSWERED = Metric(
    "unanswered", "counter", "Questions that got no answer while a job was followed.", {"by": "`store` or `backend`"}
)
BILLED_SECONDS = Metric("billed_seconds", "counter", "What backends bill, or how long jobs ran.", _STAGE)
COST = Metric("cost_dollars", "counter", "What jobs cost by the profile's prices, in US dollars.", _STAGE)
STORED = Metric("stored_bytes", "counter", "Size of the artifacts that were made.", _STAGE)

METRICS: tuple[Metric, ...] = (
    *(SCENES, SCENE_DURATION, PHOTOS, PSNR, GAUSSIANS, SIZE),
    *(TRIES, RETRIES, STAGE_DURATION, QUEUE_DURATION, JOB_SECONDS, UNANSWERED),
    *(BILLED_SECONDS, COST, STORED),
)


def begin_run() -> None:
    """Let a run's counters be there before they count: Prometheus sees no growth in a counter's first value."""
    if is_on():
        SCENES.tell(0, result="succeeded", code="none")
        _begin(SCENES, _CODES, "code", result="failed")
        _begin(PHOTOS, ("placed", "left_out"), "result")
        _begin(RETRIES, _CODES, "code", stage="plan")
        _begin(TRIES, STAGES, "stage", backend="none", result="reused")


def begin_attempt(stage: str, backend: str) -> None:
    """The same for an attempt's counters."""
    if is_on():
        _begin(TRIES, _RESULTS, "result", stage=stage, backend=backend)
        _begin(RETRIES, _CODES, "code", stage=stage)
        _begin(JOB_SECONDS, ("waiting", "running", "stuck"), "state", stage=stage, backend=backend)
        _begin(UNANSWERED, ("store", "backend"), "by")
        for metric in (BILLED_SECONDS, COST, STORED):
            metric.tell(0, stage=stage, backend=backend)


def _begin(metric: Metric, values: Iterable[str], label: str, **others: str) -> None:
    for value in values:
        metric.tell(0, **others, **{label: value})


def scene_succeeded(measured: Mapping[str, Any], seconds: float) -> None:
    """A scene is there.

    :param measured: the figures of `key_metrics`.
    :param seconds: since its run started.
    """
    SCENES.tell(result="succeeded", code="none")
    SCENE_DURATION.tell(seconds)
    for metric, figure in ((PSNR, figures.PSNR), (GAUSSIANS, figures.GAUSSIANS), (SIZE, figures.SIZE)):
        if measured.get(figure.name) is not None:
            metric.tell(measured[figure.name])
    placed, uploaded = (measured.get(figure.name) for figure in (figures.PLACED, figures.UPLOADED))
    if placed is not None and uploaded is not None:
        PHOTOS.tell(placed, result="placed")
        PHOTOS.tell(max(0, uploaded - placed), result="left_out")


def scene_failed(code: str) -> None:
    """There will be no scene, unless somebody clears a task."""
    SCENES.tell(result="failed", code=code)
