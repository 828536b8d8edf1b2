"""The pages behind FAB's logins and permissions, in an API server of its own, below a path as behind a proxy."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e3d_stages.store.artifacts import ArtifactStore
from tests.conftest import ROOT, free_port, until
from tests.provider.fab_people import KEY, PASSWORD, RUN
from tests.provider.test_ui import ROUTES, lay_scene, write_profiles

pytestmark = pytest.mark.slow


class Fab:
    """An API server with FAB's auth manager, asked as somebody."""

    def __init__(self, url: str) -> None:
        self.url = url

    def log_in(self, name: str) -> str:
        """A person's token."""
        body = json.dumps({"username": name, "password": PASSWORD}).encode()
        request = urllib.request.Request(f"{self.url}/auth/token", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(json.load(answer)["access_token"])

    def get(self, path: str, token: str | None) -> tuple[int, str]:
        """How it answers, and what."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, headers=headers), timeout=60) as answer:
                return answer.status, answer.read().decode(errors="replace")
        except urllib.error.HTTPError as refusal:
            return refusal.code, ""

    def opened(self, name: str) -> list[str]:
        """The routes of our pages that a person gets something from."""
        token = self.log_in(name)
        answers = {path: self.get(f"/e2e3d{path}", token)[0] for path in ROUTES.values()}
        assert set(answers.values()) <= {200, 403}, answers
        return [path for path, status in answers.items() if status == 200]


@pytest.fixture(scope="module")
def fab(airflow_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fab]:
    """Four people, a scene, and a run that trains."""
    folder = tmp_path_factory.mktemp("fab")
    shutil.copy(airflow_home / "airflow.db", folder)
    write_profiles(folder / "profiles.yaml", local={"store": (folder / "store").as_uri()})
    store = ArtifactStore.open((folder / "store").as_uri())
    lay_scene(store, "statue", RUN)
    store.storage.write(f"{store.attempt_folder('train', KEY, 1)}/preview.jpg", b"a preview")
    port = free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder / 'airflow.db'}",
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager",
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}/one",
        "AIRFLOW__E2E3D__PROFILES_FILE": str(folder / "profiles.yaml"),
    }
    airflow = Path(sys.executable).with_name("airflow")
    subprocess.run([sys.executable, "-m", "tests.provider.fab_people"], env=environment, check=True, cwd=ROOT)
    with (folder / "log").open("w") as log:
        command = [airflow, "api-server", "--port", str(port), "--apps", "core", "--workers", "1"]
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    running = Fab(f"http://127.0.0.1:{port}/one")

    def answers() -> bool:
        try:
            return running.get("/e2e3d/scenes", None)[0] == 401
        except OSError:
            assert server.poll() is None, (folder / "log").read_text()[-3000:]
            return False

    try:
        until(answers, 180)
        yield running
    finally:
        server.terminate()
        server.wait(30)


def test_who_is_not_logged_in_or_may_see_nothing_gets_nothing(fab: Fab) -> None:
    assert {fab.get(f"/e2e3d{path}", None)[0] for path in ROUTES.values()} == {401}
    assert fab.opened("nobody") == []


def test_a_viewer_sees_everything(fab: Fab) -> None:
    assert fab.opened("anna") == list(ROUTES.values())


def test_below_a_path_the_page_finds_its_scripts(fab: Fab) -> None:
    _, page = fab.get("/e2e3d/scenes", fab.log_in("anna"))
    (base,), (*_, script) = re.findall(r'<base href="/one(/[^"]*)"', page), re.findall(r'src="([^"]*)"', page)
    assert base == "/e2e3d/"
    status, text = fab.get(base + script, fab.log_in("anna"))
    assert (status, "document" in text) == (200, True)


def test_permission_on_another_dag_opens_no_scene(fab: Fab) -> None:
    assert fab.opened("otto") == ["/static/newest/main.js", "/api/declared"]
    assert fab.get("/e2e3d/api/run?dag_id=other&run_id=x", fab.log_in("otto"))[0] == 200


def test_permission_on_the_dag_s_runs_opens_the_scenes_and_not_its_tasks(fab: Fab) -> None:
    told = {path for path in ROUTES.values() if "/task?" in path or path.startswith("/api/run?")}
    assert set(ROUTES.values()) - set(fab.opened("rita")) == told
