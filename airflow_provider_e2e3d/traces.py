"""Jobs in the trace that Airflow makes of a run: a span a job, and below it one for each part of its stage's work.

Where `[traces] otel_on` is off, nothing is imported. Stage programs send no spans: their containers reach the store and
nothing else, and what they did when is in `progress.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from airflow.sdk.configuration import conf

from e2e3d_stages.contract.messages import Claim, Failure, JobRecord, Phase, now


def is_on() -> bool:
    """Whether Airflow traces runs."""
    return bool(conf.getboolean("traces", "otel_on", fallback=False))


def carrier() -> dict[str, str]:
    """The environment of a program that the current task starts: `TRACEPARENT`, where there is a trace.

    https://www.w3.org/TR/trace-context, and how programs hand it on:
    https://opentelemetry.io/docs/specs/otel/context/env-carriers
    """
    if not is_on():
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carried: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carried)
    return {name.upper(): value for name, value in carried.items()}


def tell_job(
    task: Mapping[str, str] | None,
    stage: str,
    key: str,
    claim: Claim,
    record: JobRecord,
    phases: Sequence[Phase],
    failure: Failure | None,
) -> None:
    """Add an ended job to its task's span.

    :param task: Airflow's name of that span. The current one is a worker's, which a deferred task's job outlives.
    :param phases: the parts of its work, by the clock of the machine where it ran.
    """
    if not is_on():
        return
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    tracer = trace.get_tracer(__name__)
    attributes: dict[str, str | int] = {
        "e2e3d.stage": stage,
        "e2e3d.key": key,
        "e2e3d.attempt": claim.attempt,
        "e2e3d.backend": record.backend,
        **({"e2e3d.machine": record.machine} if record.machine else {}),
    }
    job = tracer.start_span(
        f"job {stage}",
        context=TraceContextTextMapPropagator().extract(task or {}),
        start_time=_nanoseconds(claim.claimed.timestamp()),
        attributes=attributes,
    )
    if failure is not None:
        job.set_attribute("error.type", failure.code.value)
        job.set_status(trace.Status(trace.StatusCode.ERROR, failure.message))
    inside = trace.set_span_in_context(job)
    for phase in phases:
        span = tracer.start_span(
            phase.name or stage, context=inside, start_time=_nanoseconds(phase.started.timestamp())
        )
        span.end(_nanoseconds(phase.finished.timestamp()))
    job.end(_nanoseconds(now().timestamp()))


def _nanoseconds(seconds: float) -> int:
    """Since 1970, as spans have it."""
    return int(seconds * 1e9)
