"""A scene that is there is an event, for other DAGs to start on: of every scene's asset, and of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetAlias

from e2e3d_stages.contract.figures import FIGURES

if TYPE_CHECKING:
    from airflow.sdk import Context

EVERY_SCENE = Asset(name="e2e3d_scene")
# Stands in a DAG's file for the scenes' own assets, whose names only a run knows.
ONE_SCENE = AssetAlias(name="e2e3d_one_scene")
OUTLETS = (EVERY_SCENE, ONE_SCENE)


def own_asset(scene: str) -> Asset:
    """The asset of one scene.

    :param scene: a slug.
    """
    return Asset(name=f"{EVERY_SCENE.name}/{scene}")


def announce(context: Context, record: Mapping[str, Any], page: str) -> None:
    """Have the running task's success tell of a scene.

    :param record: the run's, as `run.json` has it.
    :param page: where a person opens the scene.
    """
    told = {name: record[name] for name in ("scene", "run_id", "profile", "preset", "uri")}
    extra = {**told, "page": page, **{figure.name: figure.of_record(record) for figure in FIGURES}}
    events = context["outlet_events"]
    events[EVERY_SCENE].extra = extra
    events[ONE_SCENE].add(own_asset(record["scene"]), extra=extra)
