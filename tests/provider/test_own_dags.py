"""The pieces for people's own DAGs: docs/own-dags.md's examples, run as they stand there."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.models import DagModel
from airflow.models.asset import AssetDagRunQueue, AssetEvent, AssetModel
from airflow.sdk import BaseSensorOperator
from airflow.utils.session import create_session
from sqlalchemy import select, update

from e2e3d_stages.contract.messages import Request
from tests.airflow_runs import Outcome, run_dag
from tests.conftest import ROOT
from tests.provider.conftest import Script

EXAMPLES = ROOT / "docs" / "examples"

Run = Callable[..., Outcome]


@pytest.fixture
def example(
    airflow_home: Path, profiles: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Runs one of the examples with a conf."""
    shipped = {"name": "e2e3d", "classpath": "airflow_provider_e2e3d.bundle.E2E3DDagBundle", "kwargs": {}}
    bundle = {
        "name": "examples",
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(EXAMPLES)},
    }
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps([bundle, shipped]))

    def go(dag_id: str, **conf: Any) -> Outcome:
        return run_dag(dag_id, conf, capfd, folder=EXAMPLES)

    return go


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.stem)
def test_the_page_shows_every_example_as_it_is(file: Path) -> None:
    assert f"```python\n{file.read_text()}```\n" in (ROOT / "docs" / "own-dags.md").read_text()


@pytest.mark.slow
def test_one_stage_runs_alone(example: Run, captures: Path, script: Script) -> None:
    outcome = example("check_photos", capture=str(captures / "statue"))
    assert outcome.state == "success", outcome.log
    assert script.calls == ["ingest"]
    assert outcome.results["ingest"]["metrics"]["photos"] == 10


@pytest.mark.slow
def test_two_trainings_start_from_one_structure_from_motion(example: Run, captures: Path, script: Script) -> None:
    outcome = example("compare_trainings", capture=str(captures / "statue"))
    assert outcome.state == "success", outcome.log
    assert sorted(script.calls) == ["ingest", "sfm", "train", "train"]
    short, long = (outcome.results[f"train_{length}"] for length in ("short", "long"))
    assert short["key"] != long["key"]
    assert (short["metrics"]["params"]["iterations"], long["metrics"]["params"]["iterations"]) == (1000, 7000)


@pytest.mark.slow
def test_own_poses_are_asked_for_by_a_parameter_of_ingest(example: Run, captures: Path, script: Script) -> None:
    outcome = example("train_from_own_poses", capture=str(captures / "statue"))
    assert outcome.state == "success", outcome.log
    assert script.calls == ["ingest", "sfm", "train"]
    (request,) = (captures.parent / "store" / "artifacts" / "ingest").glob("*/attempts/1/request.json")
    assert Request.model_validate_json(request.read_text()).params["poses"] == "sparse/0"


@pytest.mark.slow
def test_a_dag_waits_for_an_upload_and_goes_on_with_it(
    example: Run, captures: Path, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    def upload_meanwhile(*_: object) -> float:
        for number in range(2, 5):
            (captures / "statue" / f"{number}.jpg").touch()
        # Until the next look; nothing more must come for a second.
        monkeypatch.setattr(BaseSensorOperator, "_get_next_poke_interval", lambda *_: 0.1)
        return 0.1

    monkeypatch.setattr(BaseSensorOperator, "_get_next_poke_interval", upload_meanwhile)
    outcome = example("when_uploaded", capture=str(captures / "statue"))
    assert outcome.state == "success", outcome.log
    assert outcome.results["upload"]["photos"] == 4
    assert outcome.results["upload"]["scene"] == "statue"
    assert script.calls == ["ingest"]


@pytest.mark.slow
def test_a_training_takes_the_artifact_that_the_sensor_found(
    example: Run, captures: Path, script: Script, profiles: Path
) -> None:
    made = example("compare_trainings", capture=str(captures / "statue")).results
    script.forget()
    outcome = example("train_anew", sfm_key=made["sfm"]["key"])
    assert outcome.state == "success", outcome.log
    assert outcome.results["sfm"]["digest"] == made["sfm"]["digest"]
    assert outcome.results["train"]["key"] == made["train_long"]["key"]
    assert script.calls == []


@pytest.mark.slow
def test_a_finished_scene_starts_the_dags_that_wait_for_it_and_tells_them_its_figures(
    example: Run, captures: Path, script: Script, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert example("fill_the_catalogue").state == "success"
    with create_session() as session:
        session.execute(update(DagModel).values(is_paused=False))
    outcome = run_dag("reconstruct", {"capture": str(captures / "statue"), "scene": "town-hall"}, capfd)
    assert outcome.state == "success", outcome.log
    with create_session() as session:
        waiting = set(session.scalars(select(AssetDagRunQueue.target_dag_id)))
        told = [
            (name, event.extra)
            for name, event in session.execute(
                select(AssetModel.name, AssetEvent).join(AssetModel, AssetModel.id == AssetEvent.asset_id)
            )
        ]
    assert waiting == {"fill_the_catalogue", "renew_the_town_hall"}
    assert [name for name, _ in told][-2:] == ["e2e3d_scene", "e2e3d_scene/town-hall"]
    assert told[-2][1] == told[-1][1]
    extra = told[-1][1]
    assert (extra["scene"], extra["photos_placed"], extra["price"]) == ("town-hall", 10, 0)
    assert extra["page"].endswith("/index.html")
    module = runpy.run_path(str(EXAMPLES / "good_scenes.py"))
    for psnr, good in ((24.9, []), (25.0, ["town-hall"]), (None, [])):
        events = {"any": [SimpleNamespace(extra={**extra, "psnr": psnr})]}
        found = module["scenes"].function
        monkeypatch.setitem(found.__globals__, "get_current_context", lambda e=events: {"triggering_asset_events": e})
        assert [scene["scene"] for scene in found(psnr=25)] == good
