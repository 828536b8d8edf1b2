"""The pages inside Airflow, in Airflow's own API server with its own login: who may see what, and what they see."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import hypothesis
import pytest
import yaml
from airflow.api_fastapi import app as airflow_app
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.models import Connection
from airflow.models.task_state_store import TaskStateStoreModel
from airflow.utils.session import create_session
from fastapi import FastAPI
from fastapi.routing import APIRoute
from hypothesis import strategies as st
from sqlalchemy import event, select
from starlette.testclient import TestClient

from airflow import settings
from airflow_provider_e2e3d.scenes.names import scene_of
from airflow_provider_e2e3d.scenes.record import _Record
from airflow_provider_e2e3d.ui import files, gallery, stores
from airflow_provider_e2e3d.ui import runs as runs_page
from airflow_provider_e2e3d.ui.api import create_app
from e2e3d_stages.contract.messages import Claim, Failure, FailureCode, Progress, now
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.base import NotFound
from e2e3d_stages.store.leases import Watch
from tests.airflow_runs import Outcome
from tests.conftest import ALWAYS, until
from tests.provider.airflow_rows import Row, put_run, remove_runs
from tests.provider.conftest import Script
from tests.strategies import json_values

RUN = "manual__2026-11-20"
KEY = "0" * 32
PAGE = b"<!doctype html><title>the scene</title>" + bytes(range(256)) * 9000
RUN_QUERY = f"dag_id=reconstruct&run_id={RUN}"
# An example of every route there is, by its path in the app.
ROUTES = {
    "/scenes": "/scenes",
    "/scenes/{scene}": "/scenes/statue",
    "/scenes/{scene}/{run}": f"/scenes/statue/{RUN}",
    "/compare/{scene}": f"/compare/statue?left={RUN}&right={RUN}",
    "/run": f"/run?{RUN_QUERY}",
    "/task": f"/task?{RUN_QUERY}&task_id=train",
    "/static/{of}/{name}": "/static/newest/main.js",
    "/api/declared": "/api/declared",
    "/api/scenes": "/api/scenes",
    "/api/scenes/{scene}": "/api/scenes/statue",
    "/api/scenes/{scene}/{run}": f"/api/scenes/statue/{RUN}",
    "/api/compare/{scene}": f"/api/compare/statue?left={RUN}&right={RUN}",
    "/scenes/{scene}/{run}/{path:path}": f"/scenes/statue/{RUN}/index.html",
    "/api/run": f"/api/run?{RUN_QUERY}",
    "/api/task": f"/api/task?{RUN_QUERY}&task_id=train",
    "/api/preview": f"/api/preview?{RUN_QUERY}&task_id=train",
}


def lay_scene(store: ArtifactStore, scene: str, run: str = RUN, **more: Any) -> dict[str, Any]:
    """What publish leaves of a run, with a page that is larger than one piece of a stream."""
    folder = f"scenes/{scene}/{run}"
    found = {"index.html": PAGE, "thumbnail.jpg": b"a picture", "scene.ply": b"points"}
    for name, data in found.items():
        store.storage.write(f"{folder}/{name}", data)
    store.storage.write(f"{folder}/owner", b"somebody")
    record = {
        "scene": scene,
        "run": run,
        "started": "2026-11-20T12:00:00+00:00",
        "files": {name: len(data) for name, data in found.items()},
        "metrics": {"photos_uploaded": 10, "photos_placed": 9, "psnr": 27.5, "sog_bytes": 1_000_000},
        "stages": {},
        **more,
    }
    store.storage.write(f"{folder}/run.json", json.dumps(record).encode())
    store.storage.write(f"scenes/{scene}/latest.json", json.dumps(record).encode())
    return record


def write_profiles(file: Path, **of_profiles: dict[str, Any]) -> None:
    """Profiles by name, with their stores."""
    common = {"captures": [file.parent.as_uri()], "stages": {"default": {"backend": "local"}}}
    file.write_text(yaml.safe_dump({name: {**common, **store} for name, store in of_profiles.items()}))
    stores.forget()
    gallery._caches.clear()


@pytest.fixture
def profile_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that names the stores."""
    file = tmp_path / "profiles.yaml"
    monkeypatch.setenv("AIRFLOW__E2E3D__PROFILES_FILE", str(file))
    return file


@pytest.fixture
def own_store(tmp_path: Path, profile_file: Path) -> ArtifactStore:
    """The store of the profile `local`, on a disk, with one scene; beside it lies what nobody may read."""
    uri = (tmp_path / "store").as_uri()
    write_profiles(profile_file, local={"store": uri})
    store = ArtifactStore.open(uri)
    lay_scene(store, "statue")
    (tmp_path / "secret.txt").write_text("a secret")
    (tmp_path / "store" / "secret.txt").write_text("a secret")
    (tmp_path / "store" / "scenes" / "secret.txt").write_text("a secret")
    return store


@pytest.fixture(scope="module")
def api(airflow_home: Path) -> FastAPI:
    """Airflow's API server, with the plugin that its entry point names."""
    return airflow_app.create_app(apps="core")


