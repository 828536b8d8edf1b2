"""A person's word before training: who is asked what, by which ways it is answered, and what each answer does."""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import quote, unquote

import pytest
import uvicorn
from airflow.api_fastapi import app as airflow_app
from airflow.jobs.job import Job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.dagrun import DagRun
from airflow.models.hitl import HITLDetail
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.sdk.definitions import dag as dag_module
from airflow.utils.session import create_session
from sqlalchemy import select
from starlette.testclient import TestClient

from airflow_provider_e2e3d.costs.estimate import StageEstimate, is_above
from airflow_provider_e2e3d.operators.approval import as_draft
from airflow_provider_e2e3d.scenes.outcome import outcome_of
from e2e3d_stages.contract.messages import now
from e2e3d_stages.registry import STAGES
from tests.airflow_runs import Outcome
from tests.browser import chromium, explained, visit
from tests.conftest import ALWAYS, free_port, until
from tests.provider.conftest import Script
from tests.provider.test_data_is_no_template import CANARY, nowhere
from tests.provider.test_reconstruct_runs import manifest_of
from tests.provider.test_ui import user

Run = Callable[..., Outcome]
ALWAYS_ASK = "0 min"


class Person:
    """Answers as soon as a run waits; what it saw of the waiting run is kept.

    :param answer: gives it.
    """

    def __init__(self) -> None:
        self.answer: Callable[[str], object] = lambda run_id: None
        self.asked: list[dict[str, Any]] = []
        self.waiting: list[tuple[str | None, int | None]] = []

    def look(self) -> None:
        """In the pause that `dag.test()` makes while a run waits."""
        with create_session() as session:
            row = session.execute(
                select(TaskInstance.run_id, TaskInstance.state, TaskInstance.trigger_id, HITLDetail)
                .join(HITLDetail, HITLDetail.ti_id == TaskInstance.id)
                .where(HITLDetail.responded_at.is_(None))
            ).one()
            run_id, state, trigger, question = row
            self.waiting.append((state, trigger))
            self.asked.append({name: getattr(question, name) for name in ("subject", "body", "options", "defaults")})
        self.answer(run_id)


@pytest.fixture(scope="module")
def api(airflow_home: Path) -> TestClient:
    """Airflow's REST API as a person with a login has it."""
    app = airflow_app.create_app(apps="core")
    token = airflow_app.get_auth_manager().generate_jwt(user("user", "ann"))
    return TestClient(app, headers={"Authorization": f"Bearer {token}"})


@pytest.fixture(scope="module")
def site(api: TestClient) -> Iterator[str]:
    """The address at which Airflow's pages are to be had."""
    server = uvicorn.Server(uvicorn.Config(api.app, port=free_port(), log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    yield f"http://127.0.0.1:{server.config.port}"
    server.should_exit = True
    thread.join(30)


def in_browser(site: str, act: Callable[[Any], object]) -> None:
    """Do something in a tab of a person who is logged in; in a thread, whose loop of events is nobody else's."""

    def go() -> None:
        with chromium() as browser:
            tab = browser.new_page()
            tab.set_default_timeout(150_000)
            token = airflow_app.get_auth_manager().generate_jwt(user("user", "ann"))
            tab.context.add_cookies([{"name": "_token", "value": token, "url": site}])
            with explained(tab):
                act(tab)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(go).result()


def scene_tab(tab: Any, site: str, run_id: str) -> Any:
    """Of a run, opened."""
    return visit(tab, f"{site}/dags/reconstruct/runs/{quote(run_id)}/plugin/scene", "Scene")


def state_and_conf(run_id: str) -> tuple[str, dict[str, Any]]:
    """Of a run."""
    with create_session() as session:
        return tuple(session.execute(select(DagRun.state, DagRun.conf).where(DagRun.run_id == run_id)).one())


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> Person:
    """Whoever is asked."""
    someone = Person()
    pause = time.sleep

    def look_instead(seconds: float) -> None:
        if sys._getframe(1).f_code.co_filename != dag_module.__file__:
            pause(seconds)
        else:
            someone.look()

    monkeypatch.setattr(time, "sleep", look_instead)
    return someone


def answers(api: TestClient, choice: str) -> Callable[[str], object]:
    """By Airflow's REST API."""

    def by_rest(run_id: str) -> None:
        place = f"/api/v2/dags/reconstruct/dagRuns/{run_id}/taskInstances/approve/-1/hitlDetails"
        assert api.patch(place, json={"chosen_options": ["paint it"], "params_input": {}}).status_code == 400
        answer = api.patch(place, json={"chosen_options": [choice], "params_input": {}})
        assert answer.status_code == 200, answer.text

    return by_rest


def latest(tmp_path: Path, scene: str = "statue") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "store/scenes" / scene / "latest.json").read_text())
    return found


