"""Real photos through the real stages in a real DAG run, small enough for a test."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml

from e2e3d_stages.contract.messages import Manifest, Reference
from e2e3d_stages.registry import STAGES
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.base import Storage
from e2e3d_stages.store.opening import open_storage
from tests.airflow_runs import Outcome, run_dag
from tests.backends.aws_api import ACCOUNT, REGION, Aws
from tests.backends.ecs_api import Ecs
from tests.backends.kubernetes_api import Cluster
from tests.backends.sagemaker_api import SageMaker
from tests.conftest import ALWAYS

pytestmark = pytest.mark.slow

PHOTOS = 8
TINY: dict[str, Any] = {
    "preset": "draft",
    "ingest_max_size": 480,
    "sfm_max_features": 2048,
    "train_iterations": 90,
    "train_max_gaussians": 4000,
    "train_long_side": 160,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    """A folder with one capture: eight photos of the sample and three files that are none."""
    folder = tmp_path_factory.mktemp("real")
    capture = folder / "captures" / "valley"
    capture.mkdir(parents=True)
    for photo in sorted(sample.iterdir())[:PHOTOS]:
        shutil.copy(photo, capture)
    (capture / "IMG_9999.jpg").write_bytes(b"not a JPEG at all")
    (capture / "IMG_9998.jpg").write_bytes((capture / "IMG_9371.jpg").read_bytes())
    (capture / "notes.txt").write_text("windy")
    captures = [(folder / "captures").as_uri()]
    profiles = {
        "local": {"store": (folder / "store").as_uri(), "captures": captures},
        "docker": {
            "store": (folder / "docker store").as_uri(),
            "captures": captures,
            "stages": {"default": {"backend": "docker"}},
        },
    }
    (folder / "profiles.yaml").write_text(yaml.safe_dump(profiles, sort_keys=False))
    return folder


@pytest.fixture
def run(
    airflow_home: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Runs the reconstruct DAG on the capture with tiny parameters."""
    monkeypatch.setenv("AIRFLOW__E2E3D__PROFILES_FILE", str(place / "profiles.yaml"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))

    def go(last: str = "publish", **conf: Any) -> Outcome:
        return run_dag("reconstruct", {"capture": str(place / "captures" / "valley"), **TINY, **conf}, capfd, last=last)

    return go


@pytest.fixture(scope="module")
def kept() -> dict[str, Outcome]:
    """What is run once for all tests."""
    return {}


@pytest.fixture
def processes(run: Callable[..., Outcome], kept: dict[str, Outcome]) -> Outcome:
    """The capture's run by processes on this machine, which every other place is compared with."""
    if "processes" not in kept:
        kept["processes"] = run()
    return kept["processes"]


def made(store: ArtifactStore, outcome: Outcome, stage: str) -> Manifest:
    """What a stage of a run left in a store."""
    reference = Reference.model_validate(outcome.results[stage])
    found = store.manifest(stage, reference.key, digest=reference.digest)
    assert found is not None
    return found


def test_photos_go_in_and_a_page_comes_out(run: Callable[..., Outcome], processes: Outcome, place: Path) -> None:
    assert processes.state == "success", processes.log[-5000:]
    store = ArtifactStore.open((place / "store").as_uri())

    def manifest(stage: str) -> Manifest:
        return made(store, processes, stage)

    assert manifest("ingest").metrics["photos"] == PHOTOS
    told = " ".join(warning.message for warning in manifest("ingest").warnings)
    assert "IMG_9999.jpg" in told
    assert "IMG_9998.jpg" in told
    assert manifest("sfm").metrics["photos_supported"] >= PHOTOS - 1
    assert manifest("train").metrics["gaussians"] <= 4000
    assert manifest("evaluate").metrics["psnr"] > 18
    assert abs(manifest("evaluate").metrics["compression_loss_db"]) < 0.5
    for stage in ("ingest", "sfm", "train", "compress", "evaluate", "publish"):
        assert manifest(stage).usage.peak_memory_bytes < 2 << 30

    (latest,) = (place / "store" / "scenes" / "valley").glob("latest.json")
    folder = latest.parent / json.loads(latest.read_text())["run"]
    for name in ("index.html", "report.html", "thumbnail.jpg", "scene.ply", "scene.sog", "scene.spz"):
        assert (folder / name).stat().st_size > 1000, name
    report = (folder / "report.html").read_text()
    assert "IMG_9999.jpg" in report
    assert "http://" not in report.replace("http://www.w3.org", "")

    again = run(last="train", train_iterations=20)
    assert again.state == "success"
    assert sorted(again.reused) == ["ingest", "sfm"]


