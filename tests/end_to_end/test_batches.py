"""A batch of four in a real Airflow: two fail in different ways, more scenes than one page holds, and then again."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from e2e3d_stages.contract.paths import folder_name
from tests.conftest import ALWAYS
from tests.end_to_end.conftest import Airflow, until
from tests.provider.conftest import Script
from tests.web import Web

# One Airflow serves both modules when one worker of pytest runs them.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("airflow")]

GOOD = {"abbey": "abbey", "{{ 7 * 7 }} bridges": "7-7-bridges"}
BAD = {"empty": {"ingest": "unreadable"}, "fog": {"sfm": "poor"}}


@pytest.fixture(scope="module")
def bucket(place: Path) -> Path:
    """Four captures."""
    folder = place / "captures" / "bucket"
    for name in (*GOOD, *BAD):
        (folder / name).mkdir(parents=True)
        (folder / name / "1.jpg").write_text(f"a photo of {name}")
        (folder / name / "told.json").write_text(json.dumps(BAD.get(name, {})))
    return folder


def all_ended(airflow: Airflow) -> bool:
    """Whether no batch is running, nor a next page of one about to."""
    try:
        return {"queued", "running"}.isdisjoint(airflow.runs("reconstruct_batch").values())
    except TimeoutError:
        return False


class Batch:
    """A batch that has ended, with all its pages."""

    def __init__(self, airflow: Airflow, place: Path, **conf: Any) -> None:
        before = set(airflow.runs("reconstruct"))
        self.run = airflow.trigger("reconstruct_batch", quiet_seconds=0, **conf)
        until(lambda: all_ended(airflow), 600, pause=1)
        self.pages = sorted(run for run in airflow.runs("reconstruct_batch") if run.endswith(self.run))
        # `page-2__…` comes after `manual__…`.
        self.last = self.pages[-1]
        self.state = airflow.state(self.last, "reconstruct_batch")
        self.started = set(airflow.runs("reconstruct")) - before
        (folder,) = (place / "store" / "batches").glob("*-bucket-*")
        self.page = (folder / folder_name(self.last) / "index.html").read_text()
        self.result = json.loads((folder / folder_name(self.last) / "batch.json").read_text())

    def reasons(self) -> dict[str, str]:
        """Class of failure by scene."""
        return {
            row["scene"]: row["outcome"]["reason"]["code"]
            for row in self.result["rows"]
            if "reason" in row.get("outcome", {})
        }


@pytest.fixture(scope="module")
def first(airflow: Airflow, place: Path, script: Script, bucket: Path) -> Batch:
    """The batch that meets the captures for the first time."""
    script.forget()
    return Batch(airflow, place, captures=str(bucket))


def test_what_can_be_made_is_made_once_and_what_cannot_stops_nothing(first: Batch, script: Script, place: Path) -> None:
    assert first.result["counts"] == {"succeeded": 2, "failed": 2}
    assert first.reasons() == {"empty": "unreadable_capture", "fog": "quality_gate"}
    ran = Counter(script.scenes)
    assert ran == {f"{name}/{stage}": 1 for name in GOOD for stage in ALWAYS} | {
        "empty/ingest": 1,
        "fog/ingest": 1,
        "fog/sfm": 1,
    }
    for scene in GOOD.values():
        assert (place / "store" / "scenes" / scene / "latest.json").exists()


def test_a_batch_above_the_limit_of_a_page_goes_on_by_itself(first: Batch) -> None:
    assert len(first.pages) == 2
    assert len(first.started) == 4


def test_a_batch_of_several_pages_is_told_once_and_its_scenes_not_by_themselves(first: Batch, told: Web) -> None:
    until(lambda: told.sent_to("/hook"))
    (news,) = [news for news in told.sent_to("/hook") if news["run"] in {*first.pages, *first.started}]
    assert (news["what"], news["state"], news["run"]) == ("batch", "failed", first.last)
    assert news["figures"] == {"succeeded": 2, "failed": 2}
    assert "fog (quality_gate)" in news["reason"]["message"]


def test_the_batch_says_how_it_was(first: Batch, airflow: Airflow) -> None:
    assert first.state == "failed"
    for told in ("2 succeeded", "2 failed", "Take at least 3", "could be placed", "../../../scenes/abbey/", "10 of 10"):
        assert told in first.page, told
    (asset,) = airflow.call("GET", "/assets?name_pattern=e2e3d_batch")["assets"]
    event = airflow.call("GET", f"/assets/events?asset_id={asset['id']}&order_by=-timestamp")["asset_events"][0]
    assert event["extra"]["counts"] == first.result["counts"]
    assert event["extra"]["page"].endswith("index.html")


def test_each_scene_is_a_task_of_its_name_whose_log_tells_its_reason(first: Batch, airflow: Airflow) -> None:
    found: dict[str, tuple[str, str, int]] = {}
    for page in first.pages:
        tasks = airflow.call("GET", f"/dags/reconstruct_batch/dagRuns/{page}/taskInstances/reconstruct/listMapped")
        for task in tasks["task_instances"]:
            found[task["rendered_map_index"]] = (task["state"], page, task["map_index"])
    assert {scene: state for scene, (state, *_) in found.items()} == {
        **dict.fromkeys(GOOD.values(), "success"),
        **dict.fromkeys(BAD, "failed"),
    }
    _, page, index = found["fog"]
    told = airflow.call(
        "GET",
        f"/dags/reconstruct_batch/dagRuns/{page}/taskInstances/reconstruct/logs/1?map_index={index}&full_content=true",
    )
    assert "2 of 10 photos could be placed" in json.dumps(told)


def test_the_same_captures_again_start_nothing_and_are_told_the_same(
    first: Batch, airflow: Airflow, place: Path, bucket: Path, script: Script
) -> None:
    script.forget()
    again = Batch(airflow, place, captures=str(bucket))
    assert again.started == set()
    assert script.calls == []
    assert again.result["counts"] == {"reused": 2, "failing": 2}
    assert again.reasons() == first.reasons()
    assert again.state == "failed"


def test_a_batch_without_failures_is_a_success_and_a_mended_capture_is_run(
    first: Batch, airflow: Airflow, place: Path, bucket: Path, script: Script
) -> None:
    shutil.rmtree(bucket / "empty")
    (bucket / "fog" / "told.json").write_text("{}")
    script.forget()
    mended = Batch(airflow, place, captures=str(bucket))
    assert mended.result["counts"] == {"succeeded": 1, "reused": 2}
    assert mended.state == "success"
    assert set(script.scenes) == {f"fog/{stage}" for stage in ALWAYS}


def test_a_batch_that_cannot_be_planned_fails_at_once_and_so_does_one_with_unknown_names(
    airflow: Airflow, place: Path
) -> None:
    asked: dict[str, dict[str, Any]] = {
        "The capture /etc is outside": {"captures": "/etc"},
        "There is no parameter 'speed'.": {"captures": "/x", "speed": 9},
    }
    runs = {reason: airflow.trigger("reconstruct_batch", **conf) for reason, conf in asked.items()}
    for reason, run in runs.items():
        assert airflow.end_of(run, "reconstruct_batch") == "failed"
        assert reason in airflow.log(place, run, "plan", 1, "reconstruct_batch")
        assert airflow.task(run, "plan", "reconstruct_batch")["try_number"] == 1
