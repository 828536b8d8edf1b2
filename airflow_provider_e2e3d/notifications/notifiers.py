"""Notifiers: word of a scene's run or a batch that ended or waits for a person, to where `[e2e3d] notify_…` says.

They are callbacks of tasks, and neither tasks nor callbacks of a DAG. A task at the DAG's end would decide the run's
state. A DAG's callbacks run in the DAG processor, which may not reach the store, and whose log nobody reads. A task's
callback runs in its worker once the task's state is settled, and logs into the task's own log; only where the worker
died does the DAG processor run it. In a reconstruction, whose tasks follow one another, the last task's success is the
run's success, and any task's failure is the run's failure.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier

from airflow_provider_e2e3d import metrics
from airflow_provider_e2e3d.notifications.channels import Notification, Picture, configured_channels, notify
from airflow_provider_e2e3d.operators.links import is_on_the_web, run_address, scene_address
from airflow_provider_e2e3d.profiles.file import profile_named
from airflow_provider_e2e3d.scenes.names import scene_of, title_of
from airflow_provider_e2e3d.scenes.outcome import FAILURE, FILM, FOLDER, METRICS, PAGE, UNKNOWN, Reason
from e2e3d_stages.contract import figures
from e2e3d_stages.contract.messages import now
from e2e3d_stages.publish.spec import THUMBNAIL
from e2e3d_stages.store.base import NotFound

if TYPE_CHECKING:
    from airflow.sdk import Context


class EndNotifier(BaseNotifier):
    """Tells of an end, where anybody is to be told. What goes wrong with it is a line in the log."""

    def notify(self, context: Context) -> None:
        """See `BaseNotifier.notify`."""
        try:
            if metrics.is_on():
                self.count(context)
        except Exception:
            self.log.warning("It is not counted in the metrics", exc_info=True)
        if not configured_channels() or not context["params"].get("notify", True):
            return
        try:
            notification = self.notification(context)
            if notification is not None:
                notify(notification, self.picture(context))
        except Exception:
            self.log.warning("There is no notification", exc_info=True)

    def count(self, context: Context) -> None:
        """Tell of it as metrics."""

    @abstractmethod
    def notification(self, context: Context) -> Notification | None:
        """What there is to tell, if anything."""

    def picture(self, context: Context) -> Picture:
        """Reads a picture of it."""
        return lambda: None


class SceneWaits(EndNotifier):
    """Notifier of `ApproveTrainingOperator`: somebody is to answer before the scene is trained."""

    def notification(self, context: Context) -> Notification:
        """The question, what each answer leads to, and where to answer."""
        task: Any = context["task"]
        ti = context["ti"]
        page = f"{run_address(ti.dag_id, context['run_id'])}/tasks/{ti.task_id}/required_actions"
        return Notification(
            what="scene",
            state="waiting",
            name=task.plan["scene"],
            run=context["run_id"],
            headline=f"{task.subject} {', '.join(task.choices)}: the run waits for your answer.",
            page=page if is_on_the_web(page) else None,
            airflow=run_on_the_web(context),
            lines={choice.capitalize(): ahead for choice, ahead in task.choices.items()},
        )


class SceneSucceeded(EndNotifier):
    """`on_success_callback` of the task that publishes: the scene is there."""

    def count(self, context: Context) -> None:
        """A scene more, its figures, and its time."""
        record = _record(context)
        metrics.scene_succeeded(record["metrics"] or {}, record["seconds"])

    def notification(self, context: Context) -> Notification:
        """The scene, its figures, and where it is."""
        page, folder, record = _told(context, PAGE), _told(context, FOLDER), _record(context)
        scene, inside = folder.split("/")[-2], scene_address(folder)
        few = figures.lines({"metrics": record["metrics"]}, figures.CARD)
        summary = ", ".join(f"{label} {text}" for label, text in few.items())
        return Notification(
            what="scene",
            state="succeeded",
            name=scene,
            run=context["run_id"],
            headline=f"The scene {title_of(scene, _capture(context))} is ready. {summary}".strip(),
            # A browser does not open a bucket or a folder; Airflow shows what lies there.
            page=inside if is_on_the_web(inside) and not is_on_the_web(page) else page,
            airflow=run_on_the_web(context),
            thumbnail=page.replace("/index.html", f"/{THUMBNAIL}"),
            film=_told(context, FILM),
            figures=record["metrics"],
            lines=figures.lines(record),
        )

    def picture(self, context: Context) -> Picture:
        """Reads the scene's thumbnail."""
        task: Any = context["task"]
        profile, folder = profile_named(task.profile), _told(context, FOLDER)

        def read() -> bytes | None:
            storage = profile.open_store().storage
            with suppress(NotFound):
                return storage.read(f"{folder}/{THUMBNAIL}")
            return None

        return read


class SceneFailed(EndNotifier):
    """`on_failure_callback` of every task of a scene's run: why there is no scene, and what to do."""

    def count(self, context: Context) -> None:
        """A failed run more."""
        metrics.scene_failed(reason_of(context).code)

    def notification(self, context: Context) -> Notification:
        """The reason as the task told it."""
        capture = _capture(context)
        scene = context["params"].get("scene") or scene_of(capture)
        reason = reason_of(context)
        first_line, _, _ = reason.message.partition("\n")
        return Notification(
            what="scene",
            state="failed",
            name=scene,
            run=context["run_id"],
            headline=f"There is no scene {title_of(scene, capture)}. {first_line}",
            airflow=run_on_the_web(context),
            reason=reason,
        )


def reason_of(context: Context) -> Reason:
    """Why the task failed: as it told it itself, else the words of what it raised."""
    told = _told(context, FAILURE)
    if told is not None:
        return Reason.model_validate(told)
    task, error = context["ti"].task_id, context.get("exception")
    return Reason(
        stage=task,
        code=UNKNOWN,
        message=str(error or "") or f"The task {task} ended without telling why: its worker may have died.",
        hint=f"Read the end of the log of the task {task} in Airflow, and clear the task to try again.",
    )


def run_on_the_web(context: Context) -> str | None:
    """The run's page in Airflow, where Airflow knows its own address."""
    page = run_address(context["ti"].dag_id, context["run_id"])
    return page if is_on_the_web(page) else None


def _told(context: Context, key: str) -> Any:
    """What the task left under a name."""
    ti = context["ti"]
    return ti.xcom_pull(task_ids=ti.task_id, key=key, map_indexes=ti.map_index)


def _capture(context: Context) -> str:
    """What the run was asked to make a scene of."""
    return str(context["params"].get("capture", ""))


def _record(context: Context) -> dict[str, Any]:
    """The run's figures, as its record has them."""
    run = context["dag_run"]
    seconds = (now() - (run.start_date or run.run_after)).total_seconds()
    return {"metrics": _told(context, METRICS), "seconds": seconds}