@pytest.mark.slow
def test_a_person_trains_a_draft_by_rest_and_the_record_says_so(
    run: Run, script: Script, person: Person, api: TestClient, captures: Path, tmp_path: Path
) -> None:
    capture = captures / f"a {CANARY} ![x](http:x)"
    (captures / "statue").rename(capture)
    person.answer = answers(api, "train as draft")
    outcome = run(
        "publish",
        capture=str(capture),
        scene="canary",
        preset="standard",
        train_ssim_weight=0.3,
        ask_above=ALWAYS_ASK,
    )
    assert outcome.state == "success", outcome.log[-3000:]
    # Neither a worker nor a trigger.
    assert person.waiting == [("awaiting_input", None)]
    (asked,) = person.asked
    assert asked["subject"] == "Train the scene canary?"
    assert asked["options"] == ["train", "train as draft", "stop"]
    assert asked["defaults"] == ["stop"]
    assert "10 of 10 photos placed, reprojection error 0.62 px, 12,345 points" in asked["body"]
    assert "**train as draft**" in asked["body"]
    assert "http:x" not in asked["body"]
    nowhere(outcome.log + json.dumps(asked))
    trained = manifest_of(outcome, "train").params
    draft = STAGES["train"].resolve("draft", {"ssim_weight": 0.3}).model_dump(mode="json")
    assert trained == draft
    record = latest(tmp_path, "canary")
    assert (record["preset"], record["approval"]["choice"], record["approval"]["by"]) == (
        "standard",
        "train as draft",
        "ann",
    )
    assert record["stages"]["train"]["changed"]["iterations"] == 15_000


@pytest.mark.slow
@pytest.mark.browser
def test_a_person_answers_in_airflows_pages_then_runs_a_stage_again_and_cancels_that(
    run: Run, script: Script, person: Person, site: str
) -> None:
    def answer(run_id: str) -> None:
        def act(tab: Any) -> None:
            scene_tab(tab, site, run_id).get_by_role("link", name="Look at what was found").click()
            tab.get_by_text("12,345 points").wait_for()
            keep_picture(tab, "asked.png")
            tab.get_by_role("button", name="train as draft").click()
            until(lambda: state_of_approve() != "awaiting_input")

        in_browser(site, act)

    person.answer = answer
    outcome = run("train", preset="standard", ask_above=ALWAYS_ASK)
    assert outcome.state == "success", outcome.log[-3000:]
    assert manifest_of(outcome, "train").params["iterations"] == 2_500

    def again_and_cancel(tab: Any) -> None:
        scene = scene_tab(tab, site, outcome.run_id)
        scene.get_by_text("Run again with").click()
        scene.get_by_label("Make anew").select_option("train")
        keep_picture(tab, "again.png")
        scene.get_by_role("button", name="Run again").click()
        scene.get_by_role("link", name="It has started").click()
        scene.get_by_role("button", name="Cancel the run").click()
        second = unquote(tab.url.split("/runs/")[1].split("/")[0])
        assert second != outcome.run_id
        state, conf = state_and_conf(second)
        assert state == "queued"
        assert (conf["force"], conf["preset"]) == (["train"], "standard")
        scene.get_by_role("button", name="Yes, end it").click()
        until(lambda: state_and_conf(second)[0] == "failed")

    in_browser(site, again_and_cancel)


def keep_picture(tab: Any, name: str) -> None:
    """For a person who wants to look: `E2E3D_PICTURES` names the folder."""
    if folder := os.environ.get("E2E3D_PICTURES"):
        tab.screenshot(path=Path(folder) / name)


