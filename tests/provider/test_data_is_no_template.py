"""Data is never a template: what people upload, name or ask for is rendered nowhere, whichever DAG meets it."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from airflow.models.dagrun import DagRun
from airflow.providers.standard.triggers.external_task import DagStateTrigger
from airflow.sdk import DAG, task
from airflow.sdk.bases.notifier import BaseNotifier
from airflow.triggers.base import TriggerEvent
from airflow.utils.session import create_session
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from airflow_provider_e2e3d.captures.listing import captures_below
from airflow_provider_e2e3d.notifications.notifiers import SceneFailed, SceneSucceeded
from airflow_provider_e2e3d.operators.reconstruction import IngestOperator, SfmOperator
from airflow_provider_e2e3d.operators.scene import ReconstructSceneOperator
from airflow_provider_e2e3d.pipelines import uploads
from airflow_provider_e2e3d.pipelines.batch.notifier import BatchEnded
from airflow_provider_e2e3d.scenes.names import scene_of
from airflow_provider_e2e3d.sensors.artifact import ArtifactSensor
from airflow_provider_e2e3d.triggers.capture import described
from airflow_provider_e2e3d.ui import gallery, stores
from airflow_provider_e2e3d.ui.runs import read_run, run_view, task_view
from e2e3d_stages.store.base import Storage
from e2e3d_stages.store.opening import open_storage
from tests.airflow_runs import Outcome, run_dag
from tests.conftest import ROOT

# What each would become is written nowhere else.
CANARY = "{{ 7919 * 7907 }}{% for i in [1] %}{{ 'zq' ~ 'xj' }}{% endfor %}{{ conn.x.password }}"
PASSWORD = "hush-canary-password"
RENDERED = (str(7919 * 7907), "zqxj", PASSWORD)


def photo(number: int, text: str = CANARY) -> bytes:
    """A tiny photo whose EXIF says something."""
    exif = Image.Exif()
    exif.update({tag: text for tag in (ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.ImageDescription)})
    exif.get_ifd(ExifTags.IFD.Exif).update({ExifTags.Base.LensModel: text})
    file = io.BytesIO()
    Image.linear_gradient("L").rotate(40 * number).resize((400, 300)).convert("RGB").save(file, "JPEG", exif=exif)
    return file.getvalue()


def manifest(rows: list[dict[str, str]]) -> bytes:
    """A batch's manifest as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


