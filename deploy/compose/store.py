"""The artifact store between its bucket and /backup, for backup.sh (`save`) and restore.sh (`put`)."""

import json
import os
import sys
from pathlib import Path

from e2e3d_stages.contract.messages import Manifest
from e2e3d_stages.store.artifacts import in_parallel
from e2e3d_stages.store.base import Entry, NotFound
from e2e3d_stages.store.opening import open_storage

# Where init.py is mounted.
sys.path.insert(0, "/opt/airflow")
from init import STORE, prepare_store

folder = open_storage("file:///backup")
connection = json.loads(os.environ["AIRFLOW_CONN_MINIO"])
bucket = open_storage(
    f"s3://{STORE}",
    {
        "AWS_ACCESS_KEY_ID": connection["login"],
        "AWS_SECRET_ACCESS_KEY": connection["password"],
        "AWS_ENDPOINT_URL_S3": connection["extra"]["endpoint_url"],
        "AWS_DEFAULT_REGION": connection["extra"]["region_name"],
    },
)


def save() -> None:
    """Everything but checkpoints that the folder has not, or has from before it changed."""
    there = {entry.path: entry for entry in folder.list()}

    def fetch(entry: Entry) -> int:
        old = there.get(entry.path)
        if "/checkpoints/" in entry.path or (old and old.size == entry.size and old.arrived > entry.arrived):
            return 0
        target = Path("/backup", entry.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            bucket.download(entry.path, target)
        except NotFound:
            # Removed since it was listed.
            return 0
        return 1

    print(f"{sum(in_parallel(fetch, bucket.list()))} files of the store are new in the backup.")


def put() -> None:
    """The files first; then the manifests of those artifacts that are complete, since a manifest vouches for files."""
    prepare_store()
    entries = list(folder.list())
    sizes = {entry.path: entry.size for entry in entries}
    manifests = [path for path in sizes if path.startswith("artifacts/") and path.endswith("/manifest.json")]
    in_parallel(lambda path: bucket.upload(Path("/backup", path), path), sorted(set(sizes) - set(manifests)))
    for path in manifests:
        manifest = Manifest.model_validate_json(folder.read(path))
        files = f"{path.removesuffix('manifest.json')}attempts/{manifest.attempt}/files"
        if all(sizes.get(f"{files}/{file.path}") == file.size for file in manifest.files):
            bucket.upload(Path("/backup", path), path)
        else:
            print(f"Left out, since the backup lacks files of it: {path}")
    print(f"{len(sizes)} files are back in the store.")


{"save": save, "put": put}[sys.argv[1]]()