class Browser:
    """Asks as a user."""

    def __init__(self, api: FastAPI, user: SimpleAuthManagerUser | None) -> None:
        headers = {}
        if user is not None:
            headers["Authorization"] = f"Bearer {airflow_app.get_auth_manager().generate_jwt(user)}"
        self.headers = headers
        self.client = TestClient(api, headers=headers, raise_server_exceptions=False)

    def get(self, path: str, **headers: str) -> Any:
        """An answer; names of headers with `_` for `-`."""
        return self.client.get(f"/e2e3d{path}", headers={k.replace("_", "-"): v for k, v in headers.items()})

    def json(self, path: str) -> Any:
        """What a route tells."""
        answer = self.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()


def user(role: str | None, name: str = "someone") -> SimpleAuthManagerUser:
    return SimpleAuthManagerUser(username=name, role=role)


@pytest.fixture
def viewer(api: FastAPI) -> Browser:
    """Who may look at everything."""
    return Browser(api, user("viewer"))


@pytest.fixture
def runs(airflow_home: Path) -> Iterator[None]:
    """No runs before and after."""
    remove_runs()
    yield
    remove_runs()


def train_row(state: str | None = "deferred", attempt: int | None = 1, **told: Any) -> Row:
    """A training task that remembered where its artifact is."""
    place = {"profile": "local", "stage": "train", "key": KEY, "attempt": attempt}
    return Row("train", state, "TrainOperator", place if state else None, told)


@pytest.fixture
def training(own_store: ArtifactStore, runs: None) -> ArtifactStore:
    """A run that trains, and its store."""
    stages = ("ingest", "sfm", "compress", "evaluate", "publish")
    put_run(
        RUN,
        "running",
        Row("plan", "success", told={"return_value": {"scene": "statue", "estimate": None}}),
        train_row(),
        *(Row(stage, None, f"{stage.capitalize()}Operator") for stage in stages),
        conf={"capture": "s3://captures/statue"},
    )
    own_store.claim("train", KEY, "reconstruct/x/train/-1/m", Watch())
    progress = Progress(
        stage="train", attempt=1, phase="optimise", done=30, total=120, unit="steps", rate=2, updated=now()
    )
    own_store.write_progress(KEY, progress)
    folder = own_store.attempt_folder("train", KEY, 1)
    own_store.storage.write(f"{folder}/preview.jpg", b"a preview")
    curve = [{"step": 10, "psnr_training": 17.5, "gaussians": 100}]
    own_store.storage.write(f"{folder}/curve.json", json.dumps(curve).encode())
    return own_store


# Who may


def test_the_table_names_every_route() -> None:
    assert set(ROUTES) == {route.path for route in create_app().routes if isinstance(route, APIRoute)}
    assert len(create_app().routes) == len(ROUTES)


@pytest.mark.slow
@pytest.mark.parametrize("path", ROUTES.values())
def test_a_route_refuses_who_is_not_logged_in_and_who_has_no_permission(
    path: str, api: FastAPI, training: ArtifactStore
) -> None:
    assert Browser(api, None).get(path).status_code == 401
    assert Browser(api, None).get(path, Authorization="Bearer made-up").status_code == 403
    assert Browser(api, user(None)).get(path).status_code == 403
    assert Browser(api, user("viewer")).get(path).status_code == 200
    assert Browser(api, user("admin")).get(path).status_code == 200


@pytest.mark.parametrize("path", ROUTES.values())
def test_a_route_takes_the_cookie_that_the_login_leaves_and_no_other(
    path: str, api: FastAPI, viewer: Browser, training: ArtifactStore
) -> None:
    token = viewer.headers["Authorization"].removeprefix("Bearer ")
    stranger = Browser(api, None)
    assert stranger.get(path, cookie=f"_token={token}").status_code == 200
    assert stranger.get(path, cookie=f"token={token}").status_code == 401


class PerDag(SimpleAuthManager):
    """Permission on one DAG and no other, as FAB gives it: `only-other` may see the DAG `other`."""

    def is_authorized_dag(self, *, user: Any, details: Any = None, **asked: Any) -> bool:
        own = user.username.removeprefix("only-")
        return super().is_authorized_dag(user=user, details=details, **asked) and (
            details is None or details.id in (None, own)
        )