@pytest.fixture
def place(store_uri: str, tmp_path: Path, airflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A bucket or a folder with a store and captures; each photo, name and cell in it is a template."""
    file = tmp_path / "profiles.yaml"
    profile = {"store": f"{store_uri}/store", "captures": [f"{store_uri}/captures"], "preset": "draft"}
    file.write_text(yaml.safe_dump({"local": {**profile, "stages": {"default": {"backend": "local"}}}}))
    monkeypatch.setenv("AIRFLOW__E2E3D__PROFILES_FILE", str(file))
    monkeypatch.setenv("AIRFLOW_CONN_X", json.dumps({"conn_type": "http", "password": PASSWORD}))
    stores.forget()
    gallery._caches.clear()
    storage = open_storage(store_uri)
    for number in range(3):
        storage.write(f"captures/bucket/a {CANARY}/{number} {CANARY}.jpg", photo(number))
    storage.write(f"captures/bucket/a {CANARY}/{CANARY}.txt", CANARY.encode())
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as bundle:
        bundle.writestr(f"{CANARY}.jpg", photo(9))
    storage.write(f"captures/bucket/b {CANARY}.zip", packed.getvalue())
    rows = [{"capture": f"bucket/a {CANARY}", "scene": "told-by-a-row", "ingest_poses": CANARY}]
    # On a disk a cell is an address, in which a name is quoted.
    rows[0]["capture"] = storage.uri_of(f"captures/{rows[0]['capture']}")
    storage.write("captures/rows.csv", manifest([*rows, {"capture": CANARY, "scene": CANARY, "ingest_poses": CANARY}]))
    return storage


@pytest.fixture
def go(place: Storage, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Runs a shipped DAG with a conf; the runs that it starts are left as they were asked for."""

    async def at_once(self: DagStateTrigger) -> Any:
        yield TriggerEvent((self.dag_id, dict.fromkeys(self.run_ids or (), "failed")))

    monkeypatch.setattr(DagStateTrigger, "run", at_once)
    return lambda dag_id, **conf: run_dag(dag_id, conf, capfd, last="ingest")


def database() -> str:
    """Everything that Airflow's database holds."""
    with create_session() as session:
        tables = sa.MetaData()
        tables.reflect(session.connection())
        return "\n".join(str(row) for table in tables.tables.values() for row in session.execute(sa.select(table)))


def stored(storage: Storage) -> str:
    """Everything that a store holds."""
    return "\n".join(f"{e.path}\n{storage.read(e.path).decode(errors='replace')}" for e in storage.list("store"))


def pages(outcome: Outcome, dag_id: str) -> str:
    """What the pages inside Airflow show of a run."""
    found = read_run(dag_id, outcome.run_id)
    tasks = [task_view(found, each.task_id, each.map_index) for each in found.tasks]
    return json.dumps([run_view(found), tasks, gallery.cards(stores.stores())], default=str, ensure_ascii=False)


def asked(outcome: Outcome) -> list[dict[str, Any]]:
    """What the runs were asked that a run started."""
    with create_session() as session:
        runs = session.scalars(sa.select(DagRun).where(DagRun.dag_id == "reconstruct")).all()
        told = [dict(run.conf) for run in runs if run.conf and run.run_id.endswith(outcome.run_id)]
    return sorted(told, key=lambda conf: str(conf["capture"]))


def nowhere(text: str) -> None:
    """Nothing in it was a template."""
    assert [word for word in RENDERED if word in text] == []


@pytest.mark.slow
def test_no_way_into_a_shipped_dag_is_rendered_on_any_way_through_it(
    place: Storage, go: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place.uri_of(f"captures/bucket/a {CANARY}")
    seen: list[str] = []

    def run(dag_id: str, **conf: Any) -> Outcome:
        outcome = go(dag_id, **conf)
        seen.extend([outcome.log, json.dumps(outcome.links), pages(outcome, dag_id)])
        return outcome

    # A run of its own: the name, the photos' names and their EXIF; and a parameter that the program refuses.
    made = run("reconstruct", capture=folder, scene="canary")
    assert made.states["ingest"] == "success", made.log
    assert made.results["ingest"]["metrics"]["dropped"] == 1
    refused = run("reconstruct", capture=folder, ingest_poses=CANARY)
    assert refused.states["ingest"] == "failed"
    assert CANARY in refused.log

    # A batch: names that a listing shows, a parameter of the batch, the cells of a manifest.
    batch = run(
        "reconstruct_batch",
        captures=place.uri_of("captures/bucket"),
        quiet_seconds=0,
        parameters={"ingest_poses": CANARY},
    )
    by_name = asked(batch)
    assert [conf["capture"] for conf in by_name] == [folder, place.uri_of(f"captures/bucket/b {CANARY}.zip")]
    assert {conf["ingest_poses"] for conf in by_name} == {CANARY}
    (by_row,) = asked(run("reconstruct_batch", captures=place.uri_of("captures/rows.csv"), quiet_seconds=0))
    assert (by_row["capture"], by_row["ingest_poses"]) == (folder, CANARY)

    # An upload, as the trigger tells of it.
    there = list(captures_below(open_storage(place.uri_of("captures/bucket"))))
    events = [described(capture, scene_of(capture.uri)) for capture in there]
    told = SimpleNamespace(extra={"payload": events[0] | {"scene": "by-upload", "photos": CANARY}}, timestamp=1)
    context = {"dag_run": SimpleNamespace(conf={}), "triggering_asset_events": {"uploads": [told]}}
    monkeypatch.setattr(uploads, "get_current_context", lambda: context)
    assert run("reconstruct_on_upload").states["uploads"] == "success"
    with create_session() as session:
        query = sa.select(DagRun.conf).where(DagRun.run_id.startswith("upload__by-upload__"))
        assert folder in [conf["capture"] for conf in session.scalars(query)]

    # The clean-up, over all that the others left, and with a name that it does not know.
    assert run("reconstruct_cleanup", dry_run=True).states["clean_up"] == "success"
    assert CANARY in run("reconstruct_cleanup", **{CANARY: CANARY}).log

    kept = database()
    assert "{{ conn.x.password }}" in kept
    nowhere(kept)
    nowhere(stored(place))
    for text in seen:
        nowhere(text)


NAMES = st.text(max_size=5) | st.just(CANARY)
VALUES = st.recursive(
    st.text(max_size=20) | st.sampled_from([CANARY, f"x{CANARY}", "{{ ti }}", "{# #}", "{%"]) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


def rendered(dag: DAG, name: str, handed_on: Any) -> Any:
    """The operator of a mapped task as it is executed, when the task before it hands something on."""
    found = dag.get_task(name)
    ti = SimpleNamespace(map_index=0, task=found, xcom_pull=lambda **_: handed_on, _upstream_map_indexes={})
    run = SimpleNamespace(conf={}, run_id="manual__1")
    context: Any = {"ti": ti, "dag": dag, "dag_run": run, "ds": "2026-11-01", "task": found}
    found.render_template_fields(context, dag.get_template_env())
    return context["task"]


@cache
def mapped_dag() -> DAG:
    """Runs that are asked for by what the task before hands on."""
    with DAG("mapped") as dag:

        @task
        def before() -> Any: ...

        ReconstructSceneOperator.partial(task_id="by_kwargs").expand_kwargs(before())
        ReconstructSceneOperator.partial(task_id="by_name", run_id="nightly__{{ ds }}").expand(conf=before())
    return dag


@pytest.mark.slow
@given(conf=st.dictionaries(NAMES, VALUES, max_size=4), run_id=NAMES)
def test_whatever_a_task_hands_on_to_a_mapped_operator_stays_as_it_is(conf: dict[str, Any], run_id: str) -> None:
    by_kwargs = rendered(mapped_dag(), "by_kwargs", [{"run_id": run_id, "conf": conf}])
    assert (by_kwargs.run_id, by_kwargs.conf) == (run_id, conf)
    by_name = rendered(mapped_dag(), "by_name", [conf])
    assert (by_name.run_id, by_name.conf) == ("nightly__2026-11-01", conf)


def test_what_a_dags_author_wrote_is_rendered_beside_what_was_handed_on() -> None:
    reference = {"stage": "ingest", "key": CANARY}
    with DAG("own", params={"size": 800}) as dag:

        @task
        def before() -> Any: ...

        common: dict[str, Any] = {"parameters": {"max_size": "{{ params.size }}"}, "profile": "of-{{ ds }}"}
        IngestOperator.partial(task_id="ingest", **common).expand_kwargs(before())
        SfmOperator.partial(task_id="sfm", min_placed_photos="{{ params.size }}").expand_kwargs(before())
        ArtifactSensor.partial(task_id="wait", stage="{{ 'sf' ~ 'm' }}").expand_kwargs(before())
        IngestOperator.partial(task_id="listed").expand(capture=["s3://photos/{{ ds }}"])
    ingest = rendered(dag, "ingest", [{"capture": f"s3://photos/{CANARY}", "force": [CANARY]}])
    assert (ingest.parameters, ingest.profile) == ({"max_size": "800"}, "of-2026-11-01")
    assert (ingest.capture, ingest.force) == (f"s3://photos/{CANARY}", [CANARY])
    sfm = rendered(dag, "sfm", [{"ingest": reference, "parameters": {"pairs": CANARY}}])
    assert (sfm.min_placed_photos, sfm.inputs, sfm.parameters) == ("800", {"ingest": reference}, {"pairs": CANARY})
    wait = rendered(dag, "wait", [{"key": CANARY}])
    assert (wait.stage, wait.key) == ("sfm", CANARY)
    assert rendered(dag, "listed", None).capture == "s3://photos/2026-11-01"


def test_every_operator_and_sensor_knows_the_rule_and_no_notifier_has_templates() -> None:
    from airflow.sdk import BaseOperator

    from airflow_provider_e2e3d.templates import AuthoredTemplates

    def below(kind: type) -> Iterator[type]:
        for each in kind.__subclasses__():
            yield each
            yield from below(each)

    # What a backend asks another provider's operator to do is never a task.
    ours = {
        kind
        for kind in below(BaseOperator)
        if kind.__module__.startswith("airflow_provider_e2e3d.") and ".backends." not in kind.__module__
    }
    assert {IngestOperator, ReconstructSceneOperator, ArtifactSensor} <= ours
    assert {kind.__name__ for kind in ours if not issubclass(kind, AuthoredTemplates)} == set()
    told = {kind for kind in below(BaseNotifier) if kind.__module__.startswith("airflow_provider_e2e3d.")}
    assert {SceneFailed, SceneSucceeded, BatchEnded} <= told
    assert [kind.__name__ for kind in told if kind.template_fields] == []  # type: ignore[attr-defined]


def test_no_shipped_dag_hands_something_on_to_an_operator_that_renders_it(place: Storage) -> None:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    from airflow_provider_e2e3d.templates import AuthoredTemplates

    bag = DagBag(ROOT / "dags", collect_dags=False)
    bag.collect_dags(ROOT / "dags")
    mapped = [each for dag in bag.dags.values() for each in dag.tasks if isinstance(each, MappedOperator)]
    assert {each.task_id for each in mapped} == {"reconstruct", "reconstruct_scene"}
    assert all(issubclass(each.operator_class, AuthoredTemplates) for each in mapped)
