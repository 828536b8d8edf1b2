"""The trigger forms: what Airflow makes of the DAGs' Params, what it refuses, and the examples in the DAGs' docs.

The rules of Airflow 3.3's form are in `core/ui`: `FlexibleForm`, `FieldSelector`, `FieldBool`, `isParamRequired`.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag, DagBag, sync_bag_to_db
from airflow.sdk import DAG, Param
from airflow.serialization.serialized_objects import DagSerialization
from fastapi.testclient import TestClient

from airflow_provider_e2e3d.pipelines.batch.plan import BatchRequest
from airflow_provider_e2e3d.pipelines.reconstruct import plan
from e2e3d_stages.contract.spec import PRESETS
from e2e3d_stages.registry import STAGES
from tests.conftest import ROOT

DAGS = {"reconstruct", "reconstruct_batch", "reconstruct_cleanup", "reconstruct_on_upload"}


@pytest.fixture
def dags(airflow_home: Path, profiles: Path) -> dict[str, DAG]:
    """The shipped DAGs."""
    bag = DagBag(ROOT / "dags", collect_dags=False)
    bag.collect_dags(ROOT / "dags")
    assert set(bag.dags) == DAGS
    return dict(bag.dags)


@pytest.fixture
def params(dags: dict[str, DAG]) -> dict[str, Param]:
    """The fields of `reconstruct`."""
    return {name: dags["reconstruct"].params.get_param(name) for name in dags["reconstruct"].params}


def kinds(param: Param) -> list[str]:
    """A field's JSON types."""
    kind = param.schema["type"]
    return [kind] if isinstance(kind, str) else kind


def opened(dag: DAG) -> dict[str, Any]:
    """What the form holds when it opens, and sends when nothing is changed."""
    return {name: param.value if param.has_value else None for name, param in _fields(dag).items()}


def validated(dag: DAG, conf: dict[str, Any]) -> dict[str, Any]:
    """Every Param's value for a conf that the form would accept."""
    fields = _fields(dag)
    return {**opened(dag), **{name: copy.copy(fields[name]).resolve(value) for name, value in conf.items()}}


def examples(dag: DAG) -> list[dict[str, Any]]:
    """The confs in a DAG's docs."""
    return [json.loads(line) for line in re.findall(r"^ {4}(\{.*\})$", dag.doc_md or "", re.MULTILINE)]


def _fields(dag: DAG) -> dict[str, Param]:
    return {name: dag.params.get_param(name) for name in dag.params}


@pytest.mark.parametrize(
    ("dag_id", "asked"),
    [("reconstruct", ["capture"]), ("reconstruct_batch", ["captures"]), ("reconstruct_cleanup", [])],
)
def test_nothing_but_the_captures_must_be_filled_in(dags: dict[str, DAG], dag_id: str, asked: list[str]) -> None:
    # What may not be null keeps the button grey while it is null or empty text.
    values = opened(dags[dag_id])
    fields = _fields(dags[dag_id])
    assert [name for name in values if values[name] in (None, "") and "null" not in kinds(fields[name])] == asked


@pytest.mark.parametrize("dag_id", sorted(DAGS))
def test_every_field_has_a_name_a_sentence_of_help_and_one_kind_of_value(dags: dict[str, DAG], dag_id: str) -> None:
    for name, param in _fields(dags[dag_id]).items():
        assert param.schema["title"], name
        assert re.search(r"[a-z0-9%].*\.$", param.description or ""), name
        # Of two kinds Airflow makes a box for JSON.
        assert len(set(kinds(param)) - {"null"}) == 1, name


def test_four_fields_come_first_and_the_others_are_folded_by_stage(params: dict[str, Param]) -> None:
    sections: dict[str | None, list[str]] = {}
    for name, param in params.items():
        sections.setdefault(param.schema.get("section"), []).append(name)
    assert sections.pop(None) == ["capture", "scene", "preset", "profile"]
    assert list(sections)[:2] == ["Reuse, cost and notification", "Quality gate after sfm"]
    for section, names in list(sections.items())[2:]:
        (stage,) = {name.partition("_")[0] for name in names}
        assert section is not None
        assert section.endswith(f"({stage})")


def test_numbers_tell_their_limits_and_what_empty_means(params: dict[str, Param]) -> None:
    assert params["train_iterations"].description == (
        "Training steps; each looks at one photo. From 10 to 100,000. Empty: draft 2,500, standard 15,000, high 30,000."
    )
    assert "Above 0 and at most 0.1." in str(params["compress_max_colour_error"].description)
    for name, param in params.items():
        limits = [limit for key, limit in param.schema.items() if key.lower().endswith(("minimum", "maximum"))]
        for limit in limits:
            assert f"{limit:,}".removesuffix(".0") in str(param.description).replace("0 or more", "0"), name


def test_a_switch_shows_what_every_preset_says(params: dict[str, Param]) -> None:
    switches = {name: param.value for name, param in params.items() if "boolean" in kinds(param)}
    assert switches.pop("notify") is True
    exports = {f"export_{name}": False for name in ("points", "gltf", "usd", "colmap", "tiles")}
    assert switches == {
        "train_coarse_to_fine": True,
        "train_stop_at_plateau": False,
        "compress_spz": True,
        "mesh_obj": False,
        "render_film": False,
        "render_orthophoto": False,
        **exports,
    }
    for name, value in switches.items():
        stage, _, field = name.partition("_")
        for preset in PRESETS:
            assert getattr(STAGES[stage].resolve(preset, {}), field) is value


