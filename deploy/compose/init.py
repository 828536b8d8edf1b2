"""Once at every `up`: the database, the admin, the buckets and the sample. What is there is left as it is."""

import json
import os
from pathlib import Path

STORE, CAPTURES = "e2e3d", "captures"
SAMPLE = Path("/opt/airflow/sample/caliterra/images")
# A stage that waits for its container is deferred, and counts all the same.
POOLS = (("e2e3d_cpu", "4", "Stages that need no GPU"), ("e2e3d_gpu", "1", "Training and evaluation"))
# A scene opens in a browser by its address; photos, artifacts, records and where on earth it is do not.
PUBLIC = ("index.html", "report.html", "thumbnail.jpg", "scene.sog", "scene.spz", "scene.ply")
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


def prepare_store() -> None:
    """The buckets, and the sample in s3://captures/caliterra."""
    import boto3

    connection = json.loads(os.environ["AIRFLOW_CONN_MINIO"])
    s3 = boto3.client(
        "s3",
        aws_access_key_id=connection["login"],
        aws_secret_access_key=connection["password"],
        **connection["extra"],
    )
    there = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    if CAPTURES not in there:
        s3.create_bucket(Bucket=CAPTURES)
    uploaded = s3.list_objects_v2(Bucket=CAPTURES, Prefix="caliterra/").get("Contents", [])
    keys = {found["Key"] for found in uploaded}
    for photo in sorted(SAMPLE.iterdir()):
        if f"caliterra/{photo.name}" not in keys:
            s3.upload_file(str(photo), CAPTURES, f"caliterra/{photo.name}")
    if STORE not in there:
        s3.create_bucket(Bucket=STORE)
        s3.put_bucket_policy(Bucket=STORE, Policy=json.dumps(PAGES_ARE_PUBLIC))
    print(f"s3://{STORE} and s3://{CAPTURES} are there.", flush=True)


def airflow(*words: str) -> None:
    """A command of Airflow's in this process: to import Airflow takes longer than any of them."""
    from airflow.cli.cli_parser import get_parser

    command = get_parser().parse_args(words)
    command.func(command)


def prepare_airflow() -> None:
    """The database's tables, the pools, and the user `admin`."""
    from airflow.models.pool import Pool

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
