"""What `reconstruct_on_upload` watches, and what it does about a complete upload."""

from __future__ import annotations

import hashlib
from typing import Any

from airflow.sdk import Asset, AssetWatcher, get_current_context, task
from airflow.sdk.configuration import conf

from airflow_provider_e2e3d.exceptions import stage_failed
from airflow_provider_e2e3d.jobs.retries import watch_retries
from airflow_provider_e2e3d.operators.scene import ReconstructSceneOperator
from airflow_provider_e2e3d.profiles.file import load_profiles, profile_named
from airflow_provider_e2e3d.triggers.capture import CaptureTrigger
from e2e3d_stages.contract.messages import Failure, InvalidRequest


def watched_uploads() -> Asset | None:
    """The captures below `[e2e3d] watch_captures`, as an asset that has an event for each complete upload.

    :returns: None while nothing is to be watched.
    :raises InvalidRequest: when the profile is not there, or may not read that place.
    """
    prefix = conf.get("e2e3d", "watch_captures", fallback="").strip()
    if not prefix:
        return None
    profile = watched_profile()
    place = profile_named(profile).admit(prefix, or_root=True)
    trigger = CaptureTrigger(
        profile=profile,
        prefix=place,
        marker=conf.get("e2e3d", "watch_marker", fallback=""),
        quiet_seconds=conf.getfloat("e2e3d", "watch_quiet_seconds", fallback=120.0),
        min_photos=conf.getint("e2e3d", "watch_min_photos", fallback=5),
        poll_seconds=conf.getfloat("e2e3d", "watch_poll_seconds", fallback=30.0),
        queue=conf.get("e2e3d", "watch_queue", fallback=""),
    )
    # No URI, which would have the Amazon provider import boto3 whenever the DAG is parsed.
    return Asset(name=f"uploads to {place}", watchers=[AssetWatcher(name="uploads", trigger=trigger)])


def watched_profile() -> str:
    """`[e2e3d] watch_profile`, or the first profile."""
    return conf.get("e2e3d", "watch_profile", fallback="") or next(iter(load_profiles()))


def requests(events: list[dict[str, Any]], profile: str) -> list[dict[str, Any]]:
    """A run for each upload: its id, the same whenever it is told of the same upload, and what it is asked.

    :param events: as `CaptureTrigger` tells them, in their order; of one capture only the newest counts.
    """
    newest = {event["capture"]: event for event in events}
    return [
        {
            "run_id": f"upload__{event['scene']}__{_digest(event)}",
            "conf": {"capture": event["capture"], "scene": event["scene"], "profile": profile},
        }
        for event in newest.values()
    ]


def _digest(event: dict[str, Any]) -> str:
    return hashlib.sha256(f"{event['capture']} {event['fingerprint']}".encode()).hexdigest()[:12]


@task(task_id="uploads", task_display_name="Complete uploads", **watch_retries())
def uploads_task() -> list[dict[str, Any]]:
    """The uploads that started this run."""
    context = get_current_context()
    if asked := context["dag_run"].conf:
        refusal = InvalidRequest(
            f"This DAG takes no conf, and got {', '.join(asked)}.", hint="Trigger `reconstruct` for a capture by hand."
        )
        raise stage_failed(Failure.of(refusal, 0))
    events = [event for of_asset in context["triggering_asset_events"].values() for event in of_asset]
    told = [event.extra["payload"] for event in sorted(events, key=lambda event: event.timestamp)]
    return requests(told, watched_profile())


def reconstruct_uploads() -> None:
    """The tasks of one run of `reconstruct_on_upload`."""
    ReconstructSceneOperator.partial(
        task_id="reconstruct_scene",
        task_display_name="Reconstruct the scene",
        map_index_template="{{ task.conf.scene }}",
        **watch_retries(),
    ).expand_kwargs(uploads_task())
