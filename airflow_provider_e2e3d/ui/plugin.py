"""What Airflow's plugin manager asks: the pages' places in its UI, and, in the API server only, the app behind them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from airflow.plugins_manager import AirflowPlugin

PREFIX = "/e2e3d"
# Relative to the `<base>` of Airflow's page, so that they are right behind a proxy's prefix too.
_ICONS = {"icon": "e2e3d/static/newest/icon.svg", "icon_dark_mode": "e2e3d/static/newest/icon-dark.svg"}


class E2E3DPlugin(AirflowPlugin):
    """Tabs of a run and a task, and an entry in the navigation."""

    name = "e2e3d"
    external_views: list[Any] = [
        {
            "name": "Scenes",
            "href": "e2e3d/scenes",
            "destination": "nav",
            "url_route": "scenes",
            "nav_top_level": True,
            **_ICONS,
        },
        {
            "name": "Scene",
            "href": "e2e3d/run?dag_id={DAG_ID}&run_id={RUN_ID}",
            "destination": "dag_run",
            "url_route": "scene",
            **_ICONS,
        },
        {
            "name": "Artifact",
            "href": "e2e3d/task?dag_id={DAG_ID}&run_id={RUN_ID}&task_id={TASK_ID}&map_index={MAP_INDEX}",
            "destination": "task_instance",
            "url_route": "artifact",
            **_ICONS,
        },
    ]

    @cached_property
    def fastapi_apps(self) -> list[Any]:  # type: ignore[override]
        """Made only where it is served: every component loads plugins, and few need a web framework."""
        from airflow_provider_e2e3d.ui.api import create_app

        return [{"app": create_app(), "url_prefix": PREFIX, "name": "E2E3D"}]
