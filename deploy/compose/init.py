"""Once at every `up`: the database, the admin, the buckets, the store's user and the sample.

What is there is left as it is. Nothing else knows the store's root user.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

STORE, CAPTURES, LOGS = "e2e3d", "captures", "e2e3d-logs"
# How long the store and the database are waited for.
PATIENCE_SECONDS = 120
SAMPLE = Path("/opt/airflow/sample/caliterra/images")
# A stage that waits for its container is deferred, and counts all the same.
POOLS = (("e2e3d_cpu", "4", "Stages that need no GPU"), ("e2e3d_gpu", "1", "Training and evaluation"))
# A scene opens in a browser by its address; photos, artifacts, records and where on earth it is do not.
PUBLIC = (
    *("index.html", "streamed.html", "streamed/*", "mesh.html", "report.html"),
    *("thumbnail.jpg", "flight.mp4", "flight.jpg"),
    *("scene.sog", "scene.spz", "scene.ply", "cropped.ply"),
)
PAGES_ARE_PUBLIC = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"AWS": ["*"]},
            "Action": ["s3:GetObject"],
            "Resource": [
                *(f"arn:aws:s3:::{STORE}/scenes/*/{name}" for name in PUBLIC),
                f"arn:aws:s3:::{STORE}/batches/*/index.html",
            ],
        }
    ],
}
# Airflow's user; a stage has what STS makes of it, cut down to its own attempt (`store_role` in profiles.yaml).
AIRFLOW_MAY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": ["s3:ListBucket"],
            "Resource": [f"arn:aws:s3:::{STORE}", f"arn:aws:s3:::{CAPTURES}"],
        },
        {
            "Effect": "Allow",
            "Action": ["s3:GetObject"],
            "Resource": [f"arn:aws:s3:::{STORE}/*", f"arn:aws:s3:::{CAPTURES}/*"],
        },
        {
            "Effect": "Allow",
            "Action": ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
            "Resource": [f"arn:aws:s3:::{STORE}/*"],
        },
    ],
}
# The user by whom Airflow keeps tasks' logs: it adds to them and reads them, and nothing else.
LOGS_MAY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": [f"arn:aws:s3:::{LOGS}"]},
        {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": [f"arn:aws:s3:::{LOGS}/*"]},
    ],
}


def prepare_store() -> None:
    """The buckets, Airflow's two users, and the sample in s3://captures/caliterra."""
    from botocore.exceptions import ClientError

    root = (os.environ["MINIO_ROOT_USER"], os.environ["MINIO_ROOT_PASSWORD"])
    connection, logs = (json.loads(os.environ[f"AIRFLOW_CONN_{name}"]) for name in ("MINIO", "LOGS"))
    s3 = client(*root, connection)
    answer = first_answer(s3, connection)
    there = {bucket["Name"] for bucket in answer["Buckets"]}
    for bucket in {CAPTURES, LOGS} - there:
        s3.create_bucket(Bucket=bucket)
    uploaded = s3.list_objects_v2(Bucket=CAPTURES, Prefix="caliterra/").get("Contents", [])
    keys = {found["Key"] for found in uploaded}
    for photo in sorted(SAMPLE.iterdir()):
        if f"caliterra/{photo.name}" not in keys:
            s3.upload_file(str(photo), CAPTURES, f"caliterra/{photo.name}")
    if STORE not in there:
        s3.create_bucket(Bucket=STORE)
        s3.put_bucket_policy(Bucket=STORE, Policy=json.dumps(PAGES_ARE_PUBLIC))
    if answer["ResponseMetadata"]["HTTPHeaders"].get("server", "").startswith("MinIO"):
        give_user(*root, connection, STORE, AIRFLOW_MAY)
        give_user(*root, logs, LOGS, LOGS_MAY)
    else:
        print(
            f"{connection['extra']['endpoint_url']} is no MinIO: its owner makes the users S3_ACCESS_KEY and "
            f"LOGS_ACCESS_KEY of .env, with the rights that AIRFLOW_MAY and LOGS_MAY in init.py list.",
            flush=True,
        )
    tried = [(connection, STORE, "S3")]
    if os.environ.get("AIRFLOW__LOGGING__REMOTE_LOGGING") == "True":
        tried.append((logs, LOGS, "LOGS"))
    for user, bucket, name in tried:
        try:
            client(user["login"], user["password"], user).list_objects_v2(Bucket=bucket, MaxKeys=1)
        except ClientError as error:
            sys.exit(f"The store refuses Airflow's user, {name}_ACCESS_KEY and {name}_SECRET_KEY in .env: {error}")
    print(f"s3://{STORE}, s3://{CAPTURES} and s3://{LOGS} are there.", flush=True)


def first_answer(s3: Any, connection: dict[str, Any]) -> Any:
    """The list of buckets, once the store is up."""
    from botocore.exceptions import BotoCoreError, ClientError

    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return s3.list_buckets()
        except (BotoCoreError, ClientError) as error:
            status = getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
            if status < 500:
                sys.exit(f"The store refuses its root user, MINIO_ROOT_USER and MINIO_ROOT_PASSWORD in .env: {error}")
            if time.monotonic() > until:
                sys.exit(f"The store {connection['extra']['endpoint_url']} does not answer: {error}")
            time.sleep(1)


def client(user: str, password: str, connection: dict[str, Any]) -> Any:
    """The store, for one of its users."""
    import boto3

    return boto3.client("s3", aws_access_key_id=user, aws_secret_access_key=password, **connection["extra"])


def give_user(root: str, root_password: str, connection: dict[str, Any], policy: str, may: dict[str, Any]) -> None:
    """Make a connection's user, or give it today's password and rights.

    :param policy: what the store calls those rights.
    """
    from minio.credentials import StaticProvider
    from minio.minioadmin import MinioAdmin

    endpoint = urlsplit(connection["extra"]["endpoint_url"])
    admin = MinioAdmin(
        endpoint=endpoint.netloc, credentials=StaticProvider(root, root_password), secure=endpoint.scheme == "https"
    )
    admin.policy_add(policy, policy=may)
    admin.user_add(connection["login"], connection["password"])
    admin.policy_set(policy, user=connection["login"])


def airflow(*words: str) -> None:
    """A command of Airflow's in this process: to import Airflow takes longer than any of them."""
    from airflow.cli.cli_parser import get_parser

    command = get_parser().parse_args(words)
    command.func(command)


def prepare_airflow() -> None:
    """The database's tables, the pools, and the user `admin`."""
    from airflow.models.pool import Pool

    airflow("db", "check", "--retry", str(PATIENCE_SECONDS), "--retry-delay", "1")
    airflow("db", "migrate")
    there = {found.pool for found in Pool.get_pools()}
    for pool, slots, what in POOLS:
        if pool not in there:
            airflow("pools", "set", pool, slots, what, "--include-deferred")
    who = {"username": "admin", "role": "Admin", "firstname": "Admin", "lastname": "E2E3D", "email": "admin@localhost"}
    who["password"] = os.environ["ADMIN_PASSWORD"]
    airflow("users", "create", *(word for name, value in who.items() for word in (f"--{name}", value)))


if __name__ == "__main__":
    prepare_store()
    prepare_airflow()
