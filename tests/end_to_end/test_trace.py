"""One trace shows a run from its trigger to its page, wherever its stages run: in the file of a collector."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.backends.kubernetes_api import Cluster
from tests.collector import Collector, check_job
from tests.conftest import ALWAYS
from tests.end_to_end.conftest import Airflow
from tests.provider.conftest import Script

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("airflow")]


@pytest.fixture
def cluster(place: Path, engine: docker.APIClient) -> Iterator[Cluster]:
    """What the profile `kubernetes` speaks to."""
    made = Cluster(engine)
    made.kubeconfig(place / "kubeconfig")
    yield made
    made.close()


# A task that is deferred: tests/end_to_end/test_standalone.py.
@pytest.mark.parametrize("where", ["local", "docker", "kubernetes"])
def test_one_trace_shows_a_run_from_its_trigger_to_its_page(
    airflow: Airflow, collector: Collector, place: Path, script: Script, told_image: str, cluster: Cluster, where: str
) -> None:
    # What another test made already would be reused, and have no job.
    capture = place / "captures" / f"traced-{where}"
    capture.mkdir()
    (capture / "1.jpg").write_bytes(f"a photo for {where}".encode())
    run = airflow.trigger(capture=str(capture), profile=where)
    assert airflow.end_of(run, seconds=400) == "success"
    spans = collector.trace_of(run, ALWAYS)
    for stage in ALWAYS:
        check_job(spans, stage, stage, where)