@pytest.mark.slow
def test_a_run_that_is_stopped_ends_without_a_failure_and_says_who_stopped_it(
    run: Run, script: Script, person: Person, api: TestClient, tmp_path: Path
) -> None:
    person.answer = answers(api, "stop")
    outcome = run("publish", ask_above=ALWAYS_ASK)
    assert script.calls == ["ingest", "sfm"]
    assert outcome.state == "success"
    assert {outcome.states[stage] for stage in ALWAYS[2:]} == {"skipped"}
    assert not (tmp_path / "store/scenes/statue/latest.json").exists()
    ended = outcome_of({"ti": Waiter()}, outcome.run_id)  # type: ignore[typeddict-item]
    assert (ended.state, ended.page) == ("stopped", None)
    assert "ann stopped it before training." in str(ended.reason)


class Waiter:
    """A task of another run that asks how one ended, as far as `outcome_of` needs it."""

    def get_dr_count(self, **_: Any) -> int:
        return 1

    def get_dagrun_state(self, **_: Any) -> str:
        return "success"

    def xcom_pull(self, *, run_id: str, task_ids: str, key: str, **_: Any) -> Any:
        query = select(XComModel).where(XComModel.run_id == run_id, XComModel.task_id == task_ids, XComModel.key == key)
        with create_session() as session:
            found = session.scalars(query).first()
            return XComModel.deserialize_value(found) if found else None


@pytest.mark.slow
def test_without_an_answer_the_time_limit_stops_the_run(
    run: Run, script: Script, person: Person, profiles: Path
) -> None:
    profiles.write_text(f"{profiles.read_text()}  ask_above: {ALWAYS_ASK}\n  ask_hours: 3\n")

    def wait(_run_id: str) -> None:
        for hours in (2.9, 3.1):
            when_the_scheduler_looks(hours)
            states.append(state_of_approve())

    states: list[str | None] = []
    person.answer = wait
    # No conf asks later than the profile's owner wants it.
    outcome = run("publish", ask_above="99999 min")
    assert states == ["awaiting_input", "scheduled"]
    assert script.calls == ["ingest", "sfm"]
    assert outcome.state == "success"
    assert "Nobody answered in time: stop" in outcome.log


def when_the_scheduler_looks(hours: float) -> None:
    """What it does about those who wait, so many hours later."""
    then = now() + dt.timedelta(hours=hours)
    with patch("airflow.jobs.scheduler_job_runner.timezone.utcnow", return_value=then):
        SchedulerJobRunner(Job()).check_awaiting_input_timeouts()


def state_of_approve() -> str | None:
    """Of the newest run."""
    query = select(TaskInstance.state).where(TaskInstance.task_id == "approve").order_by(TaskInstance.start_date.desc())
    with create_session() as session:
        return session.scalars(query).first()


@pytest.mark.slow
def test_nobody_is_asked_of_what_costs_little_nor_of_a_training_that_is_there(
    run: Run, script: Script, person: Person
) -> None:
    cheap = run("train", preset="standard", ask_above="99999 min")
    assert (cheap.state, cheap.states["approve"], person.asked) == ("success", "skipped", [])
    person.answer = lambda _run_id: when_the_scheduler_looks(25)
    run("train", preset="standard", ask_above=ALWAYS_ASK)
    # What follows it is ahead all the same.
    assert [asked["options"] for asked in person.asked] == [["train", "stop"]]
    assert script.calls == ["ingest", "sfm", "train"]


@pytest.mark.parametrize(
    ("limit", "price", "asks"),
    [
        ("2 min", 0.0, False),
        ("1.9 min", 0.0, True),
        ("2.50 USD", 2.5, False),
        ("2.49 USD", 2.5, True),
        ("2.50 USD", None, True),
        ("2 min", None, False),
    ],
)
def test_who_is_asked_depends_on_minutes_or_dollars(limit: str, price: float | None, asks: bool) -> None:
    ahead = StageEstimate(stage="train", seconds=120, backend="local", price=price)
    assert is_above(limit, [ahead]) is asks


def test_a_draft_differs_only_in_what_presets_decide() -> None:
    asked = STAGES["train"].resolve("high", {"seed": 7, "iterations": 20_000}).model_dump(mode="json")
    assert as_draft(asked) == STAGES["train"].resolve("draft", {"seed": 7}).model_dump(mode="json")
