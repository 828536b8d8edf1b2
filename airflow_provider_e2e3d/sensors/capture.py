"""CaptureSensor: an upload is complete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow_provider_e2e3d.sensors.store import StoreSensor
from airflow_provider_e2e3d.triggers.polling import CaptureCompleteTrigger


class CaptureSensor(StoreSensor):
    """Waits until the upload of one capture is complete, by the rule that starts `reconstruct_on_upload`.

    Returns what the event of an upload holds: capture (its address), name, scene (a slug), fingerprint, photos, bytes.

    :param capture: a prefix, one zip or one film, below one of the profile's roots. (templated)
    :param marker: name of a file that an uploader writes last; empty: nothing came for `quiet_seconds`. (templated)
    :param quiet_seconds: how long nothing must have come. (templated)
    :param min_photos: how many photos there must be at least, except where there is a zip or a film. (templated)
    """

    template_fields: Sequence[str] = (
        *StoreSensor.template_fields,
        "capture",
        "marker",
        "quiet_seconds",
        "min_photos",
    )

    def __init__(
        self, *, capture: str, marker: str = "", quiet_seconds: Any = 120.0, min_photos: Any = 5, **kwargs: Any
    ) -> None:
        # So that `output["capture"]` is the address.
        kwargs.setdefault("multiple_outputs", True)
        super().__init__(**kwargs)
        self.capture = capture
        self.marker = marker
        self.quiet_seconds = quiet_seconds
        self.min_photos = min_photos

    def trigger(self, **common: Any) -> CaptureCompleteTrigger:
        return CaptureCompleteTrigger(
            capture=self.capture,
            marker=self.marker,
            quiet_seconds=float(self.quiet_seconds),
            min_photos=int(self.min_photos),
            **common,
        )