def test_containers_make_what_processes_make_and_a_killed_one_is_taken_up_from_its_checkpoint(
    run: Callable[..., Outcome], processes: Outcome, place: Path, engine: docker.APIClient, images: None
) -> None:
    here, there = (ArtifactStore.open((place / name).as_uri()) for name in ("store", "docker store"))
    killer = threading.Thread(target=kill_training_after_a_checkpoint, args=(engine, there), daemon=True)
    killer.start()
    containers = run(profile="docker", train_checkpoint_every=30)
    killer.join(1)
    assert containers.state == "success", containers.log[-5000:]
    assert containers.tries["train"] == 2
    assert re.search(r"resuming from step (30|60) of 90", containers.log)
    # The checkpoints' distance is part of what was asked, and so of the keys from training on.
    for stage in ("ingest", "sfm"):
        assert containers.results[stage]["key"] == processes.results[stage]["key"]
    assert not engine.containers(all=True, filters={"label": f"e2e3d.key={containers.results['train']['key']}"})

    same_but_for_noise(here, processes, there, containers)
    image = made(there, containers, "train").program.image
    assert image is not None
    assert image.startswith("e2e3d/3dgs:")


def test_pods_make_what_processes_make(
    run: Callable[..., Outcome], processes: Outcome, place: Path, engine: docker.APIClient, images: None
) -> None:
    here, there = (ArtifactStore.open((place / name).as_uri()) for name in ("store", "pod store"))
    cluster = Cluster(engine)
    folders = {"store": place / "pod store", "captures": place / "captures"}
    folders["store"].mkdir()
    settings = {
        "backend": "kubernetes",
        "config_file": str(cluster.kubeconfig(place / "kubeconfig")),
        "volumes": [{"name": name, "hostPath": {"path": str(path)}} for name, path in folders.items()],
        "volume_mounts": [{"name": name, "mountPath": str(path)} for name, path in folders.items()],
        "security_context": {"runAsUser": os.getuid(), "runAsGroup": os.getgid(), "runAsNonRoot": os.getuid() != 0},
    }
    profiles = yaml.safe_load((place / "profiles.yaml").read_text())
    profiles["kubernetes"] = {
        "store": there.storage.uri,
        "captures": [folders["captures"].as_uri()],
        "stages": {"default": settings},
    }
    (place / "profiles.yaml").write_text(yaml.safe_dump(profiles, sort_keys=False))
    try:
        pods = run(profile="kubernetes")
        assert pods.state == "success", pods.log[-5000:]
        assert len(cluster.created) == len(ALWAYS)
        deadline = time.monotonic() + 30
        while cluster.pods and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not cluster.pods
    finally:
        cluster.close()
    for stage in ALWAYS:
        assert pods.results[stage]["key"] == processes.results[stage]["key"]
    same_but_for_noise(here, processes, there, pods)


