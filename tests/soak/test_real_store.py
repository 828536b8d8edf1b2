"""On a server that checks rights and has STS, which `E2E3D_TEST_S3` names: credentials for each attempt."""

from __future__ import annotations

import json
import os
import sys
import uuid
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from airflow_provider_e2e3d.hooks.session import session_environment, session_policy
from e2e3d_stages.contract.messages import InvalidRequest
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.opening import open_storage
from tests.airflow_runs import run_dag
from tests.conftest import ALWAYS
from tests.provider.conftest import Script, told_profiles
from tests.provider.test_store_faults import artifacts

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif("E2E3D_TEST_S3" not in os.environ, reason="E2E3D_TEST_S3 names no server, as Ceph's gateway"),
]


@pytest.fixture
def role(s3_endpoint: str) -> str:
    """A role that may do everything in every bucket, and that the server's user may assume."""
    iam, name = boto3.client("iam", endpoint_url=s3_endpoint), f"attempt-{uuid.uuid4().hex[:8]}"

    def policy(**statement: Any) -> str:
        told = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement}]}
        return json.dumps(told, separators=(",", ":"))

    trusted = policy(Principal={"AWS": ["arn:aws:iam:::user/e2e3d"]}, Action=["sts:AssumeRole"])
    made = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trusted, MaxSessionDuration=43200)
    everything = policy(Action=["s3:*"], Resource=["arn:aws:s3:::*"])
    iam.put_role_policy(RoleName=name, PolicyName="everything", PolicyDocument=everything)
    return str(made["Role"]["Arn"])


@pytest.fixture
def access(s3_endpoint: str) -> dict[str, str]:
    """The server's user, as boto3's environment."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
    return {**{name: os.environ[name] for name in names}, "AWS_ENDPOINT_URL_S3": s3_endpoint}


def test_a_run_whose_attempts_have_sessions_of_their_own_ends_well(
    airflow_home: Path,
    s3_root: str,
    access: dict[str, str],
    role: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    script = Script(tmp_path / "script")
    script["train"] = ["write much"]
    file = tmp_path / "profiles.yaml"
    told_profiles(file, tmp_path / "captures", script)
    profiles = yaml.safe_load(file.read_text())
    profiles["local"] |= {
        "store": f"{s3_root}/store",
        "captures": [f"{s3_root}/captures"],
        "store_conn_id": "the_store",
        "store_role": role,
    }
    file.write_text(yaml.safe_dump(profiles))
    connection = {
        "conn_type": "aws",
        "login": access["AWS_ACCESS_KEY_ID"],
        "password": access["AWS_SECRET_ACCESS_KEY"],
        "extra": {"endpoint_url": access["AWS_ENDPOINT_URL_S3"], "region_name": access["AWS_DEFAULT_REGION"]},
    }
    monkeypatch.setenv("AIRFLOW_CONN_THE_STORE", json.dumps(connection))
    monkeypatch.setenv("AIRFLOW__E2E3D__PROFILES_FILE", str(file))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    open_storage(f"{s3_root}/captures/barn").write("1.jpg", b"a photo")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        # What a program has, it has from its session.
        monkeypatch.delenv(name)
    outcome = run_dag("reconstruct", {"capture": f"{s3_root}/captures/barn"}, capfd, last="publish")
    assert outcome.state == "success", outcome.log[-5000:]
    assert set(outcome.tries.values()) == {1}
    store = ArtifactStore.open(f"{s3_root}/store", access)
    assert {manifest.stage for manifest in artifacts(store)} == set(ALWAYS)
    assert not [entry.path for entry in store.storage.list("artifacts") if "/checkpoints/" in entry.path]


def test_a_session_writes_and_removes_its_own_artifacts_files_and_nobody_elses(
    s3_root: str, access: dict[str, str], role: str
) -> None:
    everything = open_storage(s3_root, access)
    own, other = "artifacts/train/0123", "artifacts/train/4567"
    for path in (f"{own}/checkpoints/1/a", f"{own}/checkpoints/1/b", f"{other}/manifest.json"):
        everything.write(path, b"x")
    policy = session_policy(s3_root, own, None)
    session = open_storage(s3_root, session_environment(access, role, policy, name="attempt-1", seconds=900))
    session.write(f"{own}/attempts/1/progress.json", b"{}")
    session.delete(f"{own}/checkpoints")
    assert session.read(f"{other}/manifest.json") == b"x"
    for forbidden in (
        lambda: session.write(f"{other}/manifest.json", b"y"),
        lambda: session.remove([f"{other}/manifest.json"]),
        lambda: session.create("scenes/barn/latest.json", b"y"),
    ):
        with pytest.raises(InvalidRequest):
            forbidden()
    assert sorted(entry.path for entry in everything.list()) == [
        f"{own}/attempts/1/progress.json",
        f"{other}/manifest.json",
    ]
