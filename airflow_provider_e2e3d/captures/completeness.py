"""When an upload is complete."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from airflow_provider_e2e3d.captures.listing import Capture
from e2e3d_stages.contract.paths import shown


@dataclass(frozen=True)
class Completeness:
    """When an upload counts as complete.

    :param marker: name of a file that the uploader writes last; empty: nothing came for `quiet_seconds`. A zip or a
        film by itself, which has no room for a marker, must be quiet in either case, and so must photos beside a film
        that lacks its end, which may still arrive. Without photos it is waited for.
    :param quiet_seconds: how long nothing must have come: longer than the upload of the largest file takes.
    :param min_photos: how many photos there must be at least, except where zips or films hold them.
    """

    marker: str = ""
    quiet_seconds: float = 120.0
    min_photos: int = 5

    def holds(self, capture: Capture, at: dt.datetime) -> bool:
        """Whether a capture listed at a time is complete."""
        return not self.missing(capture, at)

    def missing(self, capture: Capture, at: dt.datetime) -> str:
        """What a capture listed at a time still lacks, in words; nothing when it is complete."""
        if capture.counted and capture.photos < self.min_photos:
            return f"it has {capture.photos} photos and needs {self.min_photos}"
        enough = capture.photos >= self.min_photos or bool(capture.zips)
        if capture.cut_off and not enough:
            return f"its film {shown(capture.cut_off)} lacks its end: it still arrives, or must be uploaded again"
        if self.marker and not capture.single:
            if self.marker not in capture.files:
                return f"its marker {self.marker} is not there"
            if not capture.cut_off:
                return ""
        age = (at - capture.arrived).total_seconds()
        return "" if age >= self.quiet_seconds else f"something came {age:.0f} s ago, within {self.quiet_seconds:g} s"
