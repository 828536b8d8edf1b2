"""Places of a test's own, and runs of the shipped DAG in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.airflow_runs import Outcome, run_dag
from tests.backends.places import DockerPlace, KubernetesPlace, LocalPlace, Place

# A test file has a fixture `place` that says which of these it means; a new backend adds its own here.
PLACES: dict[str, type[Place]] = {place.name: place for place in (LocalPlace, DockerPlace, KubernetesPlace)}


@pytest.fixture
def make_place(
    tmp_path: Path, airflow_home: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], Any]]:
    """Makes the place of a name, in which nothing is left afterwards."""
    made: list[Place] = []

    def make(name: str) -> Place:
        needs = {} if name == "local" else {"image": request.getfixturevalue("told_image")}
        needs |= {} if name == "local" else {"engine": request.getfixturevalue("engine")}
        place = PLACES[name](tmp_path, **needs)
        made.append(place)
        place.write()
        monkeypatch.setenv("AIRFLOW__E2E3D__PROFILES_FILE", str(tmp_path / "profiles.yaml"))
        return place

    yield make
    for place in made:
        place.close()


@pytest.fixture
def run(place: Place, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs the reconstruct DAG in the place and tells how it ended."""

    def go(**conf: Any) -> Outcome:
        place.write()
        return run_dag("reconstruct", {"capture": str(place.capture), "profile": place.name, **conf}, capfd)

    return go