def test_permission_on_another_dag_opens_its_runs_and_nothing_else(
    api: FastAPI, training: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_run("x", "success", Row("hello", "success", "BashOperator"), dag_id="other")
    monkeypatch.setattr(airflow_app._AuthManagerState, "instance", PerDag())
    other = Browser(api, user("admin", "only-other"))
    refused = [path for path in ROUTES.values() if other.get(path).status_code != 403]
    assert refused == ["/static/newest/main.js", "/api/declared"]
    assert other.json("/api/run?dag_id=other&run_id=x")["ours"] is False
    # Asking for two DAGs at once must not have one checked and the other shown.
    assert other.get(f"/api/run?dag_id=other&{RUN_QUERY}").status_code == 403
    assert other.get(f"/api/run?{RUN_QUERY}&dag_id=other").status_code == 404


class WithoutXCom(SimpleAuthManager):
    """Permission on everything but what tasks told."""

    def is_authorized_dag(self, *, access_entity: Any = None, **asked: Any) -> bool:
        return access_entity is not DagAccessEntity.XCOM and super().is_authorized_dag(
            access_entity=access_entity, **asked
        )


def test_what_tasks_told_is_shown_to_nobody_who_may_not_read_it(
    api: FastAPI, training: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(airflow_app._AuthManagerState, "instance", WithoutXCom())
    admin = Browser(api, user("admin"))
    answers = {path: admin.get(path).status_code for path in ROUTES.values()}
    assert {path.partition("?")[0] for path, status in answers.items() if status == 403} == {
        "/task",
        "/api/run",
        "/api/task",
    }


def test_a_person_who_is_not_logged_in_gets_a_page_with_the_way_to_the_login(api: FastAPI) -> None:
    answer = Browser(api, None).get("/scenes", Accept="text/html")
    assert answer.status_code == 401
    assert "/auth/login?next=" in answer.text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/scenes", 200),
        ("/scenes/statue/x/index.html", 404),
        ("/no/such/route/at/all", 404),
        ("/api/scenes?page=none", 422),
        ("/api/scenes?sort=password", 422),
        (f"/scenes/statue/{RUN}/thumbnail.jpg", 200),
    ],
)
def test_every_answer_says_what_a_browser_may_do(path: str, status: int, viewer: Browser, training: Any) -> None:
    answer = viewer.get(path)
    assert answer.status_code == status
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_what_breaks_is_told_with_the_same_headers_and_without_a_traceback(
    viewer: Browser, own_store: ArtifactStore, profile_file: Path
) -> None:
    profile_file.write_text("local: {store: 'gopher://x', captures: ['/x']}")
    stores.forget()
    answer = viewer.get("/api/scenes")
    assert answer.status_code == 500
    assert "neither file:// nor s3://" in answer.json()["message"]
    assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
    profile_file.write_text("local: nothing")
    stores.forget()
    assert "profiles.yaml:1" in viewer.get("/api/scenes").json()["message"]


