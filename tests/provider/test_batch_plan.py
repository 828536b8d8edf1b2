"""What a batch decides for each capture, and what it tells afterwards; no Airflow needed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_e2e3d.pipelines.batch.plan import (
    BatchFolder,
    BatchRequest,
    Ledger,
    Plan,
    Row,
    conf_of,
    plan_batch,
)
from airflow_provider_e2e3d.pipelines.batch.report import batch_page, ended, failed_scenes, recorded
from airflow_provider_e2e3d.profiles.profile import Profile
from airflow_provider_e2e3d.scenes.outcome import Outcome, Reason
from e2e3d_stages.contract.messages import InvalidRequest
from e2e3d_stages.store.base import Storage
from e2e3d_stages.store.opening import open_storage


class Batches:
    """Batches of one folder of captures, one after the other."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.profile = Profile(store=f"{root}/store", captures=(f"{root}/captures",), preset="draft")
        self.storage = open_storage(f"{root}/captures")
        self.ledger = Ledger()
        self.number = 0

    def put(self, path: str, content: str = "a photo") -> None:
        """Upload a file."""
        self.storage.write(path, content.encode())

    def plan(
        self, *, page_size: int = 1000, run: str | None = None, captures: str = "", opener: Any = None, **asked: Any
    ) -> Plan:
        """What the next batch would do."""
        self.number += 1
        request = BatchRequest(
            captures=f"{self.root}/captures{captures}", profile="local", **{"quiet_seconds": 0, **asked}
        )
        return plan_batch(
            request,
            run or f"manual__{self.number}",
            self.profile,
            self.ledger,
            opener or open_storage,
            page_size=page_size,
        )

    def end(self, plan: Plan, **codes: str) -> Plan:
        """The runs of a plan end, some of them with a class of failure; names with _ for -."""

        def outcome(run: str) -> Outcome:
            code = codes.get(run.split("__")[0].replace("-", "_"))
            if code is None:
                return Outcome(run=run, state="succeeded", page=f"{self.root}/store/scenes/x/{run}/index.html")
            state: Any = "stopped" if code == "stopped" else "failed"
            return Outcome(run=run, state=state, reason=Reason(stage="sfm", code=code, message="It is too dark."))

        result = ended(plan, {}, outcome)
        # As the store would give it back.
        self.ledger = Ledger.model_validate_json(recorded(self.ledger, plan.started, result).model_dump_json())
        return result


@pytest.fixture
def batches(tmp_path: Path) -> Batches:
    """Two captures."""
    made = Batches(tmp_path.as_uri())
    made.put("statue/1.jpg")
    made.put("tower/1.jpg")
    return made


def states(plan: Plan) -> dict[str, str]:
    """What becomes of each scene."""
    return {row.scene: row.state.value for row in plan.rows}


def row(plan: Plan, scene: str) -> Row:
    """One scene."""
    (found,) = [row for row in plan.rows if row.scene == scene]
    return found


def reason(plan: Plan, scene: str) -> Reason:
    """Why one scene failed."""
    outcome = row(plan, scene).outcome
    assert outcome is not None
    assert outcome.reason is not None
    return outcome.reason


def test_every_new_capture_gets_a_run_with_an_id_that_stays(batches: Batches) -> None:
    first, again = (batches.plan(run="scheduled__1") for _ in range(2))
    assert [row.run for row in first.started] == ["statue__scheduled__1", "tower__scheduled__1"]
    assert first == again
    conf = conf_of(first.started[0], "local")
    told = {"scene": "statue", "profile": "local", "notify": False}
    assert conf == {"capture": f"{batches.root}/captures/statue", **told}


def test_what_is_unchanged_is_reused_and_what_changed_is_run(batches: Batches) -> None:
    batches.end(batches.plan())
    assert batches.plan().counts == {"reused": 2}
    batches.put("tower/2.jpg")
    assert states(batches.plan()) == {"statue": "reused", "tower": "run"}
    batches.end(batches.plan())
    assert batches.plan().counts == {"reused": 2}
    assert batches.plan(preset="high").counts == {"run": 2}
    assert batches.plan(parameters={"train_iterations": 999}).counts == {"run": 2}
    assert batches.plan(parameters={"min_placed_share": 0.1}).counts == {"run": 2}


