"""`s3://` storage through boto3: AWS S3, MinIO and whatever else speaks the same."""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from contextlib import suppress
from email.utils import parsedate_to_datetime
from functools import cached_property, partial
from itertools import islice
from mimetypes import guess_type
from pathlib import Path
from typing import Any, TypeVar

import boto3
from boto3.exceptions import Boto3Error, RetriesExceededError
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    ReadTimeoutError,
)
from urllib3.exceptions import HTTPError

from e2e3d_stages.contract.messages import Infrastructure, InvalidRequest
from e2e3d_stages.store.base import CHUNK, Entry, NotFound, Storage

log = logging.getLogger("e2e3d")

_connecting = threading.Lock()

Result = TypeVar("Result")

# How long a store that is busy or away is asked again: longer than a restart of it takes.
PATIENCE_SECONDS = 180.0
LONGEST_PAUSE_SECONDS = 5.0
# How long one answer is waited for: what is left of the patience, within these limits.
LONGEST_ANSWER_SECONDS = 60.0
SHORTEST_ANSWER_SECONDS = 2.0
# How often a part of a large file is tried before the whole is; together they take the patience.
TRIES_A_PART = 3

_MISSING = {"404", "NoSuchKey", "NotFound"}
_REFUSED = {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
_BUSY_STATUS = {408, 429, 500, 502, 503, 504}
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html: what passes, with whatever status it is told.
_BUSY = {
    "ConditionalRequestConflict",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
}
# https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html
KEYS_A_REQUEST = 1000
# No connection, one that broke off, a body that ended early or arrived damaged. botocore lets urllib3's own error out
# where the body of a refusal breaks off.
_BROKEN = (
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    FlexibleChecksumError,
    RetriesExceededError,
    HTTPError,
)


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
        self._environment = environment
        # `_patiently` asks again.
        self._client = self._connect(1, LONGEST_ANSWER_SECONDS)
        if ".amazonaws." in self._client.meta.endpoint_url:
            self.aws_region = self._client.meta.region_name

    def _connect(self, tries: int, seconds: float) -> Any:
        """A client that waits so long for each byte, and asks so often."""
        retries: Any = {"mode": "standard", "total_max_attempts": tries}
        environment = self._environment
        # boto3's default session is not to be used by two threads at a time.
        with _connecting:
            return boto3.client(
                "s3",
                config=Config(
                    retries=retries, max_pool_connections=32, connect_timeout=min(10, seconds), read_timeout=seconds
                ),
                aws_access_key_id=environment.get("AWS_ACCESS_KEY_ID"),
                aws_secret_access_key=environment.get("AWS_SECRET_ACCESS_KEY"),
                aws_session_token=environment.get("AWS_SESSION_TOKEN"),
                region_name=environment.get("AWS_DEFAULT_REGION"),
                endpoint_url=environment.get("AWS_ENDPOINT_URL_S3"),
            )

    @property
    def _patience(self) -> float:
        return PATIENCE_SECONDS if self.patience_seconds is None else self.patience_seconds

    @cached_property
    def _transfers(self) -> Any:
        """The client for whole files, which may take hours: it is silence that ends them."""
        return self._connect(TRIES_A_PART, max(self._patience / TRIES_A_PART, SHORTEST_ANSWER_SECONDS))

    def _key(self, path: str) -> str:
        return f"{self.prefix}/{path}" if self.prefix and path else self.prefix or path

    def _patiently(self, path: str, ask: Callable[..., Result], *what: Any, **asked: Any) -> Result:
        """What the store answers in time; it is asked again while it is busy, away or silent.

        :param ask: asks it, and may do so twice: an answer may be lost on its way.
        """

        def ask_in_time(left: float) -> Result:
            within = min(max(left, SHORTEST_ANSWER_SECONDS), LONGEST_ANSWER_SECONDS)
            return answer_within(within, partial(ask, *what, **asked))

        return self._again_and_again(path, ask_in_time)

    def _transferred(self, path: str, transfer: Callable[..., Result], *what: Any, **asked: Any) -> Result:
        """Have a whole file moved, however long that takes while it does move."""
        return self._again_and_again(path, lambda _left: transfer(*what, **asked))

    def _again_and_again(self, path: str, ask: Callable[[float], Result]) -> Result:
        """Ask until the patience is over, of which the question hears how much is left."""
        until, pause = time.monotonic() + self._patience, 0.5
        while True:
            try:
                return ask(until - time.monotonic())
            except (ClientError, BotoCoreError, Boto3Error, HTTPError) as error:
                cause = _cause(error)
                if not _passes(cause) or time.monotonic() + pause > until:
                    raise self._told(path, cause) from error
                log.warning("The store does not answer for %s, asking again: %s", self.uri_of(path), cause)
            # Many programs wait for the same store: they should not all come back at once.
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _told(self, path: str, error: Exception) -> Exception:
        """Tell what is missing from what is refused and what is broken."""
        if not isinstance(error, ClientError):
            return Infrastructure(
                f"The store could not be reached for {self.uri_of(path)}: {error}",
                hint="Check AWS_ENDPOINT_URL_S3, the network and the credentials.",
            )
        code = _code(error)
        if code in _MISSING:
            return NotFound(self.uri_of(path))
        if code == "NoSuchBucket":
            return InvalidRequest(f"Bucket {self.bucket!r} does not exist.", hint="Create it, or correct the address.")
        if code in _REFUSED:
            return InvalidRequest(
                f"The store refused access to {self.uri_of(path)} ({code}).",
                hint="Check the credentials and the bucket's policy.",
            )
        return Infrastructure(
            f"The store failed on {self.uri_of(path)}: {error}", hint="Look at the store, then clear the task."
        )

    def clock(self) -> dt.datetime:
        answer: Any = self._patiently("", self._client.head_bucket, Bucket=self.bucket)
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])

    def read(self, path: str) -> bytes:
        return self._patiently(path, self._get, Key=self._key(path))

    def read_part(self, path: str, start: int, size: int) -> bytes:
        return self._patiently(path, self._get, Key=self._key(path), Range=f"bytes={start}-{start + size - 1}")

    def _get(self, **asked: str) -> bytes:
        try:
            data: bytes = self._client.get_object(Bucket=self.bucket, **asked)["Body"].read()
        except ClientError as error:
            if _code(error) != "InvalidRange":
                raise
            return b""
        return data

    def sha256(self, path: str) -> str:
        return self._transferred(path, self._digest, self._key(path))

    def _digest(self, key: str) -> str:
        digest = hashlib.sha256()
        for chunk in self._transfers.get_object(Bucket=self.bucket, Key=key)["Body"].iter_chunks(CHUNK):
            digest.update(chunk)
        return digest.hexdigest()

    def write(self, path: str, data: bytes) -> None:
        told = {"Key": self._key(path), "Body": data, **_content_type(path)}
        self._patiently(path, self._client.put_object, Bucket=self.bucket, **told)

    def create(self, path: str, data: bytes) -> bool:
        if self._patiently(path, self._put_first, path, data):
            return True
        # A request whose answer was lost is repeated: then what is there is ours.
        with suppress(NotFound):
            return self.read(path) == data
        return False

    def _put_first(self, path: str, data: bytes) -> bool:
        try:
            self._client.put_object(Bucket=self.bucket, Key=self._key(path), Body=data, IfNoneMatch="*")
        except ClientError as error:
            if _code(error) != "PreconditionFailed":
                raise
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[Entry]:
        folder = self._key(prefix)
        skip = len(self.prefix) + 1 if self.prefix else 0
        for page in self._pages(prefix, Prefix=folder):
            for item in page.get("Contents", []):
                key = item["Key"]
                inside = not folder or key == folder or key.startswith(folder + "/")
                if inside and not key.endswith("/"):
                    yield Entry(key[skip:], item["Size"], item["LastModified"], item["ETag"].strip('"'))

    def folders(self, prefix: str = "") -> Iterator[str]:
        start = self._key(prefix)
        start = start + "/" if start else ""
        for page in self._pages(prefix, Prefix=start, Delimiter="/"):
            for item in page.get("CommonPrefixes", []):
                yield item["Prefix"][len(start) :].rstrip("/")

    def _pages(self, path: str, **asked: str) -> Iterator[dict[str, Any]]:
        """A listing's pages; one that fails does not start the listing anew."""
        while True:
            page: dict[str, Any] = self._patiently(path, self._client.list_objects_v2, Bucket=self.bucket, **asked)
            yield page
            if not page["IsTruncated"]:
                return
            asked["ContinuationToken"] = page["NextContinuationToken"]

    def upload(self, source: Path, path: str) -> None:
        told = _content_type(path)
        self._transferred(path, self._transfers.upload_file, str(source), self.bucket, self._key(path), ExtraArgs=told)

    def download(self, path: str, target: Path) -> None:
        self._transferred(path, self._transfers.download_file, self.bucket, self._key(path), str(target))

    def copy(self, source: str, target: str) -> None:
        origin = {"Bucket": self.bucket, "Key": self._key(source)}
        # A copy in parts forgets what the original's type was.
        told = {**_content_type(target), "MetadataDirective": "REPLACE"}
        self._transferred(source, self._transfers.copy, origin, self.bucket, self._key(target), ExtraArgs=told)

    def remove(self, paths: Iterable[str]) -> None:
        waiting = iter(paths)
        while batch := set(islice(waiting, KEYS_A_REQUEST)):
            self._patiently(min(batch), self._remove, batch)

    def _remove(self, left: set[str]) -> None:
        """Remove what is left of these; the answer is 200 also where it names keys that are still there."""
        objects = [{"Key": self._key(path)} for path in sorted(left)]
        try:
            answer = self._client.delete_objects(Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True})
        except ClientError as error:
            if _code(error) != "AccessDenied":
                raise
            # Ceph refuses this to a session that may remove each of them.
            for path in sorted(left):
                self._client.delete_object(Bucket=self.bucket, Key=self._key(path))
                left.discard(path)
            return
        failed = [told for told in answer.get("Errors", []) if told.get("Code") not in _MISSING]
        keys = {told.get("Key") for told in failed}
        left -= {path for path in left if self._key(path) not in keys}
        if failed:
            # One that will not pass is worth no second try of the others.
            raise ClientError({"Error": min(failed, key=lambda told: told.get("Code") in _BUSY)}, "DeleteObjects")


def answer_within(seconds: float, ask: Callable[[], Result]) -> Result:
    """What is answered in so many seconds, however slowly its bytes come.

    A question without an answer is left alone: its socket's own limit ends it later, and nobody waits for it.
    """
    answer: futures.Future[Result] = futures.Future()

    def wait() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=wait, name="store", daemon=True).start()
    try:
        return answer.result(seconds)
    except futures.TimeoutError:
        raise ReadTimeoutError(endpoint_url=f"no answer within {seconds:.0f} s") from None


def _cause(error: Exception) -> Exception:
    """What went wrong: boto3 wraps what the store said of an upload."""
    return error.__context__ if isinstance(error, Boto3Error) and isinstance(error.__context__, ClientError) else error


def _passes(error: Exception) -> bool:
    """Whether the same may work in a moment."""
    if isinstance(error, ClientError):
        return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in _BUSY_STATUS or _code(error) in _BUSY
    return isinstance(error, _BROKEN)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _content_type(path: str) -> dict[str, Any]:
    """Without it a browser would save a page instead of showing it."""
    kind, _ = guess_type(path)
    return {"ContentType": kind} if kind else {}