def test_a_page_of_a_store_cannot_act_as_the_person_who_opens_it(viewer: Browser, own_store: ArtifactStore) -> None:
    policy = viewer.get(f"/scenes/statue/{RUN}/index.html").headers["content-security-policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert "allow-same-origin" not in rules["sandbox"]
    assert "allow-top-navigation" not in rules["sandbox"]
    assert rules["connect-src"] == "data: blob:"
    assert rules["form-action"] == "'none'"


# What may be read


async def _raw(api: FastAPI, raw: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """An answer to a path as it is written, which no client tidies."""
    path, _, query = raw.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("testserver", 80),
    }
    status, body = 0, b""

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(3600)
        return {}

    async def send(message: Any) -> None:
        nonlocal status, body
        status = message.get("status", status)
        body += message.get("body", b"")

    await api(scope, receive, send)
    return status, body


TRICKS = [
    "..",
    "../latest.json",
    "../../secret.txt",
    "../../../secret.txt",
    "%2e%2e/%2e%2e/secret.txt",
    "..%2f..%2fsecret.txt",
    "%252e%252e%252fsecret.txt",
    "..%5c..%5csecret.txt",
    "....//....//secret.txt",
    "%2fetc%2fpasswd",
    "/etc/passwd",
    "//etc/passwd",
    "file:///etc/passwd",
    "s3://other/secret.txt",
    "index.html/../../../secret.txt",
    "index.html%00.jpg",
    "./index.html",
    "link.html",
    "owner",
    "index.html/",
    "",
]


@pytest.mark.parametrize("path", TRICKS)
def test_a_path_out_of_the_runs_files_is_not_found(
    path: str, api: FastAPI, viewer: Browser, own_store: ArtifactStore, tmp_path: Path
) -> None:
    folder = tmp_path / "store" / "scenes" / "statue" / RUN
    (folder / "link.html").symlink_to(tmp_path / "secret.txt")
    record = json.loads((folder / "run.json").read_text())
    # A record that names them all does not open them either: whoever may write a record may not read a disk.
    record["files"] |= dict.fromkeys([*TRICKS, *map(unquote, TRICKS)], 1)
    del record["files"]["owner"]
    (folder / "run.json").write_text(json.dumps(record))
    status, body = asyncio.run(_raw(api, f"/e2e3d/scenes/statue/{RUN}/{path}", viewer.headers))
    assert b"a secret" not in body
    assert b"root:" not in body
    assert b"somebody" not in body
    assert status in (404, 307)


@pytest.mark.parametrize(
    ("scene", "run"),
    [("..", RUN), ("%2e%2e", "artifacts"), ("statue", ".."), ("statue", "%2e%2e%2fstatue"), ("a%2fb", "c")],
)
@pytest.mark.parametrize("start", ["/scenes", "/api/scenes"])
def test_no_name_of_a_scene_or_a_run_leads_elsewhere(
    start: str, scene: str, run: str, api: FastAPI, viewer: Browser, own_store: ArtifactStore
) -> None:
    end = "/index.html" if start == "/scenes" else ""
    status, body = asyncio.run(_raw(api, f"/e2e3d{start}/{scene}/{run}{end}", viewer.headers))
    assert status == 404
    assert b"the scene" not in body


def test_a_link_out_of_the_store_that_the_record_names_is_not_followed(
    viewer: Browser, own_store: ArtifactStore, tmp_path: Path
) -> None:
    page = tmp_path / "store" / "scenes" / "statue" / RUN / "scene.ply"
    page.unlink()
    page.symlink_to(tmp_path / "secret.txt")
    assert viewer.get(f"/scenes/statue/{RUN}/scene.ply").status_code == 404


def test_a_profile_that_is_not_there_opens_no_store(viewer: Browser, own_store: ArtifactStore) -> None:
    assert viewer.get(f"/scenes/statue/{RUN}/index.html?profile=other").status_code == 404
    assert viewer.get(f"/scenes/statue/{RUN}/index.html?profile=s3://other").status_code == 404


@pytest.mark.parametrize(
    "path", ["a/../b", "..", "", "a//b", "/a", "a/", ".hidden", "a\\b", "a%2fb", "a:b", "a\x00", "a/."]
)
def test_only_plain_paths_are_below_a_folder(path: str) -> None:
    with pytest.raises(NotFound):
        stores.below("scenes/statue", path)
    assert stores.below("scenes/statue", "sparse/0/cameras.bin") == "scenes/statue/sparse/0/cameras.bin"


# Files


def test_a_file_comes_whole_in_parts_or_not_again(viewer: Browser, store: ArtifactStore, profile_file: Path) -> None:
    write_profiles(profile_file, local={"store": store.storage.uri})
    lay_scene(store, "statue")
    path = f"/scenes/statue/{RUN}/index.html"
    whole = viewer.get(path, Accept_Encoding="gzip")
    assert whole.content == PAGE
    assert len(PAGE) > 2 * files.CHUNK
    assert whole.headers["content-type"] == "text/html; charset=utf-8"
    assert "content-disposition" not in whole.headers
    tag = whole.headers["etag"]
    assert whole.headers["cache-control"] == "private, no-cache"
    assert viewer.get(path, If_None_Match=tag).status_code == 304

    middle = viewer.get(path, Range=f"bytes=100-{files.CHUNK + 200}", Accept_Encoding="gzip")
    assert middle.status_code == 206
    assert middle.content == PAGE[100 : files.CHUNK + 201]
    # A browser counts a part's bytes as they are sent: Airflow must not have compressed them.
    assert middle.headers["content-encoding"] == "identity"
    assert middle.headers["content-length"] == str(files.CHUNK + 101)
    assert middle.headers["content-range"] == f"bytes 100-{files.CHUNK + 200}/{len(PAGE)}"
    assert viewer.get(path, Range="bytes=-7").content == PAGE[-7:]
    assert viewer.get(path, Range=f"bytes={len(PAGE) - 7}-").content == PAGE[-7:]
    assert viewer.get(path, Range=f"bytes={len(PAGE)}-").status_code == 416
    assert viewer.get(path, Range="bytes=5-8", If_Range='"another"').content == PAGE
    assert viewer.get(path, Range="lines=1-2").content == PAGE
    assert viewer.get(path, Range=f"bytes={'9' * 5000}-").content == PAGE

    mark = viewer.json(f"/api/scenes/statue/{RUN}")["mark"]
    assert "immutable" in viewer.get(f"{path}?v={mark}").headers["cache-control"]
    assert "attachment" in viewer.get(f"/scenes/statue/{RUN}/scene.ply").headers["content-disposition"]


# The gallery


def test_a_card_shows_the_poster_of_a_film_where_there_is_one() -> None:
    files = {"index.html": 1, "thumbnail.jpg": 2, "flight.mp4": 3, "flight.jpg": 4}
    latest = {"scene": "statue", "run": RUN, "profile_of_store": None, "mark": "m", "files": files}
    assert gallery.card(latest, None)["picture"] == "flight.jpg"


def test_the_gallery_tells_what_is_known_and_is_patient_with_what_is_not(
    viewer: Browser, own_store: ArtifactStore, runs: None
) -> None:
    own_store.storage.write("scenes/being-made/x/estimate.json", b"{}")
    old = {"scene": "old", "run": RUN, "started": "2026-01-01T00:00:00+00:00", "files": {"index.html": 1}}
    own_store.storage.write("scenes/old/latest.json", json.dumps(old).encode())
    found = viewer.json("/api/scenes")
    assert [each["scene"] for each in found["scenes"]] == ["statue", "old"]
    statue, older = found["scenes"]
    figures = {"photos_uploaded": 10, "photos_placed": 9, "psnr": 27.5, "sog_bytes": 1_000_000}
    assert statue["metrics"] == figures
    assert statue["picture"] == "thumbnail.jpg"
    assert older["picture"] is None
    assert older["metrics"] == {}
    assert found["problems"] == []


@pytest.mark.parametrize(
    "written",
    [
        "{",
        "[]",
        '{"started": "yesterday"}',
        '{"started": "2026-01-01T00:00:00"}',
        '{"started": "2026-01-01T00:00:00Z", "metrics": []}',
        '{"started": "2026-01-01T00:00:00Z", "metrics": {"psnr": "high"}}',
        '{"started": "2026-01-01T00:00:00Z", "metrics": {"other": 1e999}}',
        '{"started": "2026-01-01T00:00:00Z", "seconds": NaN}',
        '{"started": "2026-01-01T00:00:00Z", "capture": "\\ud800"}',
        '{"started": "2026-01-01T00:00:00Z", "price": ' + "9" * 5000 + "}",
        "[" * 100_000,
    ],
)
def test_a_record_that_is_none_is_a_card_that_says_so_and_hides_no_other_scene(
    viewer: Browser, own_store: ArtifactStore, runs: None, written: str
) -> None:
    own_store.storage.write("scenes/broken/latest.json", written.encode())
    own_store.storage.write(f"scenes/statue/{RUN}-2/run.json", written.encode())
    broken, statue = viewer.json("/api/scenes?sort=scene")["scenes"]
    assert (broken["scene"], broken["state"], statue["scene"]) == ("broken", "unreadable", "statue")
    assert "latest.json is no record of a run" in broken["problem"]
    assert [each["run"] for each in viewer.json("/api/scenes/statue")["runs"]] == [RUN]
    answer = viewer.get(f"/api/scenes/statue/{RUN}-2")
    assert (answer.status_code, "Find out who wrote it" in answer.json()["hint"]) == (503, True)


@pytest.mark.slow
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(changes=st.dictionaries(st.sampled_from(sorted(_Record.model_fields)), json_values, max_size=4))
def test_whatever_a_record_says_every_page_of_its_scene_is_answered(
    viewer: Browser, own_store: ArtifactStore, runs: None, changes: dict[str, Any]
) -> None:
    lay_scene(own_store, "odd", **{"run_id": "x", **changes})
    gallery._caches.clear()
    for order in gallery.SORTS:
        assert viewer.get(f"/api/scenes?sort={order}").status_code == 200
    assert viewer.get("/api/scenes/odd").status_code in (200, 404)
    for path in (f"/api/scenes/odd/{RUN}", f"/api/compare/odd?left={RUN}&right={RUN}"):
        assert viewer.get(path).status_code in (200, 503)


def test_a_scene_is_called_and_found_as_its_capture_is_called(
    viewer: Browser, own_store: ArtifactStore, runs: None
) -> None:
    there, coming = (f"s3://c/{name}" for name in ("Église/photos", "古い家"))
    lay_scene(own_store, scene_of(there), capture=there)
    put_run("1", "running", conf={"capture": coming}, started=dt.datetime(2026, 11, 21, tzinfo=dt.timezone.utc))
    titles = {each["scene"]: each["title"] for each in viewer.json("/api/scenes")["scenes"]}
    assert titles == {"statue": "statue", "eglise": "Église", scene_of(coming): "古い家"}
    assert viewer.json(f"/api/scenes/eglise/{RUN}")["title"] == "Église"
    for words, found in {"ÉGLISE": "eglise", "egl": "eglise", "古い": scene_of(coming)}.items():
        assert [each["scene"] for each in viewer.json(f"/api/scenes?search={quote(words)}")["scenes"]] == [found]


def test_the_gallery_shows_what_airflow_is_at_work_on(viewer: Browser, own_store: ArtifactStore, runs: None) -> None:
    lay_scene(own_store, "barn")
    later = dt.datetime(2026, 11, 21, tzinfo=dt.timezone.utc)
    earlier = dt.datetime(2026, 11, 1, tzinfo=dt.timezone.utc)
    put_run("1", "failed", conf={"capture": "s3://c/barn"}, started=earlier)
    put_run("2", "running", conf={"capture": "s3://c/Town Hall.zip"}, started=later)
    put_run("3", "failed", conf={"capture": "s3://c/x", "scene": "statue"}, started=later)
    put_run("4", "running", dag_id="other", conf={"scene": "barn"}, started=later)
    states = {each["scene"]: each["state"] for each in viewer.json("/api/scenes")["scenes"]}
    assert states == {"statue": "failed", "barn": "success", "town-hall": "running"}
    (failed,) = viewer.json("/api/scenes?state=failed")["scenes"]
    assert failed["under_way"]["run_id"] == "3"


@pytest.fixture
def five_hundred(store: ArtifactStore, profile_file: Path) -> ArtifactStore:
    """A store with 500 scenes."""
    write_profiles(profile_file, local={"store": store.storage.uri})
    for number in range(500):
        name, metrics = f"scene-{number:03d}", {"psnr": 20 + (number * 7 % 500) / 50, "photos_placed": number}
        record = {"scene": name, "run": RUN, "started": f"2026-10-01T00:{number // 60:02d}:{number % 60:02d}+00:00"}
        data = json.dumps({**record, "files": {"thumbnail.jpg": 1}, "metrics": metrics, "stages": {}}).encode()
        store.storage.write(f"scenes/{name}/latest.json", data)
    return store


@pytest.mark.slow
@pytest.mark.parametrize("store_uri", ["file", pytest.param("s3", marks=pytest.mark.soak)], indirect=True)
def test_five_hundred_scenes_come_by_page_in_under_300_ms(
    viewer: Browser, five_hundred: ArtifactStore, runs: None, record_property: Callable[[str, object], None]
) -> None:
    began = time.perf_counter()
    first = viewer.json("/api/scenes")
    cold = time.perf_counter() - began
    assert (first["total"], len(first["scenes"])) == (500, 24)
    assert [each["scene"] for each in first["scenes"]][:2] == ["scene-499", "scene-498"]
    took = []
    for page in range(1, 22):
        began = time.perf_counter()
        found = viewer.json(f"/api/scenes?page={page}&sort=scene")
        took.append(time.perf_counter() - began)
        assert found["scenes"][0]["scene"] == f"scene-{24 * (page - 1):03d}"
    record_property("cold seconds", round(cold, 3))
    record_property("warm seconds, median and worst", (round(sorted(took)[10], 4), round(max(took), 4)))
    assert sorted(took)[10] < 0.3
    best = viewer.json("/api/scenes?sort=-psnr&size=3")["scenes"]
    assert [each["metrics"]["psnr"] for each in best] == [pytest.approx(20 + number / 50) for number in (499, 498, 497)]
    assert len(best) == 3
    assert viewer.json("/api/scenes?search=49 SCENE")["total"] == 15
    assert viewer.json("/api/scenes?page=99")["scenes"] == []


def test_an_old_look_is_answered_at_once_and_renewed_behind_it(
    viewer: Browser, own_store: ArtifactStore, runs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "FRESH_SECONDS", 3600)
    assert viewer.json("/api/scenes")["total"] == 1
    lay_scene(own_store, "barn")
    assert viewer.json("/api/scenes")["total"] == 1
    look, looked_at = gallery.SceneCache._look, threading.Event()
    monkeypatch.setattr(gallery.SceneCache, "_look", lambda cache: looked_at.wait(60) and look(cache))
    monkeypatch.setattr(gallery, "FRESH_SECONDS", 0)
    assert viewer.json("/api/scenes")["total"] == 1
    looked_at.set()
    until(lambda: viewer.json("/api/scenes")["total"] == 2)


@pytest.fixture(params=["refuses", "accepts and never answers"])
def dead_end(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server that is of no use."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if request.param != "refuses":
            listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_store_that_is_away_is_told_and_hides_no_other(
    viewer: Browser,
    own_store: ArtifactStore,
    profile_file: Path,
    runs: None,
    dead_end: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stores, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr("e2e3d_stages.store.s3.SHORTEST_ANSWER_SECONDS", 0.5)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", dead_end)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    write_profiles(profile_file, away={"store": "s3://nowhere/x"}, local={"store": own_store.storage.uri})
    began = time.monotonic()
    found = viewer.json("/api/scenes")
    assert time.monotonic() - began < 30
    assert [each["scene"] for each in found["scenes"]] == ["statue"]
    assert "The store could not be reached" in found["problems"][0]


def test_the_api_server_opens_a_store_with_a_connection_of_its_own_database(
    viewer: Browser,
    minio: dict[str, str],
    s3_root: str,
    profile_file: Path,
    runs: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = json.loads(os.environ["AIRFLOW_CONN_MINIO"])
    monkeypatch.delenv("AIRFLOW_CONN_MINIO")
    # As `airflow api-server` sets it.
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
    with create_session() as session:
        # A password of its own: other tests look for theirs in this database's file.
        kept = {**ours, "password": "kept-in-the-database", "extra": json.dumps(ours["extra"])}
        session.add(Connection(conn_id="in_the_database", **kept))
    lay_scene(ArtifactStore.open(s3_root, minio), "statue")
    write_profiles(profile_file, local={"store": s3_root, "store_conn_id": "in_the_database"})
    assert [each["scene"] for each in viewer.json("/api/scenes")["scenes"]] == ["statue"]
    answer = viewer.get(f"/scenes/statue/{RUN}/index.html")
    assert answer.content == PAGE
    assert "kept-in" not in viewer.get("/api/scenes").text


def test_the_runs_of_a_scene_stand_newest_first_and_two_can_be_compared(
    viewer: Browser, own_store: ArtifactStore
) -> None:
    sfm = {"key": "s", "params": {"pairs": "auto"}}
    made = {
        "preset": "draft",
        "conf": {"train_iterations": 100, "capture": "a"},
        "stages": {"sfm": sfm, "train": {"key": "t1", "params": {"iterations": 100, "long_side": 640}}},
    }
    again = {
        "preset": "high",
        "conf": {"train_iterations": 900, "capture": "a", "min_photos": 9},
        "stages": {"sfm": sfm, "train": {"key": "t2", "params": {"iterations": 900, "long_side": 640}}},
    }
    lay_scene(own_store, "barn", "one", started="2026-11-01T00:00:00+00:00", **made)
    lay_scene(own_store, "barn", "two", started="2026-11-02T00:00:00+00:00", **again)
    assert [each["run"] for each in viewer.json("/api/scenes/barn")["runs"]] == ["two", "one"]
    found = viewer.json("/api/compare/barn?left=one&right=two")
    assert found["asked"] == [
        {"name": "preset", "left": "draft", "right": "high"},
        {"name": "conf.min_photos", "left": None, "right": 9},
    ]
    assert found["parameters"] == [{"name": "train.iterations", "left": 100, "right": 900}]
    assert found["same_artifacts"] == ["sfm"]
    assert viewer.get("/api/compare/barn?left=one&right=three").status_code == 404
    assert viewer.get("/api/scenes/nobody").status_code == 404


# A run and its tasks


@contextmanager
def counted() -> Iterator[list[str]]:
    """The statements that reach Airflow's database."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(settings.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(settings.engine, "before_cursor_execute", note)


@pytest.mark.parametrize(
    ("path", "login_only", "tables"),
    [
        (f"/api/run?{RUN_QUERY}", f"/run?{RUN_QUERY}", ["dag_run", "xcom"]),
        (f"/api/task?{RUN_QUERY}&task_id=train", f"/task?{RUN_QUERY}&task_id=train", ["dag_run", "xcom"]),
        ("/api/run?dag_id=other&run_id=x", "/run?dag_id=other&run_id=x", ["dag_run"]),
        ("/api/scenes", "/scenes", ["dag_run"]),
    ],
)
def test_a_look_is_a_query_or_two_by_indexes_beside_those_of_the_login(
    path: str, login_only: str, tables: list[str], viewer: Browser, training: ArtifactStore
) -> None:
    put_run("x", "success", Row("hello", "success", "BashOperator", told={"return_value": "much"}), dag_id="other")
    viewer.json(path)
    with counted() as login:
        viewer.get(login_only)
    with counted() as all_of_it:
        viewer.json(path)
    # What tasks of another DAG return is no business of these pages, and may be large.
    assert len(all_of_it) == len(login) + len(tables)
    queries = [each for each in all_of_it if any(f"FROM {table}" in each for table in tables)]
    assert len(queries) == len(tables)
    for query in queries:
        with create_session() as session:
            values = ("x",) * query.count("?")
            plan = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", values).all()
        steps = [row[3] for row in plan]
        assert steps
        assert not [step for step in steps if step.startswith("SCAN")], steps


def test_of_what_tasks_returned_only_what_pages_show_is_read(
    viewer: Browser, own_store: ArtifactStore, runs: None
) -> None:
    large = {"stage": "train", "code": "crash", "message": "x" * runs_page.MOST_TOLD, "hint": ""}
    put_run(
        RUN,
        "failed",
        Row("plan", "success", told={"return_value": {"scene": "statue"}}),
        Row("a_sites_own", "success", "PythonOperator", told={"return_value": ["a table"]}),
        Row("train", "failed", "TrainOperator", told={"failure": large}),
    )
    found = runs_page.read_run("reconstruct", RUN)
    assert {task.task_id: task.told for task in found.tasks} == {
        "plan": {"return_value": {"scene": "statue"}},
        "a_sites_own": {},
        "train": {},
    }


def test_a_run_that_trains_shows_its_bar_its_preview_and_its_curve(viewer: Browser, training: ArtifactStore) -> None:
    found = viewer.json(f"/api/run?{RUN_QUERY}")
    assert (found["ours"], found["scene"], found["state"], found["result"]) == (True, "statue", "running", None)
    assert [each["stage"] for each in found["stages"]] == ["ingest", "sfm", "train", "compress", "evaluate", "publish"]
    progress = found["stages"][2]["progress"]
    assert (progress["done"], progress["total"], progress["unit"]) == (30, 120, "steps")
    assert found["training"]["curve"] == [{"step": 10, "psnr_training": 17.5, "gaussians": 100}]
    preview = viewer.get(f"/api/preview?{RUN_QUERY}&task_id=train")
    assert preview.content == b"a preview"
    assert preview.headers["content-type"] == "image/jpeg"
    training.storage.write(f"{training.attempt_folder('train', KEY, 1)}/preview.jpg", b"a newer one")
    assert viewer.json(f"/api/run?{RUN_QUERY}")["training"]["preview"] != found["training"]["preview"]
    assert viewer.get(f"/api/preview?{RUN_QUERY}&task_id=train", If_None_Match=preview.headers["etag"]).content


def test_a_task_that_waits_for_another_run_shows_how_far_that_is(
    viewer: Browser, training: ArtifactStore, runs: None
) -> None:
    put_run("waits", "running", train_row("running", attempt=None))
    (stage,) = viewer.json("/api/run?dag_id=reconstruct&run_id=waits")["stages"]
    assert stage["waits_for_another"]
    assert stage["progress"]["done"] == 30


def test_a_run_that_waits_for_a_person_or_was_stopped_says_so(
    viewer: Browser, own_store: ArtifactStore, runs: None
) -> None:
    reason = {"stage": "approve", "code": "stopped", "message": "ann stopped it before training.", "hint": "Clear it."}
    put_run("asks", "running", Row("approve", "awaiting_input", "ApproveTrainingOperator"))
    put_run("stopped", "success", Row("approve", "success", told={"stopped": reason}), train_row("skipped"))
    asks = viewer.json("/api/run?dag_id=reconstruct&run_id=asks")
    assert (asks["questions"], asks["stopped"]) == ([{"task_id": "approve", "name": "approve"}], None)
    stopped = viewer.json("/api/run?dag_id=reconstruct&run_id=stopped")
    assert stopped["stopped"]["message"] == "ann stopped it before training."
    assert (stopped["questions"], stopped["failures"]) == ([], [])


@pytest.mark.parametrize(("role", "may"), [("viewer", False), ("user", True)])
def test_who_may_start_or_end_runs_by_airflows_api_is_offered_it(
    role: str, may: bool, api: FastAPI, own_store: ArtifactStore, runs: None
) -> None:
    put_run(RUN, "running", train_row())
    found = Browser(api, user(role)).json(f"/api/run?{RUN_QUERY}")
    assert found["may"] == {"start": may, "cancel": may}


def test_a_failed_run_tells_the_reason_and_what_to_do(viewer: Browser, own_store: ArtifactStore, runs: None) -> None:
    reason = {"stage": "train", "code": "quality_gate", "message": "Only 2 photos.", "hint": "Take more photos."}
    put_run("told", "failed", train_row("failed", failure=reason))
    put_run("mute", "failed", train_row("failed"))
    (told,) = viewer.json("/api/run?dag_id=reconstruct&run_id=told")["failures"]
    assert (told["message"], told["hint"]) == ("Only 2 photos.", "Take more photos.")
    (mute,) = viewer.json("/api/run?dag_id=reconstruct&run_id=mute")["failures"]
    assert "log" in mute["hint"]


def test_a_task_shows_the_failures_of_its_attempts(viewer: Browser, own_store: ArtifactStore, runs: None) -> None:
    for _ in range(2):
        claim = own_store.claim("train", KEY, "me", Watch(0))
        assert isinstance(claim, Claim)
        failure = Failure(
            code=FailureCode.OUT_OF_MEMORY, message="Memory ran out.", hint="Ask for less.", attempt=claim.attempt
        )
        own_store.write_failure("train", KEY, failure)
    put_run("told", "up_for_retry", train_row("up_for_retry", attempt=2))
    found = viewer.json("/api/task?dag_id=reconstruct&run_id=told&task_id=train")
    assert [each["failure"]["hint"] for each in found["attempts"]] == ["Ask for less.", "Ask for less."]
    assert found["written"] is None
    assert viewer.get("/api/task?dag_id=reconstruct&run_id=told&task_id=sfm").status_code == 404


def test_a_run_of_another_dag_is_not_ours_and_one_with_our_operators_is(
    viewer: Browser, own_store: ArtifactStore, runs: None
) -> None:
    put_run("x", "running", Row("hello", "running", "BashOperator"), dag_id="other")
    put_run("y", "queued", Row("first", None, "IngestOperator"), dag_id="mine")
    put_run("z", "queued")
    assert viewer.json("/api/run?dag_id=other&run_id=x")["ours"] is False
    assert viewer.json("/api/run?dag_id=mine&run_id=y")["ours"] is True
    assert viewer.json("/api/run?dag_id=reconstruct&run_id=z")["stages"] == []
    assert viewer.get("/api/run?dag_id=reconstruct&run_id=nothing").status_code == 404


def test_a_run_is_shown_though_its_store_is_gone(viewer: Browser, training: ArtifactStore, profile_file: Path) -> None:
    write_profiles(profile_file, another={"store": training.storage.uri})
    found = viewer.json(f"/api/run?{RUN_QUERY}")
    assert "no profile 'local'" in found["stages"][2]["problem"]
    assert found["training"] is None
    assert "no profile 'local'" in viewer.json(f"/api/task?{RUN_QUERY}&task_id=train")["problem"]


@pytest.mark.slow
def test_real_tasks_remember_their_artifacts_and_the_tabs_show_them(
    viewer: Browser,
    run: Callable[..., Outcome],
    script: Script,
    runs: None,
) -> None:
    stores.forget()
    script["compress"] = ["crash", "succeed"]
    outcome = run("publish")
    assert outcome.state == "success", outcome.log
    run("sfm")
    with create_session() as session:
        query = select(TaskStateStoreModel).where(TaskStateStoreModel.key == "e2e3d_artifact")
        rows = session.scalars(query.order_by(TaskStateStoreModel.id)).all()
        kept = {(row.run_id, row.task_id): json.loads(row.value) for row in rows}
        (first, second) = dict.fromkeys(row.run_id for row in rows)
        assert all(row.expires_at is None for row in rows)
    assert [task for of_run, task in kept if of_run == first] == ALWAYS
    train = {"profile": "local", "stage": "train", "key": outcome.results["train"]["key"], "attempt": 1}
    assert kept[first, "train"] == train
    assert kept[first, "compress"]["attempt"] == 2
    assert kept[second, "sfm"] == {**kept[first, "sfm"], "attempt": None}

    made, again = (f"dag_id=reconstruct&run_id={quote(run_id)}" for run_id in (first, second))
    found = viewer.json(f"/api/run?{made}")
    asked = [("success" if each["stage"] in ALWAYS else "skipped", False) for each in found["stages"]]
    assert [(each["state"], each["reused"]) for each in found["stages"]] == asked
    assert found["result"]["scene"] == "statue"
    assert found["failures"] == []
    task = viewer.json(f"/api/task?{made}&task_id=compress")
    assert [each["stage"] for each in task["inputs"]] == ["train"]
    assert task["written"]["attempt"] == 2
    assert [bool(each["failure"]) for each in task["attempts"]] == [True, False]
    reused = viewer.json(f"/api/task?{again}&task_id=sfm")
    assert reused["reused"]
    assert reused["written"]["by"].startswith(f"reconstruct/{first}/sfm")


# The plugin


@pytest.mark.slow
def test_loading_the_plugin_loads_no_web_framework_and_no_client() -> None:
    program = (
        "import sys; import airflow.plugins_manager; before = set(sys.modules);"
        "from airflow_provider_e2e3d.ui.plugin import E2E3DPlugin; E2E3DPlugin.validate();"
        "print(sorted(set(sys.modules) - before))"
    )
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    loaded = told.splitlines()[-1]
    assert "airflow_provider_e2e3d.ui.plugin" in loaded
    assert not [name for name in ("fastapi", "boto3", "places", "sqlalchemy") if name in loaded]


def test_airflow_shows_the_three_views(viewer: Browser) -> None:
    answer = viewer.client.get("/api/v2/plugins")
    (ours,) = [each for each in answer.json()["plugins"] if each["name"] == "e2e3d"]
    assert {view["destination"] for view in ours["external_views"]} == {"nav", "dag_run", "task_instance"}
    # Below Airflow's own address, wherever that is.
    assert not [view for view in ours["external_views"] if view["href"].startswith("/")]