def test_a_profile_whose_preset_changed_asks_for_something_else(batches: Batches) -> None:
    batches.end(batches.plan())
    batches.profile = batches.profile.model_copy(update={"preset": "high"})
    assert batches.plan().counts == {"run": 2}


def test_what_failed_by_itself_is_told_again_and_not_run_until_it_changes_or_is_forced(batches: Batches) -> None:
    batches.end(batches.plan(), statue="quality_gate")
    told = batches.plan()
    assert states(told) == {"statue": "failing", "tower": "reused"}
    assert failed_scenes(told) == ["statue (quality_gate)"]
    assert states(batches.plan(force="failed")) == {"statue": "run", "tower": "reused"}
    assert states(batches.plan(force="all")) == {"statue": "run", "tower": "run"}
    batches.put("statue/2.jpg")
    assert states(batches.plan()) == {"statue": "run", "tower": "reused"}


def test_what_a_person_stopped_is_no_failure_and_not_run_until_it_changes_or_is_forced(batches: Batches) -> None:
    batches.end(batches.plan(), statue="stopped")
    told = batches.plan()
    assert states(told) == {"statue": "stopped", "tower": "reused"}
    assert failed_scenes(told) == []
    assert states(batches.plan(force="failed")) == {"statue": "run", "tower": "reused"}
    batches.put("statue/2.jpg")
    assert states(batches.plan()) == {"statue": "run", "tower": "reused"}


@pytest.mark.parametrize("code", ["infrastructure", "interrupted", "unknown"])
def test_what_failed_for_no_fault_of_its_own_is_run_again(batches: Batches, code: str) -> None:
    batches.end(batches.plan(), statue=code)
    assert states(batches.plan()) == {"statue": "run", "tower": "reused"}


def test_what_keeps_failing_does_not_take_the_turn_of_others(batches: Batches) -> None:
    batches.end(batches.plan(limit=1), statue="infrastructure")
    assert states(batches.plan(limit=1)) == {"statue": "waiting", "tower": "run"}


def test_captures_that_read_alike_become_scenes_of_their_own_for_good(batches: Batches) -> None:
    batches.put("Tower/1.jpg")
    names = {row.capture.rpartition("/")[2]: row.scene for row in batches.plan().rows}
    assert len(set(names.values())) == 3
    batches.end(batches.plan())
    # It comes first in a listing, but others were there before.
    batches.put("TOWER/1.jpg")
    plan = batches.plan()
    later = {row.capture.rpartition("/")[2]: row.scene for row in plan.rows}
    assert later.items() >= names.items()
    assert plan.counts == {"run": 1, "reused": 3}


def test_names_of_all_kinds_can_be_captures(batches: Batches) -> None:
    for name in ("Marché aux Fleurs", "石像", "{{ 7 * 7 }}", "a&b <c>", "no. #1 50%"):
        batches.put(f"{name}/1.jpg")
    plan = batches.plan()
    assert plan.counts == {"run": 7}
    for each in plan.started:
        assert list(open_storage(each.capture).list()), each.capture
    assert "a&b <c>" not in batch_page("x", plan, str)


def test_a_batch_never_takes_its_whole_place_for_a_capture(store_uri: str) -> None:
    batches = Batches(store_uri)
    batches.put("statue/1.jpg")
    if store_uri.startswith("s3:"):
        batches.put("/m/0.jpg")
        batches.put("//0.jpg")
    batches.put("some.json", json.dumps([{"capture": f"{store_uri}/captures"}, {"capture": "statue"}]))
    assert [row.capture for row in batches.plan().started] == [f"{store_uri}/captures/statue"]
    by_rows = batches.plan(captures="/some.json")
    assert [row.capture for row in by_rows.started] == [f"{store_uri}/captures/statue"]
    assert by_rows.counts == {"run": 1, "refused": 1}


