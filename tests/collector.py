"""Stands in for an OpenTelemetry Collector: what comes by OTLP over HTTP goes into a file, as its file exporter has it.

A line a request, in OTLP's JSON: https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.conftest import until
from tests.web import answering


@dataclass(frozen=True)
class Span:
    """One span of the file.

    :param parent: the id of the span that it lies in; empty of a trace's root.
    :param started: in nanoseconds since 1970, as `ended`.
    """

    name: str
    trace: str
    id: str
    parent: str
    started: int
    ended: int
    attributes: dict[str, Any]


class Collector:
    """Listens on a port of its own.

    :param file: that it writes to.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        file.touch()
        collector, writing = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces"
                told = MessageToDict(ExportTraceServiceRequest.FromString(content))
                with writing, collector.file.open("a") as out:
                    out.write(json.dumps(told) + "\n")
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = answering(Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What an Airflow is told that shall trace its runs to it, soon after what it tells of."""
        return {
            "AIRFLOW__TRACES__OTEL_ON": "True",
            "OTEL_TRACES_EXPORTER": "otlp_proto_http",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url,
            "OTEL_BSP_SCHEDULE_DELAY": "500",
        }

    def spans(self) -> list[Span]:
        """All that the file has."""
        told = [json.loads(line) for line in self.file.read_text().splitlines()]
        scopes = [scope for each in told for one in each["resourceSpans"] for scope in one["scopeSpans"]]
        return [_span(span) for scope in scopes for span in scope["spans"]]

    def trace_of(self, run: str, tasks: Iterable[str]) -> list[Span]:
        """A DAG run's trace, once these tasks are in it and it hangs together: each span but the run's lies in another.

        The processes of a run send their spans in any order.
        """
        expected = {f"task_run.{task}" for task in tasks}
        found: list[Span] = []

        def complete() -> bool:
            spans = self.spans()
            traces = {span.trace for span in spans if span.attributes.get("airflow.dag_run.run_id") == run}
            found[:] = [span for span in spans if span.trace in traces]
            if not expected <= {span.name for span in found}:
                return False
            return [span.name for span in _outermost(found)] == [f"dag_run.{_dag_of(found)}"]

        until(complete)
        return found


def _outermost(spans: list[Span]) -> list[Span]:
    """Those that lie in no other of them."""
    ids = {span.id for span in spans}
    return [span for span in spans if span.parent not in ids]


def _dag_of(spans: list[Span]) -> str:
    """The DAG that a trace's tasks are of."""
    (dag,) = {str(span.attributes["airflow.dag_id"]) for span in spans if "airflow.dag_id" in span.attributes}
    return dag


def check_job(spans: list[Span], task: str, stage: str, backend: str) -> None:
    """A task's job is one span of the task's own, from the claim to the end, and around all that its program did."""
    by_id = {span.id: span for span in spans}
    (outer,) = (span for span in spans if span.name == f"task_run.{task}")
    (job,) = (span for span in spans if span.name == f"job {stage}" and span.parent == outer.id)
    assert job.attributes["e2e3d.backend"] == backend
    phases = [span for span in spans if span.parent == job.id]
    assert phases[-1].name == "storing"
    root = by_id[outer.parent]
    assert root.name.startswith("dag_run.")
    for inside, around in [*((phase, job) for phase in phases), (job, outer), (outer, root)]:
        assert around.started <= inside.started <= inside.ended <= around.ended, (inside.name, around.name)


def _span(told: dict[str, Any]) -> Span:
    def number(name: str) -> str:
        # Protobuf's own JSON has bytes in base64, OTLP's in hex.
        return base64.b64decode(told.get(name, "")).hex()

    return Span(
        name=told["name"],
        trace=number("traceId"),
        id=number("spanId"),
        parent=number("parentSpanId"),
        started=int(told["startTimeUnixNano"]),
        ended=int(told["endTimeUnixNano"]),
        attributes={each["key"]: next(iter(each["value"].values())) for each in told.get("attributes", ())},
    )
