"""Credentials of one attempt: what STS makes of a role, cut down to what the attempt reads and writes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from e2e3d_stages.contract.messages import Infrastructure, InvalidRequest

# What AssumeRole takes: https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html.
SHORTEST_SECONDS, LONGEST_SECONDS = 900, 43_200
# Between the credentials' making and the program's start: an image is pulled, a machine is found.
AHEAD_SECONDS = 3_600


def session_policy(store: str, folder: str, capture: str | None) -> dict[str, Any]:
    """What a program needs: to read captures and artifacts, and to write below its artifact's own folder.

    :param store: its root, s3://bucket/prefix.
    :param folder: the artifact's, below the root.
    :param capture: s3://bucket/prefix or one object, for `ingest`.
    """
    bucket, prefix = _split(store)
    read = [f"{bucket}/{_step(prefix)}artifacts/*"]
    buckets = {bucket}
    if capture and capture.startswith("s3://"):
        other, path = _split(capture)
        read += [f"{other}/{_literal(path)}", f"{other}/{_literal(path)}/*"]
        buckets.add(other)
    own = f"{bucket}/{_step(prefix)}{folder}/*"
    return {
        "Version": "2012-10-17",
        "Statement": [
            # Who may not list is told that what is missing is forbidden.
            _allow(["s3:ListBucket"], sorted(buckets)),
            _allow(["s3:GetObject"], read),
            _allow(["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"], [own]),
        ],
    }


def session_environment(
    environment: Mapping[str, str], role: str, policy: Mapping[str, Any], *, name: str, seconds: float
) -> dict[str, str]:
    """The environment with an attempt's credentials instead of Airflow's.

    :param environment: of the store, as `StoreHook.environment` gives it.
    :param role: its ARN.
    :param name: of the session, for the store's own log: at most 64 letters, digits and hyphens.
    :param seconds: that the attempt may take; a session ends after 12 hours, and the next try has one of its own.
    :raises InvalidRequest: when the role is not given.
    :raises Infrastructure: when STS does not answer.
    """
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

    try:
        sts = boto3.client(
            "sts",
            aws_access_key_id=environment.get("AWS_ACCESS_KEY_ID"),
            aws_secret_access_key=environment.get("AWS_SECRET_ACCESS_KEY"),
            aws_session_token=environment.get("AWS_SESSION_TOKEN"),
            region_name=environment.get("AWS_DEFAULT_REGION"),
            # MinIO and Ceph answer STS where they answer S3.
            endpoint_url=environment.get("AWS_ENDPOINT_URL_S3"),
        )
        given = sts.assume_role(
            RoleArn=role,
            RoleSessionName=name,
            # Without spaces: Ceph reads the plus signs that a form has for them.
            Policy=json.dumps(policy, separators=(",", ":")),
            DurationSeconds=int(min(max(seconds + AHEAD_SECONDS, SHORTEST_SECONDS), LONGEST_SECONDS)),
        )["Credentials"]
    except (ClientError, ParamValidationError) as error:
        raise InvalidRequest(
            f"STS does not give the role {role}: {error}",
            hint="Let the store's user assume the role (its trust policy), and let a session of it last 12 hours; or "
            "leave the profile's store_role empty.",
        ) from error
    except BotoCoreError as error:
        raise Infrastructure(
            f"STS could not be reached: {error}", hint="Look at the store, then clear the task."
        ) from error
    return {
        **environment,
        "AWS_ACCESS_KEY_ID": given["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": given["SecretAccessKey"],
        "AWS_SESSION_TOKEN": given["SessionToken"],
    }


def _allow(actions: list[str], resources: list[str]) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": actions, "Resource": [f"arn:aws:s3:::{each}" for each in resources]}


def _split(uri: str) -> tuple[str, str]:
    bucket, _, path = uri.removeprefix("s3://").partition("/")
    return bucket, path.strip("/")


def _step(prefix: str) -> str:
    return f"{_literal(prefix)}/" if prefix else ""


def _literal(path: str) -> str:
    """A path in which a policy finds no variable, and a wildcard only in place of the one sign that it stands for.

    AWS has a way to write such signs, `${*}`, which Ceph does not read; nor does it read spaces.
    """
    return re.sub(r"[*$ +]", "?", path)