def test_a_zip_that_is_a_link_to_elsewhere_is_refused_and_stops_no_other(batches: Batches, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.zip").write_bytes(b"x")
    (tmp_path / "captures" / "link.zip").symlink_to(tmp_path / "elsewhere.zip")
    plan = batches.plan()
    assert states(plan) == {"statue": "run", "tower": "run", "link": "refused"}
    assert "outside the places" in reason(plan, "link").message


def test_what_still_arrives_waits_for_a_later_batch(batches: Batches) -> None:
    assert batches.plan(quiet_seconds=3600).counts == {"arriving": 2}
    batches.put("tower/_READY", "")
    assert states(batches.plan(marker="_READY")) == {"statue": "arriving", "tower": "run"}
    batches.put("statue/2.jpg")
    assert states(batches.plan(min_photos=2)) == {"statue": "run", "tower": "arriving"}


@pytest.mark.parametrize("force", ["none", "all"])
def test_a_batch_above_the_size_of_a_page_goes_on_until_each_scene_ran_once(batches: Batches, force: str) -> None:
    for number in range(8):
        batches.put(f"scene-{number}/1.jpg")
    if force == "all":
        batches.end(batches.plan())
    first = batches.plan(page_size=4, force=force, run="manual__x")
    assert first.goes_on
    ran, page, result = [], first, batches.end(first, statue="infrastructure", scene_0="crash")
    ran += [row.scene for row in page.started]
    while page.goes_on:
        page = batches.plan(page_size=4, force=force, run="page", limit=page.limit, continues=page.batch)
        ran += [row.scene for row in page.started]
        result = batches.end(page, tower="crash")
    assert Counter(ran) == {row.scene: 1 for row in first.rows}
    # The last page tells of the whole batch, also of what an earlier page could not do.
    failed = {"scene-0 (crash)", "tower (crash)"} | ({"statue (infrastructure)"} if "statue" in ran[:4] else set())
    assert set(failed_scenes(result)) == failed
    assert sum(result.counts.values()) == 10


def test_a_limit_holds_over_all_pages(batches: Batches) -> None:
    for number in range(8):
        batches.put(f"scene-{number}/1.jpg")
    first = batches.plan(page_size=4, limit=6)
    batches.end(first)
    second = batches.plan(page_size=4, limit=first.limit, continues=first.batch)
    assert len(second.started) == 2
    assert not second.goes_on
    assert batches.end(second).counts == {"succeeded": 6, "waiting": 4}


def test_a_manifest_names_scenes_and_their_parameters(batches: Batches) -> None:
    batches.put(
        "tonight.csv",
        "capture,scene,train_iterations,ingest_max_size,min_placed_share\n"
        f"statue,old-statue,500,,0.3\n{batches.root}/captures/tower,,,,\n",
    )
    plan = batches.plan(captures="/tonight.csv", parameters={"train_iterations": 100, "train_long_side": 300})
    assert states(plan) == {"old-statue": "run", "tower": "run"}
    assert row(plan, "old-statue").parameters == {
        "train_iterations": 500,
        "train_long_side": 300,
        "min_placed_share": 0.3,
    }
    assert row(plan, "tower").parameters == {"train_iterations": 100, "train_long_side": 300}
    rows = [{"capture": "statue"}, {"capture": "tower", "force": ["train"]}]
    batches.put("tonight.json", json.dumps(rows))
    plan = batches.plan(captures="/tonight.json")
    assert row(plan, "tower").parameters == {"force": ["train"]}


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({"capture": "nowhere"}, "no capture at"),
        ({"capture": ""}, "names no capture"),
        ({"capture": "file:///etc"}, "outside the places"),
        ({"capture": "statue", "scene": "No Slug"}, "cannot be a scene's name"),
        ({"capture": "statue", "scene": "tower"}, "Another row"),
        ({"capture": "statue", "train_iterations": "many"}, "train_iterations"),
        ({"capture": "statue", "min_placed_share": 7}, "min_placed_share"),
        ({"capture": "statue", "train_speed": 7}, "no parameter 'train_speed'"),
    ],
)
def test_a_bad_row_is_told_as_a_failed_scene_and_stops_no_other(
    batches: Batches, bad: dict[str, Any], told: str
) -> None:
    batches.put("some.json", json.dumps([{"capture": "tower", "scene": "tower"}, bad]))
    plan = batches.plan(captures="/some.json")
    assert plan.counts == {"run": 1, "refused": 1}
    (outcome,) = [row.outcome for row in plan.rows if row.state == "refused"]
    assert outcome is not None
    assert told in str(outcome.reason)
    assert len(failed_scenes(plan)) == 1


