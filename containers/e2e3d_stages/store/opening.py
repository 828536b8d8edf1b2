"""Which storage an address means."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from e2e3d_stages.contract.messages import InvalidRequest
from e2e3d_stages.store.base import Storage
from e2e3d_stages.store.file import FileStorage


def open_storage(uri: str, environment: Mapping[str, str] | None = None) -> Storage:
    """Open `file:///folder` or `s3://bucket/prefix`.

    :param environment: S3 credentials and endpoint under the names that boto3 reads (`AWS_ACCESS_KEY_ID`,
        `AWS_ENDPOINT_URL_S3`, …), so MinIO works too; what is not given comes from the process's own environment.
    :raises InvalidRequest: for any other kind of address.
    """
    scheme = urlsplit(uri).scheme
    if scheme == "file":
        return FileStorage(uri)
    if scheme == "s3":
        from e2e3d_stages.store.s3 import S3Storage

        return S3Storage(uri, environment or {})
    raise InvalidRequest(f"{uri!r} is neither file:// nor s3://.", hint="Write file:///folder or s3://bucket/prefix.")