@pytest.mark.parametrize("preset", [None, *PRESETS])
def test_a_form_that_nobody_changed_asks_for_what_the_preset_says(
    dags: dict[str, DAG], captures: Path, preset: str | None
) -> None:
    form = {**opened(dags["reconstruct"]), "capture": str(captures / "statue"), "preset": preset}
    planned = plan(form, form)
    for stage in ("ingest", "sfm", "train", "compress", "evaluate"):
        assert planned[stage] == STAGES[stage].resolve(preset or "draft", {}).model_dump(mode="json")
    assert planned["force"] == []


@pytest.mark.parametrize("value", [True, False])
def test_a_switch_reaches_its_stage(dags: dict[str, DAG], captures: Path, value: bool) -> None:
    asked = {"capture": str(captures / "statue"), "train_stop_at_plateau": value, "compress_spz": value}
    planned = plan(validated(dags["reconstruct"], asked), asked)
    assert planned["train"]["stop_at_plateau"] is value
    assert planned["compress"]["spz"] is value


def test_the_examples_in_the_docs_work(dags: dict[str, DAG], profiles: Path) -> None:
    profiles.write_text(profiles.read_text().replace("captures: [", "captures: ['s3://captures', "))
    assert {name: len(examples(dag)) for name, dag in dags.items()} == {
        "reconstruct": 6,
        "reconstruct_batch": 4,
        "reconstruct_cleanup": 2,
        "reconstruct_on_upload": 0,
    }
    for conf in examples(dags["reconstruct"]):
        assert plan(validated(dags["reconstruct"], conf), conf)
    for conf in examples(dags["reconstruct_batch"]):
        request = BatchRequest.model_validate(validated(dags["reconstruct_batch"], conf))
        of_a_scene = {"capture": "s3://captures/hall", **request.parameters}
        assert plan(validated(dags["reconstruct"], of_a_scene), of_a_scene)
    for conf in examples(dags["reconstruct_cleanup"]):
        assert validated(dags["reconstruct_cleanup"], conf)


@pytest.fixture
def api(airflow_home: Path, profiles: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """Airflow's own API, with the DAGs in its database."""
    from airflow.api_fastapi.app import create_app

    monkeypatch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS", "True")
    manager = DagBundlesManager()
    manager.sync_bundles_to_db()
    (bundle,) = manager.get_all_dag_bundles()
    bag = BundleDagBag(bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)
    sync_bag_to_db(bag, bundle.name, bundle.version)
    with TestClient(create_app("core")) as client:
        client.headers["Authorization"] = f"Bearer {client.get('/auth/token').json()['access_token']}"
        yield client


@pytest.mark.slow
def test_a_wrong_value_is_told_before_a_run_starts(api: TestClient) -> None:
    refused = [
        ({"scene": "Town Hall"}, "param scene: 'Town Hall' does not match"),
        ({"scene": "-hall"}, "param scene"),
        ({"capture": ""}, "param capture"),
        ({"capture": None}, "param capture: None is not of type 'string'"),
        ({"preset": "ultra"}, "param preset: 'ultra' is not one of"),
        ({"profile": "cloud"}, "param profile: 'cloud' is not one of"),
        ({"force": ["bake"]}, "param force: 'bake' is not one of"),
        ({"max_cost": -1}, "param max_cost: -1 is less than the minimum of 0"),
        ({"min_placed_share": 50}, "param min_placed_share: 50 is greater than the maximum of 1"),
        ({"train_iterations": 5}, "param train_iterations: 5 is less than the minimum of 10"),
        ({"train_iterations": 2000.5}, "param train_iterations: 2000.5 is not of type"),
        ({"train_stop_at_plateau": "yes"}, "param train_stop_at_plateau: 'yes' is not of type 'boolean'"),
        ({"compress_max_colour_error": 0}, "param compress_max_colour_error: 0 is less than or equal to"),
        ({"ingest_poses": "../sparse"}, "param ingest_poses"),
        ({"sfm_pairs": "some"}, "param sfm_pairs: 'some' is not one of"),
    ]
    before = api.get("/api/v2/dags/reconstruct/dagRuns").json()["total_entries"]
    for wrong, words in refused:
        body = {"logical_date": None, "conf": {"capture": "s3://captures/hall", **wrong}}
        answer = api.post("/api/v2/dags/reconstruct/dagRuns", json=body)
        assert answer.status_code == 400, wrong
        assert f"Invalid input for {words}" in answer.json()["detail"]
    assert api.get("/api/v2/dags/reconstruct/dagRuns").json()["total_entries"] == before


def test_the_form_gets_the_fields_in_their_order(dags: dict[str, DAG]) -> None:
    for dag in dags.values():
        stored = json.loads(json.dumps(DagSerialization.to_dict(dag)))
        assert list(DagSerialization.from_dict(stored).params) == list(dag.params)
