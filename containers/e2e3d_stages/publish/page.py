"""How the report's pages are written: templates that escape what they show, figures in words that fit a table."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from e2e3d_stages.presets import STAGES

TEMPLATES = Path(__file__).parent / "templates"
# Parts of the report that a run fills in with what the artifact cannot know; each has a template of its name.
SLOTS = ("run_card", "run")


def rendered(template: str, **facts: Any) -> str:
    """A template filled in; whatever it shows is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"stage_work": {name: stage.work for name, stage in STAGES.items()}}
    environment.filters |= {
        "size": as_size,
        "duration": as_duration,
        "count": as_count,
        "figure": as_figure,
        "money": as_money,
        "moment": as_moment,
    }
    return environment.get_template(template).render(facts)


def with_run(page: str, record: Mapping[str, Any]) -> str:
    """The report with the facts of one run where the artifact has those of its making.

    :param record: from `record.record_of`.
    """
    for slot in SLOTS:
        # Text of people's own is escaped, so that only the template can have written these marks.
        before, opening, rest = page.partition(f"<!--{slot}-->")
        _, closing, after = rest.partition(f"<!--/{slot}-->")
        if closing:
            page = "".join((before, opening, rendered(f"{slot}.html", run=record), closing, after))
    return page


def as_size(count: float) -> str:
    """Bytes in the unit that reads best: 2 MB, 513 kB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}" if count < 1000 * scale else f"{count / scale:,.0f} {unit}"
    return f"{count:.0f} B"


def as_duration(seconds: float) -> str:
    """Seconds in words that fit a table: 8.2 s, 4 min 10 s, 2 h 5 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def as_count(number: float) -> str:
    """A whole number with separators."""
    return f"{number:,.0f}"


def as_figure(number: float | None, digits: int = 2) -> str:
    """A figure, or a dash where nothing was measured."""
    return "–" if number is None else f"{number:.{digits}f}"


def as_money(dollars: float | None) -> str:
    """US dollars to the cent, or a dash where nobody knows."""
    if dollars is None:
        return "–"
    return "under 0.01 USD" if 0 < dollars < 0.01 else f"{dollars:,.2f} USD"


def as_moment(moment: dt.datetime | str) -> str:
    """A moment as people write it, in UTC: 1 November 2026, 12:30 UTC.

    :param moment: in UTC; a record has it in ISO's form.
    """
    moment = dt.datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"
