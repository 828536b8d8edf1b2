"""Stores and addresses that many tests share."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
import hypothesis
import pytest
from moto import backends as moto_backends
from moto.s3.responses import S3Response
from moto.server import ThreadedMotoServer
from xdist.scheduler import LoadScopeScheduling

from e2e3d_stages import __version__
from e2e3d_stages.registry import STAGES
from e2e3d_stages.store.artifacts import ArtifactStore

ROOT = Path(__file__).parent.parent
# The stages of every run, whatever it asks for.
ALWAYS = [*STAGES["publish"].inputs, "publish"]
TOLD_IMAGE = f"e2e3d-tests/told:{__version__}"

# Airflow reads its home when it is first imported: an own one, before any test can import it.
_HOME = Path(tempfile.mkdtemp(prefix="e2e3d-tests-"))
os.environ |= {
    "AIRFLOW_HOME": str(_HOME),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(
        [{"name": "e2e3d", "classpath": "airflow_provider_e2e3d.bundle.E2E3DDagBundle", "kwargs": {}}]
    ),
}

# What a property is tried with: seconds in `make test`, minutes in `make soak`.
hypothesis.settings.register_profile("seconds", deadline=None)
hypothesis.settings.register_profile(
    "minutes", deadline=None, max_examples=3000, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("seconds")


class Scheduling(LoadScopeScheduling):
    """A file's tests stay in one worker; all that start a whole Airflow, which takes a core, follow one another."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return "end_to_end" if file.startswith("tests/end_to_end/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    """What `-n` hands out."""
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """What takes long goes first, so that no worker is left alone with it at the end.

    In end_to_end the shared Airflow comes last: it takes its share of a core until the last of these tests is over.
    """
    order = ["compose", "end_to_end", "containers", "backends", "provider", "stages"]
    places = {folder: place for place, folder in enumerate(order)}

    def place(item: pytest.Function) -> tuple[int, bool]:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        return places.get(folder, len(order)), folder == "end_to_end" and "airflow" in item.fixturenames

    items.sort(key=place)


def until(condition: Callable[[], object], seconds: float = 180, pause: float = 0.1) -> None:
    """Wait for something; a busy machine takes its time.

    :param pause: between two looks, longer where a look takes the cores that are waited for.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(pause)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """What every worker of pytest needs and one makes: a folder of the run's own, with what `make` left in it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            make(folder)
            (folder / "made").touch()
    return folder


@pytest.fixture(scope="session")
def airflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of Airflow's, to be copied: making one takes many seconds."""

    def migrate(folder: Path) -> None:
        airflow = Path(sys.executable).with_name("airflow")
        environment = {**os.environ, "AIRFLOW_HOME": str(folder)}
        subprocess.run([airflow, "db", "migrate"], env=environment, check=True, capture_output=True)

    return once(tmp_path_factory, "airflow", migrate) / "airflow.db"


@pytest.fixture(scope="session")
def airflow_home(airflow_database: Path) -> Iterator[Path]:
    """The home of the tests' Airflow, its database ready."""
    shutil.copy(airflow_database, _HOME)
    yield _HOME
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def sample() -> Path:
    """The photos that come with the project: 31 of a drone's flight, CC0."""
    return ROOT / "sample" / "caliterra" / "images"


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A real S3 API over HTTP on this machine, with its address and credentials in the environment.

    Where E2E3D_TEST_S3 names a server, its credentials in the environment, it is that one.
    """
    if given := os.environ.get("E2E3D_TEST_S3"):
        os.environ["AWS_ENDPOINT_URL_S3"] = given
        yield given
        return
    put, one_at_a_time = S3Response._key_response_put, threading.Lock()

    def put_whole(*request: object) -> object:
        """Look whether an object is there and write it in one step, as S3 does; moto lets others in between."""
        with one_at_a_time:
            return put(*request)

    S3Response._key_response_put = put_whole
    # It would look through its own folder at every request, which takes longer than most answers.
    modules = tuple(moto_backends.list_of_moto_modules())
    moto_backends.list_of_moto_modules = lambda: modules
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    values = {
        "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    yield values["AWS_ENDPOINT_URL_S3"]
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    server.stop()


@pytest.fixture(scope="session")
def engine() -> docker.APIClient:
    """The Docker engine of this machine; CI has one."""
    try:
        client = docker.APIClient()
        client.ping()
    except docker.errors.DockerException as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no Docker engine answers: {error}")
    return client


@pytest.fixture(scope="session")
def images(engine: docker.APIClient, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The shipped images, built from this tree; what is unchanged comes from the engine's cache."""

    def build(_folder: Path) -> None:
        built = subprocess.run(["make", "images"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stdout[-4000:] + built.stderr[-4000:]

    once(tmp_path_factory, "images", build)


@pytest.fixture(scope="session")
def told_image(images: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image whose program does what a test says."""

    def build(_folder: Path) -> None:
        where = ["--file", ROOT / "tests/backends/Dockerfile", ROOT / "tests/provider"]
        words = ["--quiet", "--tag", TOLD_IMAGE, "--build-arg", f"VERSION={__version__}"]
        subprocess.run(["docker", "build", *words, *where], check=True)

    once(tmp_path_factory, "told image", build)
    return TOLD_IMAGE


@pytest.fixture
def s3_root(s3_endpoint: str) -> str:
    """A fresh bucket and a prefix in it."""
    import boto3

    bucket = f"test-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/some/prefix"


@pytest.fixture
def minio(s3_root: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A bucket that only the Airflow connection `minio` opens; returns its secrets as boto3's environment."""
    access = {
        "AWS_ENDPOINT_URL_S3": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "hush-hush-secret-key",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    connection = {
        "conn_type": "aws",
        "login": access["AWS_ACCESS_KEY_ID"],
        "password": access["AWS_SECRET_ACCESS_KEY"],
        "extra": {"endpoint_url": s3_endpoint, "region_name": access["AWS_DEFAULT_REGION"]},
    }
    monkeypatch.setenv("AIRFLOW_CONN_MINIO", json.dumps(connection))
    for name in access:
        monkeypatch.delenv(name)
    return access


@pytest.fixture(params=["file", "s3"])
def store_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The root of an empty store, once on disk and once in a bucket."""
    if request.param == "s3":
        return str(request.getfixturevalue("s3_root"))
    return (tmp_path / "a store").as_uri()


@pytest.fixture
def store(store_uri: str) -> ArtifactStore:
    """An empty store."""
    return ArtifactStore.open(store_uri)
