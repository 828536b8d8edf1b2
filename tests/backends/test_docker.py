"""Stages in containers of a real Docker engine: what only Docker knows; the rest is in test_conformance.py."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_e2e3d.backends.docker import client as docker_engine
from airflow_provider_e2e3d.backends.docker.backend import DockerBackend
from airflow_provider_e2e3d.backends.docker.settings import DockerSettings
from e2e3d_stages.contract.messages import FailureCode, Infrastructure, InvalidRequest
from e2e3d_stages.store.opening import open_storage
from tests.airflow_runs import Outcome
from tests.backends.places import KEY, DockerPlace, follow

pytestmark = pytest.mark.slow

Run = Callable[..., Outcome]


@pytest.fixture
def place(make_place: Callable[[str], DockerPlace]) -> DockerPlace:
    """Containers of the test's own."""
    return make_place("docker")


def test_the_same_work_in_two_stores_is_two_containers(place: DockerPlace, tmp_path: Path) -> None:
    names = set()
    for store in ("here", "there"):
        place.profile["store"] = (tmp_path / store).as_uri()
        names.add(place.job().name)
    assert len(names) == 2
    assert max(map(len, names)) <= 63


@pytest.mark.parametrize(
    ("word", "kept_by", "removed_by"), [("succeed", ["never"], "success"), ("crash", ["never", "success"], "force")]
)
def test_ended_containers_are_kept_or_removed_as_the_profile_says(
    place: DockerPlace, word: str, kept_by: list[str], removed_by: str
) -> None:
    place.script["ingest"] = [word]
    made = place.attempt()
    succeeded = follow(made) == 0
    assert succeeded is (word == "succeed")
    for policy in kept_by:
        place.backend(auto_remove=policy).clean_up(made.state.handle, succeeded=succeeded)
        assert place.left()
    place.backend(auto_remove=removed_by).clean_up(made.state.handle, succeeded=succeeded)
    assert not place.left()


def test_a_container_that_somebody_paused_has_not_ended(place: DockerPlace) -> None:
    place.script["ingest"] = ["wait"]
    made = place.attempt()
    (container,) = place.left()
    place.engine.pause(container["Id"])
    try:
        assert made.backend.poll(made.state.handle).running
    finally:
        place.engine.unpause(container["Id"])
    (place.script.folder / "go on").touch()
    assert follow(made) == 0


