"""deploy/aws for ECS: policies that IAM accepts, with what the backend calls and no more."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.backends.aws_api import ACCOUNT, REGION
from tests.backends.places import EcsPlace, follow
from tests.conftest import ROOT
from tests.provider.test_waiting import until

DEPLOY = ROOT / "deploy" / "aws"
POLICIES = ("ecs-airflow-policy.json", "ecs-execution-policy.json")


def read(name: str) -> dict[str, Any]:
    """A policy, its placeholders filled in."""
    text = (DEPLOY / name).read_text()
    content: dict[str, Any] = json.loads(text.replace("ACCOUNT", ACCOUNT).replace("REGION", REGION))
    return content


def actions(name: str) -> set[str]:
    """What a policy allows."""
    given = [each["Action"] for each in read(name)["Statement"]]
    return {action for each in given for action in ([each] if isinstance(each, str) else each)}


@pytest.fixture
def place(make_place: Any) -> EcsPlace:
    """A cluster of the test's own."""
    made: EcsPlace = make_place("ecs")
    return made


@pytest.mark.slow
def test_iam_accepts_every_policy(place: EcsPlace) -> None:
    iam = place.aws.client("iam")
    for name in POLICIES:
        iam.create_policy(PolicyName=f"{name}-{place.aws.mark}", PolicyDocument=json.dumps(read(name)))
    iam.create_role(RoleName=place.aws.mark, AssumeRolePolicyDocument=json.dumps(read("ecs-trust.json")))


@pytest.mark.slow
def test_airflow_may_do_what_the_backend_calls_and_no_more(place: EcsPlace) -> None:
    place.script["ingest"] = ["wait"]
    made = place.attempt(metrics_namespace="E2E3D")
    until(lambda: place.script.calls)
    assert made.backend.find(place.job())
    made.cancel()
    follow(made)
    made.backend.report("ingest", {"billable_seconds": 60})
    called = {*place.aws.calls} - {""}
    assert {action.partition(":")[2] for action in actions("ecs-airflow-policy.json")} == {
        *called,
        "PutMetricData",
        # RunTask with tags and roles needs them.
        "TagResource",
        "PassRole",
    }


def test_no_statement_concerns_everything_where_it_need_not() -> None:
    free = {
        action
        for name in POLICIES
        for each in read(name)["Statement"]
        if each["Resource"] == "*" and "Condition" not in each
        for action in ([each["Action"]] if isinstance(each["Action"], str) else each["Action"])
    }
    # IAM knows no resources for these.
    assert free == {"ecs:DescribeTaskDefinition", "ecs:RegisterTaskDefinition", "ecr:GetAuthorizationToken"}
