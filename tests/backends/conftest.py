"""Places of a test's own, and runs of the shipped DAG in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from botocore.loaders import JSONFileLoader

from tests.airflow_runs import Outcome, run_dag
from tests.backends.places import AwsPlace, DockerPlace, EcsPlace, KubernetesPlace, LocalPlace, Place, SageMakerPlace

# A test file has a fixture `place` that says which of these it means; a new backend adds its own here.
_ALL = (LocalPlace, DockerPlace, KubernetesPlace, SageMakerPlace, EcsPlace)
PLACES: dict[str, type[Place]] = {place.name: place for place in _ALL}


@pytest.fixture(scope="session", autouse=True)
def descriptions_of_aws() -> Iterator[None]:
    """What AWS's services can do is read once, not for each session of botocore's: every backend has several."""
    read = lru_cache(maxsize=None)(JSONFileLoader().load_file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", lambda _self, path: read(path))
        yield


@pytest.fixture
def make_place(
    tmp_path: Path, airflow_home: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], Any]]:
    """Makes the place of a name, in which nothing is left afterwards."""
    made: list[Place] = []

    def make(name: str) -> Place:
        needs = {} if name == "local" else {"engine": "engine", "image": "told_image"}
        if issubclass(PLACES[name], AwsPlace):
            needs |= {"s3_endpoint": "s3_endpoint", "s3_root": "s3_root"}
        place = PLACES[name](tmp_path, **{need: request.getfixturevalue(fixture) for need, fixture in needs.items()})
        made.append(place)
        place.write()
        for variable, value in place.environment.items():
            monkeypatch.setenv(variable, value)
        return place

    yield make
    for place in made:
        place.close()


@pytest.fixture
def run(place: Place, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs the reconstruct DAG in the place and tells how it ended."""

    def go(*, last: str = "publish", **conf: Any) -> Outcome:
        place.write()
        return run_dag("reconstruct", {"capture": place.capture, "profile": place.name, **conf}, capfd, last=last)

    return go