def test_a_forgotten_container_is_removed_by_the_next_one(place: DockerPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    # Other tests' containers are not this one's to remove.
    monkeypatch.setattr(docker_engine, "_LABEL", f"e2e3d-{place.mark}")
    first = place.attempt()
    assert follow(first) == 0
    monkeypatch.setattr(docker_engine, "_FORGOTTEN", dt.timedelta(0))
    second = place.attempt()
    assert [found["Id"] for found in place.left()] == [second.state.handle["container"]]


def test_a_container_can_do_little_and_write_nowhere_but_its_scratch(place: DockerPlace) -> None:
    made = place.attempt(user="12345:12345")
    (inspected,) = place.left()
    host = inspected["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert inspected["Config"]["User"] == "12345:12345"
    assert [mount["Destination"] for mount in inspected["Mounts"] if mount["Type"] == "volume"] == ["/tmp"]
    volume = next(mount["Name"] for mount in inspected["Mounts"] if mount["Type"] == "volume")
    made.clean_up(succeeded=False)
    assert volume not in [found["Name"] for found in place.engine.volumes()["Volumes"] or []]


def test_the_profile_reaches_the_container(place: DockerPlace) -> None:
    limits = {"mem_limit": "300m", "shm_size": 64 << 20, "cpus": 2, "hostname": "here", "network_mode": "host"}
    made = place.attempt(
        **limits,
        threads=3,
        ulimits=[{"name": "nofile", "soft": 5000, "hard": 6000}],
        extra_hosts={"nas": "10.0.0.9"},
    )
    (inspected,) = place.left()
    host = inspected["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["ShmSize"]) == (300 << 20, 300 << 20, 64 << 20)
    assert (host["CpuShares"], host["NetworkMode"], inspected["Config"]["Hostname"]) == (2048, "host", "here")
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 5000, "Hard": 6000}]
    assert host["ExtraHosts"] == ["nas:10.0.0.9"]
    assert "E2E3D_THREADS=3" in inspected["Config"]["Env"]
    assert follow(made) == 0


def test_labels_say_whose_container_it_is(place: DockerPlace) -> None:
    made = place.attempt()
    (inspected,) = place.left()
    labels = inspected["Config"]["Labels"]
    assert labels["e2e3d.stage"] == "ingest"
    assert labels["e2e3d.key"] == KEY
    assert labels["e2e3d.attempt"] == "1"
    assert labels["e2e3d.owner"] == "test"
    assert labels["e2e3d.request"] == made.store.request_uri("ingest", KEY, 1)
    assert follow(made) == 0
    manifest = made.store.manifest("ingest", KEY)
    assert manifest is not None
    assert str(manifest.program.image).startswith(f"{place.settings['image']}@sha256:")


def test_credentials_are_in_the_private_environment_and_nowhere_else(
    place: DockerPlace, run: Run, s3_root: str, minio: dict[str, str], airflow_home: Path
) -> None:
    secret = minio["AWS_SECRET_ACCESS_KEY"]
    storage = open_storage(s3_root, minio)
    storage.write("captures/statue/1.jpg", b"a photo")
    place.profile |= {"store": f"{s3_root}/store", "store_conn_id": "minio", "captures": [f"{s3_root}/captures"]}
    place.settings |= {"network_mode": "host", "auto_remove": "never"}
    outcome = run(last="sfm", capture=f"{s3_root}/captures/statue")
    assert outcome.state == "success", outcome.log
    containers = place.left()
    assert len(containers) == 2
    for inspected in containers:
        assert f"AWS_SECRET_ACCESS_KEY={secret}" in inspected["Config"].pop("Env")
        assert secret not in json.dumps(inspected)
        assert secret.encode() not in place.engine.logs(inspected["Id"])
        assert inspected["Config"]["User"] != ""
    assert secret not in outcome.log
    assert secret not in str(outcome.results)
    assert not any(secret.encode() in storage.read(entry.path) for entry in storage.list())
    assert not any(secret.encode() in file.read_bytes() for file in airflow_home.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"image": "e2e3d-tests/no-such-image"}, (InvalidRequest, Infrastructure), "make images"),
        ({"docker_url": "unix:///nowhere/docker.sock"}, Infrastructure, "does not answer"),
        ({"docker_url": "tcp://127.0.0.1:9"}, Infrastructure, "does not answer"),
        ({"device_requests": [{"count": -1, "capabilities": [["gpu"]]}]}, InvalidRequest, "offers no GPU"),
        ({"mounts": [{"source": "/no/folder", "target": "/x", "type": "bind"}]}, InvalidRequest, "does not see"),
        ({"mounts": [{"where": "/x"}]}, InvalidRequest, "mounts"),
        ({"mem_limit": "2m"}, InvalidRequest, "Minimum memory limit"),
        ({"network_mode": "no-such-network"}, InvalidRequest, "no-such-network"),
    ],
)
@pytest.mark.timeout(60, func_only=True)
def test_what_the_engine_lacks_is_told_within_a_minute_and_leaves_nothing(
    place: DockerPlace, settings: dict[str, Any], kind: Any, words: str
) -> None:
    (place.folder / "store").mkdir()
    with pytest.raises(kind) as told:
        place.backend(**settings).submit(place.job())
    assert words in f"{told.value.message} {told.value.hint}"
    assert told.value.hint
    assert place.left() == []


def test_a_full_disk_is_told_as_such(place: DockerPlace) -> None:
    place.script["ingest"] = ["fill the disk"]
    made = place.attempt(
        mounts=[*place.settings["mounts"], {"target": "/tmp", "source": None, "type": "tmpfs", "tmpfs_size": 1 << 20}],
    )
    exit_code = follow(made)
    failure = made.failure(made.backend.poll(made.state.handle))
    assert exit_code == failure.code.exit_code == FailureCode.INFRASTRUCTURE.exit_code
    assert "disk is full" in failure.message


def test_a_program_that_could_not_say_why_is_judged_by_its_exit_status(place: DockerPlace) -> None:
    made = place.attempt(environment={"E2E3D_TEST_SCRIPT": "/tmp"}, network_mode="none")
    request = made.store.request_uri("ingest", KEY, 1)
    made.store.storage.delete(request.removeprefix(made.store.storage.uri + "/"))
    follow(made)
    assert made.failure(made.backend.poll(made.state.handle)).code in (FailureCode.INVALID_REQUEST, FailureCode.CRASH)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"imagee": "x"}, "DockerOperator has no 'imagee'"),
        ({"command": "sh"}, "'command' is the stage's own"),
        ({"entrypoint": "sh"}, "'entrypoint' is the stage's own"),
        ({"retrieve_output": True}, "the stage's own"),
        ({"skip_on_exit_code": 2}, "the stage's own"),
        ({"auto_remove": "sometimes"}, "auto_remove"),
        ({"docker_url": ["unix:///a", "unix:///b"]}, "docker_url"),
    ],
)
def test_a_profile_that_cannot_work_is_refused_when_it_is_read(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DockerSettings.model_validate({"backend": "docker", **settings})


def test_the_image_is_this_release_s_for_the_stage_unless_the_profile_names_one(place: DockerPlace) -> None:
    made = DockerBackend(DockerSettings(backend="docker"))
    assert made.settings.image_of(place.job()).startswith("e2e3d/sfm:")
    named = place.backend()
    assert isinstance(named, DockerBackend)
    assert named.settings.image_of(place.job()) == place.settings["image"]
