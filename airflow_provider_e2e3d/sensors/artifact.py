"""ArtifactSensor: a stage's artifact exists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow_provider_e2e3d.sensors.store import StoreSensor
from airflow_provider_e2e3d.triggers.polling import ArtifactTrigger


class ArtifactSensor(StoreSensor):
    """Waits until a stage's artifact is in the profile's store.

    Returns the reference that the stage's own operator returns, so that operators of later stages take it.

    :param stage: ingest, sfm, train, compress, evaluate or publish. (templated)
    :param key: the artifact's key, as a run's log or `run.json` tells it. (templated)
    """

    template_fields: Sequence[str] = (*StoreSensor.template_fields, "stage", "key")

    def __init__(self, *, stage: str, key: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stage = stage
        self.key = key

    def trigger(self, **common: Any) -> ArtifactTrigger:
        return ArtifactTrigger(stage=self.stage, key=self.key, **common)
