"""`s3://` storage through boto3: AWS S3, MinIO and whatever else speaks the same."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from mimetypes import guess_type
from pathlib import Path
from typing import Any

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from e2e3d_stages.contract import Infrastructure, InvalidRequest
from e2e3d_stages.storage import Entry, NotFound, Storage

_MISSING = {"404", "NoSuchKey", "NotFound"}
_REFUSED = {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}


class S3Storage(Storage):
    """A prefix of a bucket. Writes are atomic by S3's own rules; `create` uses `If-None-Match: *`.

    :param environment: credentials and endpoint that go before the process's own environment.
    """

    def __init__(self, uri: str, environment: Mapping[str, str]) -> None:
        super().__init__(uri)
        # No URL: a key may hold `#`, `?` and `%` as they are.
        self.bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not self.bucket:
            raise InvalidRequest(f"{uri!r} names no bucket.", hint="Write s3://bucket/prefix.")
        self.prefix = prefix.strip("/")
        retries: Any = {"mode": "standard", "max_attempts": 8}
        self._client = boto3.client(
            "s3",
            config=Config(retries=retries, max_pool_connections=32),
            aws_access_key_id=environment.get("AWS_ACCESS_KEY_ID"),
            aws_secret_access_key=environment.get("AWS_SECRET_ACCESS_KEY"),
            aws_session_token=environment.get("AWS_SESSION_TOKEN"),
            region_name=environment.get("AWS_DEFAULT_REGION"),
            endpoint_url=environment.get("AWS_ENDPOINT_URL_S3"),
        )

    def _key(self, path: str) -> str:
        return "/".join(part for part in (self.prefix, path) if part)

    @contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        """Tell what is missing from what is refused and what is broken."""
        try:
            yield
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in _MISSING:
                raise NotFound(self.uri_of(path)) from None
            if code == "NoSuchBucket":
                raise InvalidRequest(
                    f"Bucket {self.bucket!r} does not exist.", hint="Create it, or correct the address."
                ) from None
            if code in _REFUSED:
                raise InvalidRequest(
                    f"The store refused access to {self.uri_of(path)} ({code}).",
                    hint="Check the credentials and the bucket's policy.",
                ) from None
            raise Infrastructure(f"The store failed on {self.uri_of(path)}: {error}") from error
        except (BotoCoreError, Boto3Error) as error:
            raise Infrastructure(
                f"The store could not be reached for {self.uri_of(path)}: {error}",
                hint="Check AWS_ENDPOINT_URL_S3, the network and the credentials.",
            ) from error

    def clock(self) -> dt.datetime:
        with self._errors(""):
            answer = self._client.head_bucket(Bucket=self.bucket)
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])

    def read(self, path: str) -> bytes:
        with self._errors(path):
            return self._client.get_object(Bucket=self.bucket, Key=self._key(path))["Body"].read()

    def write(self, path: str, data: bytes) -> None:
        with self._errors(path):
            self._client.put_object(Bucket=self.bucket, Key=self._key(path), Body=data, **_content_type(path))

    def create(self, path: str, data: bytes) -> bool:
        with self._errors(path):
            try:
                self._client.put_object(Bucket=self.bucket, Key=self._key(path), Body=data, IfNoneMatch="*")
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") != "PreconditionFailed":
                    raise
                # boto3 may have repeated a request whose answer was lost: then what is there is ours.
                return self.read(path) == data
            return True

    def list(self, prefix: str = "") -> Iterator[Entry]:
        folder = self._key(prefix)
        skip = len(self.prefix) + 1 if self.prefix else 0
        with self._errors(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=folder)
            for page in pages:
                for item in page.get("Contents", []):
                    key = item["Key"]
                    inside = not folder or key == folder or key.startswith(folder + "/")
                    if inside and not key.endswith("/"):
                        yield Entry(key[skip:], item["Size"], item["LastModified"], item["ETag"].strip('"'))

    def folders(self, prefix: str = "") -> Iterator[str]:
        start = self._key(prefix)
        start = start + "/" if start else ""
        with self._errors(prefix):
            paginator = self._client.get_paginator("list_objects_v2")
            for page in paginator.paginate(Bucket=self.bucket, Prefix=start, Delimiter="/"):
                for item in page.get("CommonPrefixes", []):
                    yield item["Prefix"][len(start) :].rstrip("/")

    def upload(self, source: Path, path: str) -> None:
        with self._errors(path):
            self._client.upload_file(str(source), self.bucket, self._key(path), ExtraArgs=_content_type(path))

    def download(self, path: str, target: Path) -> None:
        with self._errors(path):
            self._client.download_file(self.bucket, self._key(path), str(target))

    def copy(self, source: str, target: str) -> None:
        with self._errors(source):
            origin: Any = {"Bucket": self.bucket, "Key": self._key(source)}
            # A copy in parts forgets what the original's type was.
            told = {**_content_type(target), "MetadataDirective": "REPLACE"}
            self._client.copy(origin, self.bucket, self._key(target), ExtraArgs=told)

    def delete(self, prefix: str) -> None:
        keys = [self._key(entry.path) for entry in self.list(prefix)]
        with self._errors(prefix):
            for start in range(0, len(keys), 1000):
                batch: Any = {"Objects": [{"Key": key} for key in keys[start : start + 1000]], "Quiet": True}
                self._client.delete_objects(Bucket=self.bucket, Delete=batch)


def _content_type(path: str) -> dict[str, Any]:
    """Without it a browser would save a page instead of showing it."""
    kind, _ = guess_type(path)
    return {"ContentType": kind} if kind else {}
