"""Where a task's buttons in Airflow lead: its artifact, its job, the scene, the report.

Airflow finds a button's address in an XCom, which it writes itself when the task ends. These are pushed as soon as they
are known, so that they work while the task runs or is deferred; at the end Airflow is told the same once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink
from airflow.sdk.configuration import conf

from airflow_provider_e2e3d.backends.aws.console import console_of
from e2e3d_stages.store.base import Storage

if TYPE_CHECKING:
    from airflow.sdk import Context


class PushedLink(BaseOperatorLink):
    """A link whose address the task finds out as it runs; without one the button is grey."""

    def push(self, context: Context, address: str | None) -> None:
        """Make it work from now on."""
        if address:
            context["ti"].xcom_push(key=self.xcom_key, value=address)

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """What was pushed."""
        from airflow.sdk.execution_time.xcom import XCom

        return str(XCom.get_value(ti_key=ti_key, key=self.xcom_key) or "")


class ArtifactLink(PushedLink):
    """What the stage read and wrote, and its attempts."""

    name = "Artifact"


class JobLink(PushedLink):
    """What runs the stage's program, where its backend or profile knows a page of it."""

    name = "Job"


class SceneLink(PushedLink):
    """The scene inside Airflow."""

    name = "Open scene"


class ReportLink(PushedLink):
    """How good the scene is and how it was made."""

    name = "Report"


def airflow_address(path: str) -> str:
    """A page of this Airflow: below `[api] base_url`, or of whatever host the browser is at where that is not set."""
    return f"{(conf.get('api', 'base_url', fallback='') or '').rstrip('/')}{path}"


def run_address(dag_id: str, run_id: str) -> str:
    """A DAG run's page."""
    return airflow_address(f"/dags/{quote(dag_id)}/runs/{quote(run_id)}")


def scene_address(folder: str) -> str:
    """The UI plugin's page of a scene's run.

    :param folder: the run's own in the store, `…/scenes/<scene>/<run>`.
    """
    scene, run = folder.rstrip("/").split("/")[-2:]
    return airflow_address(f"/e2e3d/scenes/{scene}/{run}")


def is_on_the_web(address: str | None) -> TypeGuard[str]:
    """Whether there is an address that a browser opens, wherever it runs."""
    return address is not None and address.startswith(("http://", "https://"))


def artifact_address(ti: Any, storage: Storage, path: str) -> str:
    """Where a person looks at a task's folder of the store: AWS's console, or the task's own tab *Artifact*."""
    if storage.aws_region is None:
        task = f"tasks/{quote(ti.task_id)}" + (f"/mapped/{ti.map_index}" if ti.map_index >= 0 else "")
        return f"{run_address(ti.dag_id, ti.run_id)}/{task}/plugin/artifact"
    bucket, _, prefix = storage.uri_of(path).removeprefix("s3://").partition("/")
    return f"{console_of(storage.aws_region)}/s3/buckets/{bucket}?prefix={quote(f'{prefix}/')}"
