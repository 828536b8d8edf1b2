"""What an attempt's own credentials may do, and that a program is given them and nothing else."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_e2e3d.hooks import session
from airflow_provider_e2e3d.hooks.session import session_environment, session_policy
from airflow_provider_e2e3d.profiles.profile import Profile
from e2e3d_stages.contract.messages import Infrastructure, InvalidRequest, Request

KEY = "0123456789abcdef" * 2
STORE = "s3://scenes/e2e3d"
OWN = f"artifacts/train/{KEY}"


def allowed(policy: dict[str, Any], action: str, path: str) -> bool:
    """Whether a policy lets somebody do that, as S3 servers read it: `*` is anything, `?` one sign."""

    def fits(resource: str) -> bool:
        return fnmatchcase(path, resource.removeprefix("arn:aws:s3:::").replace("[", "[[]"))

    return any(action in each["Action"] and any(map(fits, each["Resource"])) for each in policy["Statement"])


def test_an_attempt_reads_artifacts_and_its_capture_and_writes_its_own_artifact_only() -> None:
    policy = session_policy(STORE, OWN, "s3://uploads/town")
    read, write, remove = "s3:GetObject", "s3:PutObject", "s3:DeleteObject"
    assert allowed(policy, write, f"scenes/e2e3d/{OWN}/attempts/1/progress.json")
    assert allowed(policy, remove, f"scenes/e2e3d/{OWN}/checkpoints/7-1/state")
    assert allowed(policy, read, f"scenes/e2e3d/artifacts/sfm/{KEY}/manifest.json")
    assert allowed(policy, read, "uploads/town/1.jpg")
    for action in (write, remove):
        assert not allowed(policy, action, f"scenes/e2e3d/artifacts/sfm/{KEY}/manifest.json")
        assert not allowed(policy, action, f"scenes/e2e3d/{OWN}x/manifest.json")
        assert not allowed(policy, action, "scenes/e2e3d/scenes/town/latest.json")
        assert not allowed(policy, action, "uploads/town/1.jpg")
    assert not allowed(policy, read, "scenes/e2e3d/scenes/town/latest.json")
    assert not allowed(policy, read, "uploads/town-hall/1.jpg")


@given(
    name=st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=12),
    other=st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=12),
)
def test_a_captures_name_is_no_pattern_and_no_variable(name: str, other: str) -> None:
    policy = session_policy(STORE, OWN, f"s3://uploads/{name}")
    assert "$" not in str(policy)
    assert allowed(policy, "s3:GetObject", f"uploads/{name}/1.jpg")
    # A sign that would be a wildcard may be any one sign, and nothing more.
    alike = len(name) == len(other) and all(a == b or a in "*?$ +" for a, b in zip(name, other, strict=True))
    assert allowed(policy, "s3:GetObject", f"uploads/{other}/1.jpg") is alike


def request(**changes: Any) -> Request:
    asked = Request(stage="train", stage_version=1, key=KEY, attempt=1, params={}, longest_seconds=7200)
    return asked.model_copy(update=changes)


def profile(**changes: Any) -> Profile:
    return Profile(store=STORE, captures=("s3://uploads",), **changes)


def test_a_program_gets_a_session_of_the_role_and_none_of_airflows_credentials(minio: dict[str, str]) -> None:
    role = "arn:aws:iam::123456789012:role/stages"
    given = profile(store_role=role).attempt_environment(minio, request())
    secrets = {name: value for name, value in minio.items() if name.startswith("AWS_") and "ENDPOINT" not in name}
    assert given["AWS_SESSION_TOKEN"]
    assert given["AWS_ENDPOINT_URL_S3"] == minio["AWS_ENDPOINT_URL_S3"]
    assert not {secrets["AWS_ACCESS_KEY_ID"], secrets["AWS_SECRET_ACCESS_KEY"]} & set(given.values())
    assert profile().attempt_environment(minio, request()) == minio


@pytest.mark.parametrize(("longest", "lasts"), [(0, 3600), (7200, 10_800), (1e6, 43_200)])
def test_a_session_lasts_as_long_as_the_attempt_may_and_twelve_hours_at_most(
    longest: float, lasts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    class Sts:
        def assume_role(self, **values: Any) -> dict[str, Any]:
            asked.update(values)
            return {"Credentials": dict.fromkeys(("AccessKeyId", "SecretAccessKey", "SessionToken"), "x")}

    monkeypatch.setattr("boto3.client", lambda *_, **__: Sts())
    profile(store_role="arn:aws:iam:::role/stages").attempt_environment({}, request(longest_seconds=longest))
    assert asked["DurationSeconds"] == lasts
    assert asked["RoleSessionName"] == f"e2e3d-train-{KEY}"


def test_a_role_that_is_not_given_is_a_mistake_and_a_server_that_is_away_is_none(
    minio: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = session_policy(STORE, OWN, None)
    with pytest.raises(InvalidRequest, match="does not give the role short"):
        session_environment(minio, "short", policy, name="x", seconds=1)

    class Away:
        def assume_role(self, **_: Any) -> None:
            raise EndpointConnectionError(endpoint_url="http://away")

    monkeypatch.setattr("boto3.client", lambda *_, **__: Away())
    with pytest.raises(Infrastructure, match="STS could not be reached"):
        session_environment(minio, "arn", policy, name="x", seconds=1)
    assert session.LONGEST_SECONDS == 43_200
