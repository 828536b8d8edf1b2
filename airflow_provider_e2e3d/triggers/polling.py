"""Waiting for something to lie in a store, without holding a worker."""

from __future__ import annotations

import datetime as dt
from abc import abstractmethod
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_e2e3d.captures.completeness import Completeness
from airflow_provider_e2e3d.captures.listing import capture_at
from airflow_provider_e2e3d.profiles.file import profile_named
from airflow_provider_e2e3d.scenes.names import scene_of
from airflow_provider_e2e3d.triggers.capture import described
from airflow_provider_e2e3d.triggers.threads import in_thread, pause
from e2e3d_stages.contract.messages import Failure, Infrastructure, InvalidRequest, StageError, now
from e2e3d_stages.registry import STAGES


class NotReady(Exception):
    """What is waited for is not there; says what is missing."""


class PollingTrigger(BaseTrigger):
    """Looks again and again until it is there, or until the deadline.

    :param profile: name of the profile whose connection opens the store.
    :param poll_seconds: pause between two looks.
    :param deadline: when to give up, ISO 8601.
    """

    def __init__(self, *, profile: str, poll_seconds: float, deadline: str) -> None:
        super().__init__()
        self.profile = profile
        self.poll_seconds = poll_seconds
        self.deadline = deadline

    @abstractmethod
    def look(self) -> dict[str, Any]:
        """What the sensor returns.

        :raises NotReady: while it is not there.
        :raises StageError: when it cannot be, or nobody can say.
        """

    def _kwargs(self) -> dict[str, Any]:
        return {"profile": self.profile, "poll_seconds": self.poll_seconds, "deadline": self.deadline}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        yield TriggerEvent(await self._wait())

    async def _wait(self) -> dict[str, Any]:
        """What `StoreSensor.resume` is told."""
        while True:
            try:
                return {"found": await in_thread(self.profile, self.look)}
            except NotReady as error:
                missing = str(error)
            except Infrastructure as error:
                missing = error.message
            except StageError as error:
                return {"failure": Failure.of(error, 0).model_dump(mode="json")}
            self.log.info(missing)
            if now() >= dt.datetime.fromisoformat(self.deadline):
                return {"missing": missing}
            await pause(self.poll_seconds)


class CaptureCompleteTrigger(PollingTrigger):
    """Waits until the upload of one capture is complete.

    :param capture: its address.
    :param marker: with `quiet_seconds` and `min_photos`, as in `Completeness`.
    """

    def __init__(self, *, capture: str, marker: str, quiet_seconds: float, min_photos: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.capture = capture
        self.complete = Completeness(marker, quiet_seconds, min_photos)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            "airflow_provider_e2e3d.triggers.polling.CaptureCompleteTrigger",
            {**self._kwargs(), "capture": self.capture, **vars(self.complete)},
        )

    def look(self) -> dict[str, Any]:
        profile = profile_named(self.profile)
        storage = profile.open_capture(profile.admit(self.capture))
        at = storage.clock()
        capture = capture_at(storage)
        if capture is None:
            raise NotReady(f"There is nothing at {self.capture}.")
        if missing := self.complete.missing(capture, at):
            raise NotReady(f"{self.capture} is not complete: {missing}.")
        return described(capture, scene_of(capture.uri))


class ArtifactTrigger(PollingTrigger):
    """Waits until a stage's artifact is there.

    :param stage: ingest, sfm, train, compress, evaluate or publish.
    :param key: the artifact's key.
    """

    def __init__(self, *, stage: str, key: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stage = stage
        self.key = key

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            "airflow_provider_e2e3d.triggers.polling.ArtifactTrigger",
            {**self._kwargs(), "stage": self.stage, "key": self.key},
        )

    def look(self) -> dict[str, Any]:
        if self.stage not in STAGES:
            raise InvalidRequest(f"There is no stage {self.stage!r}.", hint=f"Choose one of {', '.join(STAGES)}.")
        profile = profile_named(self.profile)
        reference = profile.open_store().reference(self.stage, self.key)
        if reference is None:
            raise NotReady(f"There is no artifact {self.stage} {self.key} in {profile.store}.")
        return reference.model_copy(update={"reused": True}).model_dump(mode="json")