@pytest.mark.parametrize("profile", ["sagemaker", "ecs", "hybrid"])
def test_jobs_on_aws_make_what_processes_make(
    run: Callable[..., Outcome],
    processes: Outcome,
    place: Path,
    aws: Aws,
    s3_root: str,
    minio: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    profile: str,
) -> None:
    upload(place / "captures" / "valley", open_storage(f"{s3_root}/captures/valley", minio))
    connection = {"conn_type": "aws", "login": "x", "password": "y", "extra": {"endpoint_url": aws.endpoint}}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_OF_THE_TEST", json.dumps(connection))
    job = {"aws_conn_id": "aws_of_the_test", "region_name": REGION, "poll_seconds": 0.5}
    role = f"arn:aws:iam::{ACCOUNT}:role/e2e3d-stages"
    sagemaker = {
        **{"backend": "sagemaker", **job, "RoleArn": role, "ResourceConfig": {"InstanceType": "ml.m5.xlarge"}},
        "EnableManagedSpotTraining": True,
    }
    definition = {"cpu": "2048", "memory": "8192", "executionRoleArn": role, "taskRoleArn": role}
    network = {"awsvpcConfiguration": {"subnets": ["subnet-1"]}}
    stages = {
        "sagemaker": {"default": sagemaker},
        "ecs": {
            "default": {
                **{"backend": "ecs", **job, "cluster": "splats", "launchType": "FARGATE", "machine": "fargate-2-8"},
                **{"task_definition": definition, "networkConfiguration": network},
            }
        },
        "hybrid": {"default": {"backend": "docker", "network_mode": "host"}, "train": sagemaker},
    }
    profiles = yaml.safe_load((place / "profiles.yaml").read_text())
    profiles[profile] = {
        "store": f"{s3_root}/store",
        "store_conn_id": "minio",
        "captures": [f"{s3_root}/captures"],
        "prices": {"ml.m5.xlarge": 0.23, "fargate-2-8": 0.12},
        "stages": stages[profile],
    }
    (place / "profiles.yaml").write_text(yaml.safe_dump(profiles, sort_keys=False))
    last = "train" if profile == "hybrid" else "publish"
    jobs = run(last=last, profile=profile, capture=f"{s3_root}/captures/valley")
    assert jobs.state == "success", jobs.log[-5000:]
    assert minio["AWS_SECRET_ACCESS_KEY"] not in jobs.log
    here, there = ArtifactStore.open((place / "store").as_uri()), ArtifactStore.open(f"{s3_root}/store", minio)
    for stage in made_stages(jobs):
        assert jobs.results[stage]["key"] == processes.results[stage]["key"]
    same_but_for_noise(here, processes, there, jobs)
    record = there.job("train", jobs.results["train"]["key"], 1)
    assert record is not None
    assert record.backend == {"hybrid": "sagemaker"}.get(profile, profile)
    assert record.price is not None
    assert 0 < record.price < 0.05
    image = made(there, jobs, "train").program.image
    assert image is not None
    assert image.startswith("e2e3d/3dgs:")


@pytest.fixture
def aws(
    engine: docker.APIClient, images: None, s3_endpoint: str, minio: dict[str, str], tmp_path: Path
) -> Iterator[Aws]:
    """An AWS whose jobs are real containers, and have the bucket's credentials as their role."""
    made = Aws(engine, s3_endpoint, [], minio)
    SageMaker(made, tmp_path / "instances")
    tasks = Ecs(made)
    made.client("ecs").create_cluster(clusterName="splats")
    yield made
    tasks.close()
    made.close()


def made_stages(outcome: Outcome) -> list[str]:
    """The stages that a run made, in their order."""
    return [stage for stage in STAGES if stage in outcome.results]


def upload(folder: Path, storage: Storage) -> None:
    """Every file of a folder."""
    for file in folder.iterdir():
        storage.upload(file, file.name)


def same_but_for_noise(here: ArtifactStore, one: Outcome, there: ArtifactStore, other: Outcome) -> None:
    """Two runs on the same photos are as good as each other, as far as the second went."""
    was = {stage: made(here, one, stage).metrics for stage in made_stages(other)}
    now = {stage: made(there, other, stage).metrics for stage in made_stages(other)}
    assert now["ingest"]["photos"] == was["ingest"]["photos"]
    assert abs(now["sfm"]["photos_supported"] - was["sfm"]["photos_supported"]) <= 1
    assert now["sfm"]["points"] == pytest.approx(was["sfm"]["points"], rel=0.1)
    if "evaluate" in now:
        assert now["evaluate"]["psnr"] == pytest.approx(was["evaluate"]["psnr"], abs=1.0)
        assert now["evaluate"]["ssim"] == pytest.approx(was["evaluate"]["ssim"], abs=0.05)


def kill_training_after_a_checkpoint(engine: docker.APIClient, store: ArtifactStore) -> None:
    """Kill the container that trains, once, as soon as it has something to go on from."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if any(entry.path.endswith("checkpoint.json") for entry in store.storage.list("artifacts/train")):
            for found in engine.containers(filters={"label": "e2e3d.stage=train"}):
                if found["Labels"]["e2e3d.request"].startswith(store.storage.uri):
                    engine.kill(found["Id"])
            return
        time.sleep(0.05)
