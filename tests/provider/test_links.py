"""The buttons on a task: where they lead, and that they do so while the task still runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import select

from airflow_provider_e2e3d.backends.base import Handle, JobStatus
from airflow_provider_e2e3d.backends.ecs.backend import EcsBackend
from airflow_provider_e2e3d.backends.ecs.settings import EcsSettings
from airflow_provider_e2e3d.backends.kubernetes.backend import KubernetesBackend
from airflow_provider_e2e3d.backends.kubernetes.settings import KubernetesSettings
from airflow_provider_e2e3d.backends.local.backend import LocalBackend
from airflow_provider_e2e3d.backends.sagemaker.backend import SageMakerBackend
from airflow_provider_e2e3d.backends.sagemaker.settings import SageMakerSettings
from airflow_provider_e2e3d.get_provider_info import get_provider_info
from airflow_provider_e2e3d.operators.links import ArtifactLink, JobLink, artifact_address
from airflow_provider_e2e3d.operators.reconstruction import PublishOperator
from e2e3d_stages.store.opening import open_storage
from tests.airflow_runs import Outcome
from tests.conftest import ALWAYS
from tests.provider.conftest import Script

Run = Callable[..., Outcome]
TRAINING = SimpleNamespace(dag_id="mine", run_id="manual__1", task_id="train", map_index=3)
ROLE = "arn:aws:iam::123456789012:role/stages"


def edit(profiles: Path, old: str, new: str) -> None:
    """Write something else into the profile file."""
    assert old in profiles.read_text()
    profiles.write_text(profiles.read_text().replace(old, new))


@pytest.mark.slow
def test_tasks_lead_to_their_artifacts_and_jobs_and_the_last_one_to_the_scene(
    run: Run, profiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.org/one/")
    edit(profiles, "{backend: local,", "{backend: local, job_url: 'https://top',")
    made = run("publish", scene="town-hall")
    for stage in ALWAYS:
        address = made.links[stage]["Artifact"]
        assert address.startswith("https://airflow.example.org/one/dags/reconstruct/runs/")
        assert address.endswith(f"/tasks/{stage}/plugin/artifact")
        assert made.links[stage]["Job"] == "https://top"
    (folder,) = (tmp_path / "store" / "scenes" / "town-hall").glob("*/")
    last = made.links["publish"]
    assert last["Open scene"] == f"https://airflow.example.org/one/e2e3d/scenes/town-hall/{folder.name}"
    # Browsers do not follow a page to a folder on a disk.
    assert last["Report"] == f"{last['Open scene']}/report.html"

    monkeypatch.delenv("AIRFLOW__API__BASE_URL")
    edit(profiles, "  preset: draft", "  preset: draft\n  url: https://scenes.example.org")
    reused = run("publish", scene="town-hall")
    assert {reused.links[stage]["Job"] for stage in ALWAYS} == {""}
    assert reused.links["train"]["Artifact"].startswith("/dags/reconstruct/runs/")
    assert reused.links["publish"]["Open scene"].startswith("/e2e3d/scenes/town-hall/")
    assert reused.links["publish"]["Report"].startswith("https://scenes.example.org/scenes/town-hall/")
    assert reused.links["publish"]["Report"].endswith("/report.html")


@pytest.mark.slow
@pytest.mark.parametrize("deferred", [False, True])
def test_artifact_and_job_work_while_the_job_runs_and_afterwards(
    run: Run, profiles: Path, monkeypatch: pytest.MonkeyPatch, deferred: bool
) -> None:
    edit(profiles, "{backend: local,", "{backend: local, job_url: 'https://top/{pid}?{log}',")
    monkeypatch.setattr(LocalBackend, "deferrable", True)
    monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", str(deferred))
    seen: list[dict[str, Any]] = []
    look = LocalBackend.poll

    def poll(self: LocalBackend, handle: Handle) -> JobStatus:
        with create_session() as session:
            rows = session.scalars(select(XComModel).where(XComModel.task_id == "ingest")).all()
            seen.append({row.key: XComModel.deserialize_value(row) for row in rows} | {"pid": handle["pid"]})
        return look(self, handle)

    monkeypatch.setattr(LocalBackend, "poll", poll)
    outcome = run("ingest")
    assert outcome.states["ingest"] == "success"
    first, links = seen[0], outcome.links["ingest"]
    assert first[JobLink().xcom_key].startswith(f"https://top/{first['pid']}?%2F")
    assert (first[ArtifactLink().xcom_key], first[JobLink().xcom_key]) == (links["Artifact"], links["Job"])


@pytest.mark.slow
def test_a_failed_task_keeps_its_buttons(run: Run, script: Script) -> None:
    script["ingest"] = ["unreadable"]
    outcome = run("ingest")
    assert outcome.states["ingest"] == "failed"
    assert outcome.links["ingest"]["Artifact"].endswith("/tasks/ingest/plugin/artifact")
    # A process has no page of its own.
    assert outcome.links["ingest"]["Job"] == ""


def test_a_pod_is_shown_where_the_profile_says() -> None:
    settings = KubernetesSettings.model_validate(
        {"backend": "kubernetes", "job_url": "https://dashboard/#/pod/{namespace}/{pod}?namespace={namespace}"}
    )
    handle = {"namespace": "scenes", "pod": "e2e3d-train-1", "uid": "7"}
    assert KubernetesBackend(settings).job_url(handle) == (
        "https://dashboard/#/pod/scenes/e2e3d-train-1?namespace=scenes"
    )


@pytest.mark.parametrize(
    ("region", "console"),
    [
        ("eu-central-1", "https://console.aws.amazon.com"),
        ("cn-north-1", "https://console.amazonaws.cn"),
        ("us-gov-west-1", "https://console.amazonaws-us-gov.com"),
    ],
)
def test_jobs_and_buckets_of_aws_are_shown_in_its_console(
    region: str, console: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    settings = {"backend": "sagemaker", "RoleArn": ROLE, "ResourceConfig": {"InstanceType": "ml.g5.xlarge"}}
    training = SageMakerBackend(SageMakerSettings.model_validate({**settings, "region_name": region}))
    assert training.job_url({"job": "e2e3d-train-1"}) == (
        f"{console}/sagemaker/home?region={region}#/jobs/e2e3d-train-1"
    )
    task = EcsBackend(EcsSettings.model_validate({"backend": "ecs", "cluster": "splats"}))
    arn = f"arn:aws:ecs:{region}:123456789012"
    assert task.job_url({"cluster": f"{arn}:cluster/splats", "task": f"{arn}:task/splats/0a1b"}) == (
        f"{console}/ecs/v2/clusters/splats/tasks/0a1b?region={region}"
    )
    bucket = open_storage("s3://scenes/some prefix", {"AWS_DEFAULT_REGION": region})
    assert artifact_address(TRAINING, bucket, "artifacts/train/0a1b") == (
        f"{console}/s3/buckets/scenes?prefix=some%20prefix/artifacts/train/0a1b/"
    )


def test_what_lies_in_another_server_s_bucket_is_shown_in_the_task_s_own_tab(s3_root: str) -> None:
    address = artifact_address(TRAINING, open_storage(s3_root), "artifacts/train/0a1b")
    assert address == "/dags/mine/runs/manual__1/tasks/train/mapped/3/plugin/artifact"


def test_airflow_is_told_of_every_button() -> None:
    links = [f"{type(link).__module__}.{type(link).__name__}" for link in PublishOperator.operator_extra_links]
    assert set(links) <= set(get_provider_info()["extra-links"])
