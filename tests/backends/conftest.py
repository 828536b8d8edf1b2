"""Stage programs that do what a test says, in containers of a real engine."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml

from tests.airflow_runs import Outcome, run_dag
from tests.provider.conftest import Script, told_container


class Place:
    """A profile `docker` of a test's own, whose containers do what its script says.

    :param settings: what `default` says of the containers; a test may change it before it runs anything.
    """

    def __init__(self, folder: Path, image: str) -> None:
        self.folder = folder
        self.script = Script(folder / "script")
        self.capture = folder / "captures" / "statue"
        self.capture.mkdir(parents=True)
        (self.capture / "1.jpg").write_bytes(b"a photo")
        self.mark = uuid.uuid4().hex
        self.profile: dict[str, Any] = {
            "store": (folder / "store").as_uri(),
            "captures": [(folder / "captures").as_uri()],
            "preset": "draft",
        }
        self.settings: dict[str, Any] = {
            "backend": "docker",
            "image": image,
            **told_container(self.script),
            "labels": {"e2e3d-test": self.mark},
        }

    def write(self) -> None:
        """Make the profile file what it is to be."""
        profile = {**self.profile, "stages": {"default": self.settings}}
        (self.folder / "profiles.yaml").write_text(yaml.safe_dump({"docker": profile}))

    def containers(self, engine: docker.APIClient) -> list[dict[str, Any]]:
        """Every container of this test, running or not."""
        filters = {"label": f"e2e3d-test={self.mark}"}
        return [engine.inspect_container(found["Id"]) for found in engine.containers(all=True, filters=filters)]


@pytest.fixture
def place(
    tmp_path: Path, told_image: str, engine: docker.APIClient, airflow_home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    """A profile of the test's own; its containers are gone afterwards."""
    made = Place(tmp_path, told_image)
    made.write()
    monkeypatch.setenv("AIRFLOW__E2E3D__PROFILES_FILE", str(tmp_path / "profiles.yaml"))
    yield made
    for container in made.containers(engine):
        engine.remove_container(container["Id"], v=True, force=True)


@pytest.fixture
def run(place: Place, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs the reconstruct DAG in the place and tells how it ended."""

    def go(**conf: Any) -> Outcome:
        place.write()
        return run_dag("reconstruct", {"capture": str(place.capture), "profile": "docker", **conf}, capfd)

    return go
