"""HTML from templates that escape what they show, and the slots of a page that are filled in later."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from e2e3d_stages.contract.formatting import UNKNOWN, as_count, as_duration, as_moment, as_size, formatted


def rendered(template: Path, **facts: Any) -> str:
    """A template filled in; whatever it shows is escaped, and a name that it lacks is an error.

    Its filters are the formats of figures: `size`, `duration`, `count`, `money`, `moment`, and `figure` with digits.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "size": as_size,
        "duration": as_duration,
        "count": as_count,
        "money": lambda dollars: formatted(dollars, "dollars"),
        "moment": as_moment,
        "figure": _as_figure,
    }
    return environment.get_template(template.name).render(facts)


def _as_figure(number: float | None, digits: int = 2) -> str:
    return UNKNOWN if number is None else f"{number:.{digits}f}"


def fill_slots(page: str, parts: Mapping[str, str]) -> str:
    """A page with what stands between `<!--name-->` and `<!--/name-->` replaced.

    :param parts: HTML by the slot's name; a slot that the page lacks is passed over.
    """
    for name, part in parts.items():
        # Text of people's own is escaped, so that only a template can have written these marks.
        before, opening, rest = page.partition(f"<!--{name}-->")
        _, closing, after = rest.partition(f"<!--/{name}-->")
        if closing:
            page = "".join((before, opening, part, closing, after))
    return page