@pytest.mark.parametrize("text", ["", "[]x", '{"capture": "x"}', "[1]"])
def test_a_manifest_that_is_none_is_refused(batches: Batches, text: str) -> None:
    batches.put("some.json", text)
    with pytest.raises(InvalidRequest, match=r"some\.json"):
        batches.plan(captures="/some.json")


@pytest.mark.parametrize(
    "asked", [{"parameters": {"train_speed": 1}}, {"parameters": {"train_iterations": -1}}, {"captures": "/../.."}]
)
def test_what_no_scene_could_be_asked_is_refused_at_once(batches: Batches, asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        batches.plan(**asked)


def test_an_empty_prefix_is_an_empty_batch(tmp_path: Path) -> None:
    plan = Batches(tmp_path.as_uri()).plan()
    assert plan.counts == {}
    assert not plan.goes_on


def counting(calls: Counter[str]) -> Callable[[str], Storage]:
    """Opens buckets whose requests are counted by their names."""

    def open_at(uri: str) -> Storage:
        storage: Any = open_storage(uri)
        storage._client.meta.events.register("before-call.s3", lambda model, **_: calls.update([model.name]))
        return storage

    return open_at


@pytest.mark.slow
def test_unchanged_scenes_cost_one_listing(s3_root: str) -> None:
    batches = Batches(s3_root)
    for number in range(54):
        batches.put(f"scene-{number}/1.jpg")
        batches.put(f"scene-{number}/2.jpg")
    batches.end(batches.plan())
    calls: Counter[str] = Counter()
    assert batches.plan(opener=counting(calls)).counts == {"reused": 54}
    assert calls == {"HeadBucket": 1, "ListObjectsV2": 1}


def test_the_ledger_keeps_what_another_batch_wrote_meanwhile(batches: Batches, tmp_path: Path) -> None:
    folder = BatchFolder(open_storage(batches.profile.store), f"{batches.root}/captures")
    plan = batches.plan()
    folder.write_plan("run/1", plan)
    assert folder.plan("run/1") == plan
    batches.end(plan)
    folder.write_ledger(batches.ledger)
    other = batches.plan(run="other", force="all")
    theirs = other.model_copy(update={"rows": other.rows[:1]})
    result = ended(theirs, {}, lambda run: Outcome(run=run, state="succeeded"))
    folder.write_ledger(recorded(folder.ledger(), theirs.started, result))
    assert {name: record.batch for name, record in folder.ledger().scenes.items()} == {
        "statue": "other",
        "tower": plan.batch,
    }
    with pytest.raises(InvalidRequest, match="gone"):
        folder.plan("another run")


@pytest.mark.parametrize("run", [".", "...", "ledger.json", "-", "a+b"])
def test_a_batch_of_any_run_id_has_a_folder_of_its_own(batches: Batches, run: str) -> None:
    folder = BatchFolder(open_storage(batches.profile.store), f"{batches.root}/captures")
    folder.write_ledger(batches.ledger)
    others = {each: batches.plan(run=each) for each in ("a-b", "a", run)}
    for each, plan in others.items():
        folder.write_plan(each, plan)
    assert [folder.plan(each) for each in others] == list(others.values())
    assert folder.ledger() == batches.ledger
    assert folder.of_run(run).startswith(f"{folder.path}/")


def test_the_page_tells_what_failed_first_and_leads_to_the_scenes(batches: Batches) -> None:
    page = batch_page("manual__1", batches.end(batches.plan(), tower="quality_gate"), lambda page: f"../{page[-12:]}")
    assert page.index("It is too dark.") < page.index("statue")
    assert "1 failed" in page
    assert "1 succeeded" in page
    assert "<script" not in page
    assert 'href="../1/index.html"' in page
