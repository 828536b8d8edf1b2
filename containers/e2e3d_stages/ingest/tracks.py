"""Where a camera was at a moment of its film; and what DJI writes of that beside the films of drones, as subtitles."""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from e2e3d_stages.contract.captures import MOST_NOTE_BYTES, folded
from e2e3d_stages.ingest.exif import Gps, number, place_on_earth
from e2e3d_stages.store.captures import Source, reading

# Seconds from the beginning of the film, and where it was then.
Track = Sequence[tuple[float, Gps]]

# A place this many seconds away is no longer that of a frame.
REACH = 1.0
_TIME = re.compile(r"(\d{1,3}):(\d\d):(\d\d)[,.](\d{3})\s*-->")
# The second longitude is how DJI spelt it for years; the altitude is that above the sea.
_TOLD = re.compile(r"\b(lat|lon|abs_alt)(?:itude|gitude|gtitude)?\s*:\s*([-+]?\d{1,9}(?:\.\d{1,12})?)")


def track_of(film: str, notes: Iterable[Source]) -> Source | None:
    """The subtitles that are called like a film and lie beside it."""
    called = PurePosixPath(folded(film)).with_suffix(".srt").as_posix()
    return next((note for note in notes if folded(note.name) == called), None)


def read_track(note: Source) -> Track:
    """The places that subtitles tell, in their order in time; none of subtitles that tell something else."""
    with reading(note.name):
        if note.path.stat().st_size > MOST_NOTE_BYTES:
            return []
        text = note.path.read_bytes().decode("utf-8", "ignore")
    found = []
    # What stands before the first time, and then by turns the four parts of a time and what is told of it.
    _, *parts = _TIME.split(text)
    for place in range(0, len(parts), 5):
        hours, minutes, seconds, thousandths = map(int, parts[place : place + 4])
        told = {name: number(value) for name, value in _TOLD.findall(parts[place + 4])}
        gps = place_on_earth(told.get("lat"), told.get("lon"), told.get("abs_alt"))
        if gps:
            found.append((hours * 3600 + minutes * 60 + seconds + thousandths / 1000, gps))
    return sorted(found, key=lambda moment: moment[0])


def place_at(track: Track, seconds: float) -> Gps | None:
    """Where it was at a time: what was told next to it."""
    after = bisect(track, seconds, key=lambda moment: moment[0])
    near = min(track[max(0, after - 1) : after + 1], key=lambda moment: abs(moment[0] - seconds), default=None)
    return near[1] if near and abs(near[0] - seconds) <= REACH else None
