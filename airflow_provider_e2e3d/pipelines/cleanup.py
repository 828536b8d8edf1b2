"""Cleaning up as a DAG's one task: what nobody needs in the profiles' stores, and what jobs left on their backends."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from airflow.sdk import Param, get_current_context, task
from airflow.sdk.configuration import conf

from airflow_provider_e2e3d.backends.base import Backend
from airflow_provider_e2e3d.exceptions import stage_failed
from airflow_provider_e2e3d.jobs.attempt import retry_while_unavailable
from airflow_provider_e2e3d.pipelines.reconstruct import refuse_unknown
from airflow_provider_e2e3d.profiles.file import load_profiles, profile_named
from airflow_provider_e2e3d.profiles.profile import Profile
from airflow_provider_e2e3d.retention import remove, survey, why_orphan
from e2e3d_stages.contract.formatting import as_size
from e2e3d_stages.contract.messages import Failure, StageError, now
from e2e3d_stages.registry import STAGES
from e2e3d_stages.store.artifacts import ArtifactStore

log = logging.getLogger(__name__)


def cleanup_params() -> dict[str, Param]:
    """The trigger form."""
    return {
        "profile": Param(
            None,
            type=["null", "string"],
            enum=[*load_profiles(), None],
            values_display={"null": "every profile"},
            title="Profile",
            description="Whose store and backends are cleaned up. Empty: every profile's.",
        ),
        "dry_run": Param(
            conf.getboolean("e2e3d", "cleanup_dry_run", fallback=True),
            type="boolean",
            title="Dry run",
            description="Only say in the log what would be removed, and remove nothing.",
        ),
        "attempt_days": _days(
            7, "Days for attempts", "Attempts that made no artifact, their checkpoints and scratch stay so long."
        ),
        "artifact_days": _days(
            30, "Days for artifacts", "Artifacts that no scene names stay so long after they were last made or reused."
        ),
    }


def _days(default: int, title: str, description: str) -> Param:
    return Param(
        default,
        type="integer",
        minimum=1,
        maximum=36_500,
        title=title,
        description=f"{description} From 1 to 36,500.",
    )


@dataclass(frozen=True)
class _Item:
    """One line of the table, and how to make it true."""

    what: str
    reason: str
    size: int
    age: dt.timedelta
    remove: Callable[[], bool]


@task(task_id="clean_up", task_display_name="Clean up", retries=2)
def clean_up() -> dict[str, Any]:
    """Say what may go, and remove it unless the run is dry; returns how much it was."""
    context = get_current_context()
    params = context["params"]
    try:
        refuse_unknown(context["dag_run"].conf or {}, cleanup_params())
        named = params["profile"]
        return clean(
            {named: profile_named(named)} if named else load_profiles(),
            at=now(),
            dry_run=params["dry_run"],
            attempt_days=params["attempt_days"],
            artifact_days=params["artifact_days"],
        )
    except StageError as error:
        raise stage_failed(Failure.of(error, 0)) from error


def clean(
    profiles: Mapping[str, Profile], *, at: dt.datetime, dry_run: bool, attempt_days: int, artifact_days: int
) -> dict[str, Any]:
    """Clean up the stores and backends of profiles; each store once, whoever shares it.

    A store or a backend that does not answer keeps nobody from cleaning up the others.

    :param at: the time that ages are counted to.
    :returns: `items` and `bytes` that were removed, or would be in a dry run.
    :raises StageError: in the end, the first of what was met.
    """
    errors: list[StageError] = []
    freed: list[_Item] = []
    stores: dict[str, ArtifactStore] = {}
    for name, profile in profiles.items():
        parts: list[Callable[[], Iterator[_Item]]] = []
        if profile.store not in stores:
            stores[profile.store] = profile.open_store()
            parts.append(partial(_of_store, stores[profile.store], at, attempt_days, artifact_days))
        parts += [
            partial(_of_backend, backend, stores[profile.store], at, attempt_days) for backend in _backends(profile)
        ]
        for part in parts:
            try:
                found = list(part())
                log.info("%s", _table(f"{name}, {profile.store}", found))
                # One that several profiles share is counted once.
                fresh = [item for item in found if item.what not in {one.what for one in freed}]
                freed += fresh if dry_run else [item for item in fresh if _removed(item)]
            except StageError as error:
                log.error("%s: %s %s", name, error.message, error.hint)
                errors.append(error)
    total = {"items": len(freed), "bytes": sum(item.size for item in freed)}
    log.info("%s %d, %s.", "It would remove" if dry_run else "Removed", total["items"], as_size(total["bytes"]))
    if errors:
        raise errors[0]
    return total


def _removed(item: _Item) -> bool:
    done = item.remove()
    if not done:
        log.info("Kept, since somebody came back to it: %s", item.what)
    return done


def _of_store(store: ArtifactStore, at: dt.datetime, attempt_days: int, artifact_days: int) -> Iterator[_Item]:
    for spare in survey(store, at=at, attempt_days=attempt_days, artifact_days=artifact_days):
        yield _Item(spare.path, spare.reason, spare.size, spare.age, partial(remove, store, spare))


def _backends(profile: Profile) -> list[Backend]:
    """The profile's backends, each once."""
    backends = [profile.backend(stage) for stage in STAGES]
    return list({backend.settings.model_dump_json(): backend for backend in backends}.values())


def _of_backend(backend: Backend, store: ArtifactStore, at: dt.datetime, attempt_days: int) -> Iterator[_Item]:
    for left in retry_while_unavailable(lambda: list(backend.orphans(store.storage.uri))):
        reason = why_orphan(store, left, at=at, attempt_days=attempt_days)
        if reason:

            def remove(left: Any = left) -> bool:
                retry_while_unavailable(partial(backend.remove_orphan, left))
                return True

            yield _Item(left.what, reason, left.size, at - left.since, remove)


def _table(title: str, items: list[_Item]) -> str:
    lines = [f"{as_size(item.size):>10}  {item.age.days:>5} d  {item.what}: {item.reason}" for item in items]
    total = f"{as_size(sum(item.size for item in items)):>10}  in all"
    return "\n".join([f"{title}: {len(items)} may go", *lines, *([total] if items else [])])
