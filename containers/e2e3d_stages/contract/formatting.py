"""How figures read, in logs, pages and notifications; `ui/pages/words.js` says the same to a browser."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Literal

Format = Literal["count", "decibels", "ratio", "bytes", "seconds", "dollars"]

# Where nothing was measured, or nobody knows.
UNKNOWN = "–"


def formatted(value: float | None, format: Format) -> str:
    """A figure as people read it.

    :param value: bytes, seconds, US dollars or dB, where the format is one of these.
    """
    return UNKNOWN if value is None else _FORMATS[format](value)


def as_count(number: float) -> str:
    """A whole number with separators: 40,000."""
    return f"{number:,.0f}"


def as_decibels(decibels: float) -> str:
    """32.4 dB."""
    return f"{decibels:.1f} dB"


def as_ratio(ratio: float) -> str:
    """A number from 0 to 1: 0.904."""
    return f"{ratio:.3f}"


def as_size(count: float) -> str:
    """Bytes in the unit that reads best: 7 B, 2.1 MB, 513 kB."""
    units = ("B", "kB", "MB", "GB", "TB")
    step = 0
    while count >= 999.5 and step < len(units) - 1:
        count /= 1000
        step += 1
    return f"{count:.1f} {units[step]}" if step and count < 99.95 else f"{count:.0f} {units[step]}"


def as_duration(seconds: float) -> str:
    """8.2 s, 41 s, 4 min 10 s, 2 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = int(seconds / 60 + 0.5)
    return f"{minutes // 60} h {minutes % 60} min"


def as_dollars(dollars: float) -> str:
    """US dollars to the cent: $1.20, and < $0.01 for what is not quite nothing."""
    return "< $0.01" if 0 < dollars < 0.005 else f"${dollars:,.2f}"


def as_moment(moment: dt.datetime | str) -> str:
    """A moment as people write it, in UTC: 1 November 2026, 12:30 UTC.

    :param moment: in UTC; a record has it in ISO's form.
    """
    moment = dt.datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


_FORMATS: dict[Format, Callable[[float], str]] = {
    "count": as_count,
    "decibels": as_decibels,
    "ratio": as_ratio,
    "bytes": as_size,
    "seconds": as_duration,
    "dollars": as_dollars,
}
