"""What became of a batch: the ledger for the next one, a page for people, a file for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from airflow_provider_e2e3d.pipelines.batch.plan import BatchFolder, Ledger, Plan, Record, Row, State
from airflow_provider_e2e3d.scenes.outcome import Outcome
from e2e3d_stages.contract.figures import CARD
from e2e3d_stages.contract.pages import rendered

_TEMPLATE = Path(__file__).parent / "templates" / "batch.html"
# Nobody keeps a price with a scene of a batch.
FIGURES = tuple(figure for figure in CARD if figure.name != "price")
# A word for a person, and the order on the page: first what somebody must do something about.
WORDS = {
    State.FAILED: "failed",
    State.REFUSED: "cannot be run",
    State.FAILING: "failed before, unchanged since",
    State.STOPPED: "stopped by a person",
    State.SUCCEEDED: "succeeded",
    State.REUSED: "unchanged, made before",
    State.ARRIVING: "still arriving",
    State.WAITING: "waits its turn",
    State.RUN: "running",
}


def ended(plan: Plan, outcomes: Mapping[str, Outcome], ask: Callable[[str], Outcome]) -> Plan:
    """The plan with what became of its runs.

    :param outcomes: by run, as the tasks that waited left them.
    :param ask: for a run whose task left none.
    """

    def now(row: Row) -> Row:
        if row.state is not State.RUN or row.run is None:
            return row
        outcome = outcomes.get(row.run) or ask(row.run)
        return row.model_copy(update={"state": State.of(outcome), "outcome": outcome})

    return plan.model_copy(update={"rows": tuple(map(now, plan.rows))})


def recorded(ledger: Ledger, started: list[Row], result: Plan) -> Ledger:
    """The ledger with what this page ran; what another batch wrote meanwhile about other scenes stays.

    :param started: rows of the plan that were run.
    """
    ran = {row.scene for row in started}
    new = {
        row.scene: Record(
            capture=row.capture,
            fingerprint=row.fingerprint,
            asked=row.asked,
            batch=result.batch,
            outcome=row.outcome,
        )
        for row in result.rows
        if row.scene in ran and row.outcome is not None
    }
    return Ledger(scenes={**ledger.scenes, **new})


def failed_scenes(result: Plan) -> list[str]:
    """Each scene that failed, with its class of failure."""
    return [
        f"{row.scene} ({row.outcome.reason.code})"
        for row in result.rows
        if row.state.is_failure and row.outcome is not None and row.outcome.reason is not None
    ]


def write_report(folder: BatchFolder, run: str, result: Plan, relative: Callable[[str], str]) -> str:
    """Write `index.html` and `batch.json`; the page's URI.

    :param relative: a page's address as a link from the batch's page.
    """
    place = folder.of_run(run)
    content = {"run": run, "counts": result.counts, **result.model_dump(mode="json", exclude_defaults=True)}
    folder.storage.write(f"{place}/batch.json", json.dumps(content, indent=1, ensure_ascii=False).encode())
    folder.storage.write(f"{place}/index.html", batch_page(run, result, relative).encode())
    return folder.storage.uri_of(f"{place}/index.html")


def batch_page(run: str, result: Plan, relative: Callable[[str], str]) -> str:
    """One table, what failed first; no script."""
    order = list(WORDS)
    rows = sorted(result.rows, key=lambda row: (order.index(row.state), row.scene))
    return rendered(
        _TEMPLATE,
        run=run,
        captures=result.request.captures,
        counts=", ".join(f"{number} {WORDS[State(state)]}" for state, number in result.counts.items()),
        figures=FIGURES,
        rows=[_line(row, relative) for row in rows],
    )


def _line(row: Row, relative: Callable[[str], str]) -> dict[str, Any]:
    """What the page shows of a scene."""
    outcome = row.outcome or Outcome(run="", state="succeeded")
    record = {"metrics": outcome.metrics, "seconds": outcome.seconds}
    return {
        "scene": row.scene,
        "page": relative(outcome.page) if outcome.page else "",
        "capture": row.capture,
        "state": row.state,
        "words": WORDS[row.state],
        "reason": outcome.reason,
        "figures": ["" if each.of_record(record) is None else each.text(record) for each in FIGURES],
    }
