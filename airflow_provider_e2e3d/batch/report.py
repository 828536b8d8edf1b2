"""What became of a batch: the ledger for the next one, a page for people, a file for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from airflow_provider_e2e3d.batch.plan import BatchFolder, Ledger, Plan, Record, Row, State
from airflow_provider_e2e3d.outcome import Outcome, Reason

# A word for a person, and the order on the page: first what somebody must do something about.
WORDS = {
    State.FAILED: "failed",
    State.REFUSED: "cannot be run",
    State.FAILING: "failed before, unchanged since",
    State.SUCCEEDED: "succeeded",
    State.REUSED: "unchanged, made before",
    State.ARRIVING: "still arriving",
    State.WAITING: "waits its turn",
    State.RUN: "running",
}

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222 }
h1 { font-size: 1.4rem } table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem; border-bottom: 1px solid #ddd }
th { position: sticky; top: 0; background: #fff } td.n { text-align: right; white-space: nowrap }
.failed, .failing, .refused { color: #a11 } .succeeded { color: #161 } .arriving, .waiting { color: #666 }
small { color: #666 } pre { white-space: pre-wrap; margin: 0; font: inherit }
@media (prefers-color-scheme: dark) {
  body, th { background: #161616; color: #ddd } th, td { border-color: #333 } a { color: #8bf }
  .failed, .failing, .refused { color: #f88 } .succeeded { color: #8d8 } }
"""


def ended(plan: Plan, outcomes: Mapping[str, Outcome], ask: Callable[[str], Outcome]) -> Plan:
    """The plan with what became of its runs.

    :param outcomes: by run, as the tasks that waited left them.
    :param ask: for a run whose task left none.
    """

    def now(row: Row) -> Row:
        if row.state is not State.RUN or row.run is None:
            return row
        outcome = outcomes.get(row.run) or ask(row.run)
        state = State.FAILED if outcome.reason else State.SUCCEEDED
        return row.model_copy(update={"state": state, "outcome": outcome})

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
    told = ", ".join(f"{number} {WORDS[State(state)]}" for state, number in result.counts.items())
    return (
        "<!DOCTYPE html>\n<html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>Batch {escape(run)}</title><style>{_STYLE}</style>\n"
        f"<h1>{len(rows)} scenes: {escape(told or 'nothing to do')}</h1>\n"
        f"<p>{escape(result.request.captures)}<br><small>{escape(run)}</small></p>\n"
        "<table><thead><tr><th>Scene<th>State<th>Why, and what to do<th>Photos<th>PSNR<th>Time</tr></thead><tbody>\n"
        + "".join(_line(row, relative) for row in rows)
        + "</tbody></table></html>\n"
    )


def _line(row: Row, relative: Callable[[str], str]) -> str:
    outcome = row.outcome or Outcome(run="", state="succeeded")
    scene = escape(row.scene)
    if outcome.page:
        scene = f"<a href='{escape(relative(outcome.page), quote=True)}'>{scene}</a>"
    cells = {
        "photos": _photos(row, outcome.metrics),
        "psnr": f"{outcome.metrics['psnr']:.1f} dB" if outcome.metrics.get("psnr") is not None else "",
        "time": "" if outcome.seconds is None else _clock(outcome.seconds),
    }
    return (
        f"<tr><td>{scene}<br><small>{escape(row.capture)}</small>"
        f"<td class='{row.state.value}'>{WORDS[row.state]}<td>{_why(outcome.reason)}"
        + "".join(f"<td class='n'>{cell}" for cell in cells.values())
        + "</tr>\n"
    )


def _photos(row: Row, metrics: Mapping[str, Any]) -> str:
    if "photos_given" in metrics:
        return f"{metrics['photos_supported']} of {metrics['photos_given']}"
    return "" if row.photos is None else str(row.photos)


def _why(reason: Reason | None) -> str:
    if reason is None:
        return ""
    where = f"{reason.stage}, {reason.code}" if reason.stage else reason.code
    return f"<pre>{escape(reason.message)}</pre><small>{escape(f'{reason.hint} ({where})'.strip())}</small>"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
