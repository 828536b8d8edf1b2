"""deploy/aws: policies that IAM accepts, with what is called and no more."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.model import OperationModel

from e2e3d_stages.store.opening import open_storage
from e2e3d_stages.store.s3 import S3Storage
from tests.backends.aws_api import ACCOUNT, REGION
from tests.backends.places import AwsPlace, SageMakerPlace, follow
from tests.conftest import ROOT, until

DEPLOY = ROOT / "deploy" / "aws"
POLICIES = sorted(file.name for file in DEPLOY.glob("*-policy.json"))
# What a call with tags and a role needs besides itself.
BESIDES = {"sagemaker": {"AddTags", "PassRole"}, "ecs": {"TagResource", "PassRole"}}
# IAM knows no resources for these.
EVERYWHERE = {
    *("ecs:DescribeTaskDefinition", "ecs:RegisterTaskDefinition", "ecr:GetAuthorizationToken"),
}


def read(name: str) -> dict[str, Any]:
    """A policy, its placeholders filled in."""
    text = (DEPLOY / name).read_text()
    for placeholder, value in (("ACCOUNT", ACCOUNT), ("REGION", REGION), ("BUCKET", "scenes")):
        text = text.replace(placeholder, value)
    content: dict[str, Any] = json.loads(text)
    return content


def listed(value: str | list[str]) -> list[str]:
    """IAM writes one thing without brackets."""
    return [value] if isinstance(value, str) else value


def statements(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each action of a policy with its statement."""
    for each in read(name)["Statement"]:
        yield from ((action, each) for action in listed(each["Action"]))


@pytest.fixture(params=BESIDES)
def place(request: pytest.FixtureRequest, make_place: Any) -> AwsPlace:
    """A service of the test's own."""
    made: AwsPlace = make_place(request.param)
    return made


@pytest.mark.slow
def test_iam_accepts_every_policy(place: AwsPlace) -> None:
    iam = place.aws.client("iam")
    for name in POLICIES:
        iam.create_policy(PolicyName=f"{name}-{place.aws.mark}", PolicyDocument=json.dumps(read(name)))
    trust = json.dumps(read(f"{place.name}-trust.json"))
    iam.create_role(RoleName=place.aws.mark, AssumeRolePolicyDocument=trust)


@pytest.mark.slow
def test_airflow_may_do_what_the_backend_calls_and_no_more(place: AwsPlace) -> None:
    place.script["ingest"] = ["wait"]
    made = place.attempt(metrics_namespace="E2E3D")
    until(lambda: place.script.calls)
    assert made.backend.find(place.job())
    made.cancel()
    follow(made)
    made.backend.report("ingest", {"billable_seconds": 60})
    called = {*place.aws.calls, "PutMetricData", *BESIDES[place.name]} - {""}
    policy = f"{place.name}-airflow-policy.json"
    assert {action.partition(":")[2] for action, _ in statements(policy)} == called


@pytest.mark.slow
def test_airflow_may_do_it_to_jobs_by_the_names_that_they_get(make_place: Any) -> None:
    place: SageMakerPlace = make_place("sagemaker")
    place.sagemaker.instances.clear()
    place.attempt()
    arn = place.sagemaker.only_job.arn
    for action, each in statements("sagemaker-airflow-policy.json"):
        if action.startswith("sagemaker:"):
            assert fnmatch.fnmatchcase(arn, each["Resource"])


def test_no_statement_concerns_everything_where_it_need_not() -> None:
    found = [(action, each) for name in POLICIES for action, each in statements(name)]
    assert {action for action, each in found if each["Resource"] == "*" and "Condition" not in each} == EVERYWHERE


# IAM's names of what S3's operations need, where they differ.
RIGHTS = {
    "HeadObject": {"GetObject"},
    "CopyObject": {"GetObject", "PutObject"},
    "DeleteObjects": {"DeleteObject"},
    "ListObjectsV2": {"ListBucket"},
}


def allows(right: str, place: str) -> bool:
    """Whether the store's policy gives a right to an object or, for ListBucket, to a prefix."""
    for action, each in statements("store-policy.json"):
        patterns = [listed(each["Resource"])[0].removeprefix("arn:aws:s3:::scenes/")]
        if "Condition" in each:
            patterns = each["Condition"]["StringLike"]["s3:prefix"]
        if action == f"s3:{right}" and any(fnmatch.fnmatchcase(place, pattern) for pattern in patterns):
            return True
    return False


def test_a_program_may_do_to_the_store_what_it_does_and_no_more(s3_endpoint: str, tmp_path: Path) -> None:
    boto3.client("s3", endpoint_url=s3_endpoint).create_bucket(Bucket="scenes")
    done: set[tuple[str, str]] = set()

    def watch(params: dict[str, Any], model: OperationModel, **_: Any) -> None:
        deleted = params.get("Delete", {}).get("Objects", [{"Key": ""}])
        place = params.get("Key") or params.get("Prefix") or deleted[0]["Key"]
        done.update((right, place) for right in RIGHTS.get(model.name, {model.name}))

    store, capture = (open_storage(f"s3://scenes/{name}", {}) for name in ("e2e3d", "captures/statue"))
    for storage in (store, capture):
        assert isinstance(storage, S3Storage)
        storage._client.meta.events.register("provide-client-params.s3", watch)
    (tmp_path / "file").write_bytes(b"x")
    store.create("artifacts/manifest.json", b"{}")
    store.write("artifacts/progress.json", b"{}")
    store.upload(tmp_path / "file", "artifacts/file")
    store.copy("artifacts/file", "scenes/file")
    store.download("scenes/file", tmp_path / "again")
    assert store.read("artifacts/file") == b"x"
    assert list(store.folders("artifacts")) == []
    assert [entry.path for entry in store.list("scenes")] == ["scenes/file"]
    assert list(capture.list()) == []
    store.delete("artifacts")
    assert [each for each in sorted(done) if not allows(*each)] == []
    # What is large goes in parts, which a failed upload takes away again.
    assert {right for right, _ in done} | {"AbortMultipartUpload"} == {
        action.removeprefix("s3:") for action, _ in statements("store-policy.json")
    }
    assert not allows("PutObject", "captures/statue/1.jpg")
    assert not allows("GetObject", "elsewhere")


def test_the_buckets_rule_forgets_uploads_that_nobody_finished(s3_root: str) -> None:
    client, bucket = boto3.client("s3"), s3_root.removeprefix("s3://").partition("/")[0]
    rules = json.loads((DEPLOY / "store-lifecycle.json").read_text())
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=rules)
    (rule,) = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    assert not {"Expiration", "Transitions", "NoncurrentVersionExpiration"} & set(rule), "it removes what is whole"
