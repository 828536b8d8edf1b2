"""Stages in containers of a real Docker engine: what a run, a dead worker, a person and a broken machine meet."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import pytest

from airflow_provider_e2e3d.attempt import Attempt, AttemptState
from airflow_provider_e2e3d.backends.base import JobSpec
from airflow_provider_e2e3d.backends.docker import DockerBackend, DockerSettings
from e2e3d_stages.contract import FailureCode, Infrastructure, InvalidRequest, Request
from e2e3d_stages.presets import STAGES
from e2e3d_stages.storage import open_storage
from e2e3d_stages.store import ArtifactStore
from tests.airflow_runs import Outcome
from tests.backends.conftest import Place
from tests.provider.test_waiting import until

pytestmark = pytest.mark.slow

KEY = "0123456789abcdef" * 2
Run = Callable[..., Outcome]


def backend(place: Place, **settings: Any) -> DockerBackend:
    """The backend with the place's settings and some of the test's own."""
    return DockerBackend(DockerSettings.model_validate({**place.settings, **settings}))


def attempt(place: Place, number: int = 1, **settings: Any) -> Attempt:
    """A container of ingest that was just started for a claimed attempt."""
    store = ArtifactStore.open(place.profile["store"])
    claim = store.claim("ingest", KEY, "test", stale_after=dt.timedelta(0))
    assert claim is not None
    params = STAGES["ingest"].resolve("draft", {}).model_dump(mode="json")
    version = STAGES["ingest"].version
    store.write_request(Request(stage="ingest", stage_version=version, key=KEY, attempt=claim.attempt, params=params))
    made = backend(place, **settings)
    handle = made.submit(job(store, claim.attempt))
    return Attempt(store, made, AttemptState(profile="docker", stage="ingest", key=KEY, claim=claim, handle=handle))


def job(store: ArtifactStore, number: int = 1, **values: Any) -> JobSpec:
    """An attempt of ingest as a job."""
    uri = store.request_uri("ingest", KEY, number)
    return JobSpec(stage="ingest", key=KEY, attempt=number, owner="test", request_uri=uri, **values)


def follow(made: Attempt, lines: list[str] | None = None) -> int | None:
    """Wait for the end; returns the exit status."""
    written = lines if lines is not None else []
    until(lambda: not made.follow(written.append).running)
    return made.follow(written.append).exit_code


def test_a_run_in_containers_ends_well_and_leaves_none(place: Place, run: Run, engine: docker.APIClient) -> None:
    outcome = run()
    assert outcome.state == "success", outcome.log
    assert place.script.calls == list(STAGES)
    assert place.containers(engine) == []
    assert "ingest does succeed" in outcome.log
    assert run().reused == list(STAGES)


def test_deferred_waiting_ends_as_waiting_with_a_worker_does(
    place: Place, run: Run, engine: docker.APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", "True")
    place.script["train"] = ["die", "succeed"]
    outcome = run()
    assert outcome.state == "success", outcome.log
    assert place.script.calls == ["ingest", "sfm", "train", "train", "compress", "evaluate", "publish"]
    assert outcome.results["train"]["metrics"]["resumed_from"] == 120
    assert outcome.log.count("DEFERRED") >= 7
    assert place.containers(engine) == []


def test_a_container_that_outlived_its_worker_is_found_and_not_started_again(
    place: Place, engine: docker.APIClient
) -> None:
    place.script["ingest"] = ["wait"]
    made = attempt(place)
    until(lambda: place.script.calls)
    assert made.backend.find(job(made.store)) == made.state.handle
    assert made.backend.submit(job(made.store)) == made.state.handle
    (place.script.folder / "go on").touch()
    assert follow(made) == 0
    # Also when it has ended: its exit status is still to be read.
    assert made.backend.find(job(made.store)) == made.state.handle
    assert place.script.calls == ["ingest"]
    assert len(place.containers(engine)) == 1


def test_the_same_work_in_two_stores_is_two_containers(place: Place, tmp_path: Path) -> None:
    here, there = (ArtifactStore.open((tmp_path / name).as_uri()) for name in ("here", "there"))
    assert job(here).name != job(there).name
    assert len(job(here).name) <= 63


def test_a_stopped_container_saves_and_is_gone_within_fifteen_seconds(place: Place, engine: docker.APIClient) -> None:
    place.script["ingest"] = ["wait"]
    made = attempt(place)
    until(lambda: place.script.calls)
    started = time.monotonic()
    made.cancel()
    assert time.monotonic() - started < 2
    until(lambda: (place.script.folder / "stopped").exists())
    until(lambda: not place.containers(engine))
    assert time.monotonic() - started < 15
    assert made.failure(made.backend.poll(made.state.handle)).code is FailureCode.INTERRUPTED
    # Again is no harm.
    made.cancel()


def test_a_container_killed_for_its_memory_is_tried_again_with_less(
    place: Place, run: Run, engine: docker.APIClient
) -> None:
    place.settings["mem_limit"] = "200m"
    place.script["train"] = ["eat memory"]
    outcome = run()
    assert outcome.state == "success", outcome.log
    assert place.script.calls.count("train") == 2
    store = ArtifactStore.open(place.profile["store"])
    manifest = store.manifest("train", outcome.results["train"]["key"])
    assert manifest is not None
    assert manifest.degraded_from is not None
    failure = store.failure("train", manifest.degraded_from, 1)
    assert failure is not None
    assert failure.code is FailureCode.OUT_OF_MEMORY
    assert place.containers(engine) == []


def test_a_killed_container_is_taken_up_from_its_checkpoint(place: Place, run: Run) -> None:
    place.script["train"] = ["die", "succeed"]
    outcome = run()
    assert outcome.tries["train"] == 2
    assert outcome.results["train"]["metrics"]["resumed_from"] == 120


def test_a_long_log_arrives_whole_and_in_order_in_bounded_pieces(place: Place) -> None:
    place.script["ingest"] = ["chatter"]
    made = attempt(place)
    lines: list[str] = []
    sizes = []
    until(lambda: not made.backend.poll(made.state.handle).running)
    cursor = 0
    while True:
        piece, cursor = made.backend.logs(made.state.handle, cursor)
        if not piece:
            break
        sizes.append(sum(map(len, piece)))
        lines += piece
    numbers = [int(line.split()[1]) for line in lines if line.startswith("line ")]
    assert numbers == list(range(50_000))
    assert len(sizes) > 5
    assert max(sizes) < 300_000


@pytest.mark.parametrize(
    ("policy", "word", "kept"),
    [
        ("never", "succeed", True),
        ("success", "succeed", False),
        ("success", "crash", True),
        ("force", "crash", False),
    ],
)
def test_ended_containers_are_kept_or_removed_as_the_profile_says(
    place: Place, engine: docker.APIClient, policy: str, word: str, kept: bool
) -> None:
    place.script["ingest"] = [word]
    made = attempt(place, auto_remove=policy)
    made.clear_away(succeeded=follow(made) == 0)
    assert bool(place.containers(engine)) is kept


def test_what_a_dead_worker_left_of_a_finished_job_is_cleared_away(
    place: Place, run: Run, engine: docker.APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(_self: object, _handle: object, *, succeeded: bool) -> None:
        monkeypatch.undo()
        monkeypatch.setenv("AIRFLOW__E2E3D__PROFILES_FILE", str(place.folder / "profiles.yaml"))
        raise RuntimeError("the worker dies here")

    monkeypatch.setattr(DockerBackend, "clear_away", die)
    outcome = run()
    assert outcome.state == "success", outcome.log
    assert outcome.tries["ingest"] == 2
    assert place.script.calls == list(STAGES)
    assert place.containers(engine) == []


def test_a_forgotten_container_is_removed_by_the_next_one(
    place: Place, engine: docker.APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = attempt(place)
    assert follow(first) == 0
    monkeypatch.setattr("airflow_provider_e2e3d.backends.docker._FORGOTTEN", dt.timedelta(0))
    second = attempt(place)
    assert [found["Id"] for found in place.containers(engine)] == [second.state.handle["container"]]


def test_a_container_can_do_little_and_write_nowhere_but_its_scratch(place: Place, engine: docker.APIClient) -> None:
    made = attempt(place, user="12345:12345")
    (inspected,) = place.containers(engine)
    host = inspected["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert inspected["Config"]["User"] == "12345:12345"
    assert [mount["Destination"] for mount in inspected["Mounts"] if mount["Type"] == "volume"] == ["/tmp"]
    volume = next(mount["Name"] for mount in inspected["Mounts"] if mount["Type"] == "volume")
    follow(made)
    made.clear_away(succeeded=False)
    assert volume not in [found["Name"] for found in engine.volumes()["Volumes"] or []]


def test_the_profile_reaches_the_container(place: Place, engine: docker.APIClient) -> None:
    limits = {"mem_limit": "300m", "shm_size": 64 << 20, "cpus": 2, "hostname": "here", "network_mode": "host"}
    made = attempt(
        place,
        **limits,
        threads=3,
        ulimits=[{"name": "nofile", "soft": 5000, "hard": 6000}],
        extra_hosts={"nas": "10.0.0.9"},
    )
    (inspected,) = place.containers(engine)
    host = inspected["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["ShmSize"]) == (300 << 20, 300 << 20, 64 << 20)
    assert (host["CpuShares"], host["NetworkMode"], inspected["Config"]["Hostname"]) == (2048, "host", "here")
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 5000, "Hard": 6000}]
    assert host["ExtraHosts"] == ["nas:10.0.0.9"]
    assert "E2E3D_THREADS=3" in inspected["Config"]["Env"]
    assert follow(made) == 0


def test_labels_say_whose_container_it_is(place: Place, engine: docker.APIClient) -> None:
    made = attempt(place)
    (inspected,) = place.containers(engine)
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
    place: Place, run: Run, s3_root: str, minio: dict[str, str], engine: docker.APIClient, airflow_home: Path
) -> None:
    secret = minio["AWS_SECRET_ACCESS_KEY"]
    storage = open_storage(s3_root, minio)
    storage.write("captures/statue/1.jpg", b"a photo")
    place.profile |= {"store": f"{s3_root}/store", "store_conn_id": "minio", "captures": [f"{s3_root}/captures"]}
    place.profile["url"] = "https://scenes.example.org"
    place.settings |= {"network_mode": "host", "auto_remove": "never"}
    outcome = run(capture=f"{s3_root}/captures/statue")
    assert outcome.state == "success", outcome.log
    containers = place.containers(engine)
    assert len(containers) == len(STAGES)
    for inspected in containers:
        assert f"AWS_SECRET_ACCESS_KEY={secret}" in inspected["Config"].pop("Env")
        assert secret not in json.dumps(inspected)
        assert secret.encode() not in engine.logs(inspected["Id"])
        assert inspected["Config"]["User"] != ""
    assert secret not in outcome.log
    assert secret not in str(outcome.results)
    assert not any(secret.encode() in storage.read(entry.path) for entry in storage.list())
    assert not any(secret.encode() in file.read_bytes() for file in airflow_home.rglob("*") if file.is_file())
    assert "The scene is at https://scenes.example.org/scenes/statue/" in outcome.log


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
def test_what_the_engine_lacks_is_told_within_a_minute_and_leaves_nothing(
    place: Place, engine: docker.APIClient, settings: dict[str, Any], kind: Any, words: str
) -> None:
    started = time.monotonic()
    with pytest.raises(kind) as told:
        attempt(place, **settings)
    assert time.monotonic() - started < 60
    assert words in f"{told.value.message} {told.value.hint}"
    assert told.value.hint
    assert place.containers(engine) == []


def test_a_full_disk_is_told_as_such(place: Place) -> None:
    place.script["ingest"] = ["fill the disk"]
    made = attempt(
        place,
        mounts=[*place.settings["mounts"], {"target": "/tmp", "source": None, "type": "tmpfs", "tmpfs_size": 1 << 20}],
    )
    exit_code = follow(made)
    failure = made.failure(made.backend.poll(made.state.handle))
    assert exit_code == failure.code.exit_code == FailureCode.INFRASTRUCTURE.exit_code
    assert "disk is full" in failure.message


def test_a_program_that_could_not_say_why_is_judged_by_its_exit_status(place: Place) -> None:
    made = attempt(place, environment={"E2E3D_TEST_SCRIPT": "/tmp"}, network_mode="none")
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


def test_the_image_is_this_release_s_for_the_stage_unless_the_profile_names_one(tmp_path: Path) -> None:
    store = ArtifactStore.open(tmp_path.as_uri())
    made = DockerBackend(DockerSettings(backend="docker"))
    assert made._image(job(store)).startswith("e2e3d/sfm:")
