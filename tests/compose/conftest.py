"""A platform of the tests' own: a copy of the tree, `make up` in it, and everything gone afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
import uuid
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.browser import chromium, explained
from tests.conftest import ROOT, free_port
from tests.end_to_end.conftest import Airflow

PLUGIN = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
COMPOSE = ["docker", "compose"] if PLUGIN else ["docker-compose"]


# Compose starts a service when it saw that those it needs are healthy, and `make up` waits for all. Each look takes
# a fifth of a second of a core.
OFTEN = {"interval": "8s", "retries": 15}
SERVICES = ("postgres", "minio", "api-server", "scheduler", "dag-processor", "triggerer")
# A third of the sample.
PHOTOS = 10


def clean_environment() -> dict[str, str]:
    """This process's, without what would choose something for a platform."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("COMPOSE_", "E2E3D_"))}


class Platform(Airflow):
    """What `make up` started, spoken to over REST and over the engine.

    :param folder: the copy of the tree.
    :param inspected: what the engine said of each stage's container while it was there, by name.
    """

    def __init__(self, folder: Path, engine: docker.APIClient) -> None:
        ui, s3, console, docs = (free_port() for _ in range(4))
        super().__init__(f"http://localhost:{ui}")
        self.folder, self.engine = folder, engine
        self.s3, self.docs = f"http://localhost:{s3}", f"http://localhost:{docs}"
        self.project = f"e2e3d-test-{uuid.uuid4().hex[:8]}"
        self.inspected: dict[str, Any] = {}
        self.environment = {
            **clean_environment(),
            "COMPOSE_PROJECT_NAME": self.project,
            "E2E3D_UI_PORT": str(ui),
            "E2E3D_S3_PORT": str(s3),
            "E2E3D_S3_CONSOLE_PORT": str(console),
            "E2E3D_DOCS_PORT": str(docs),
            "E2E3D_REMOTE_LOGS": "True",
        }

    def override(self, environment: dict[str, str]) -> None:
        """Look often whether services are healthy; and the scheduler's settings from its next start on."""
        services: dict[str, Any] = {name: {"healthcheck": OFTEN} for name in SERVICES}
        services["scheduler"]["environment"] = environment
        # Files that stay as they are need not be read all the time.
        services["dag-processor"]["environment"] = {"AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "120"}
        (self.folder / "docker-compose.override.yml").write_text(json.dumps({"services": services}))

    def make(self, *words: str) -> str:
        """Run make; returns what it printed."""
        done = subprocess.run(
            ["make", *words], cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
        return done.stdout

    def compose(self, *words: str, **environment: str) -> str:
        """Run Compose; returns what it printed."""
        environment = {**self.environment, **environment}
        return subprocess.run(
            [*COMPOSE, *words], cwd=self.folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
        ).stdout

    @cached_property
    def secrets(self) -> dict[str, str]:
        """What .env holds and nobody else may know."""
        pairs = [line.split("=", 1) for line in (self.folder / ".env").read_text().splitlines()]
        known = ("COMPOSE_PROJECT_NAME", "E2E3D_VERSION", "DOCKER_GID")
        return {name: value for name, value in pairs if name not in known}

    def log_in(self) -> None:
        """Get a token as scripts do."""
        request = urllib.request.Request(
            f"{self.url}/auth/token",
            data=json.dumps({"username": "admin", "password": self.secrets["ADMIN_PASSWORD"]}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            self._token = json.load(answer)["access_token"]

    def containers(self, **labels: str) -> list[dict[str, Any]]:
        """The containers of the platform's own services, running or not."""
        labels = {"com.docker.compose.project": self.project, **labels}
        filters = {"label": [f"{name}={value}" for name, value in labels.items()]}
        return list(self.engine.containers(all=True, filters=filters))

    def container(self, service: str) -> dict[str, Any]:
        """What the engine says of one service's container."""
        (found,) = self.containers(**{"com.docker.compose.service": service})
        inspected: dict[str, Any] = self.engine.inspect_container(found["Id"])
        return inspected

    def stages(self) -> list[dict[str, Any]]:
        """The stages' containers that are there now, running or not."""
        filters = {"label": "e2e3d", "network": f"{self.project}_stages"}
        return list(self.engine.containers(all=True, filters=filters))

    def ended(self, run: str) -> bool:
        """Whether a run is over; looks at the stages' containers on the way."""
        for container in self.stages():
            try:
                found = self.engine.inspect_container(container["Id"])
            except docker.errors.NotFound:
                continue
            self.inspected[found["Name"]] = found
        return self.state(run) in ("success", "failed")

    def result(self, run: str, task: str, key: str = "return_value") -> Any:
        """What a task left for others."""
        return self.call("GET", f"/dags/reconstruct/dagRuns/{run}/taskInstances/{task}/xcomEntries/{key}")["value"]


@pytest.fixture(scope="module")
def platform(
    images: None, engine: docker.APIClient, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Platform]:
    """The whole platform, healthy."""
    folder = tmp_path_factory.mktemp("platform")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for photo in sorted((folder / "sample" / "caliterra" / "images").iterdir())[PHOTOS:]:
        photo.unlink()
    made = Platform(folder, engine)
    made.override({})
    try:
        made.make("up")
        made.log_in()
        yield made
    finally:
        if request.session.testsfailed:
            (folder / "platform.log").write_text(made.compose("logs", "--no-color"))
            print(f"What the platform's services logged: {folder / 'platform.log'}")
        for container in made.stages():
            engine.remove_container(container["Id"], v=True, force=True)
        made.compose("down", "--volumes", "--timeout", "5", COMPOSE_PROFILES="distributed,docs")


@pytest.fixture
def tab() -> Iterator[Any]:
    """A browser's tab."""
    with chromium() as browser:
        opened = browser.new_page(viewport={"width": 1100, "height": 800})
        opened.set_default_timeout(60_000)
        with explained(opened):
            yield opened


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests leave pictures for people to look at."""
    return tmp_path_factory.mktemp("screenshots")
