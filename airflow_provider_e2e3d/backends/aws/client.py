"""AWS's API as a profile reaches it: calls, logs, metrics, and what its refusals mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property
from typing import Any

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    NoCredentialsError,
    NoRegionError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as NoConnection
from botocore.parsers import ResponseParserError

from airflow_provider_e2e3d.backends.aws.settings import AwsSettings
from airflow_provider_e2e3d.backends.base import Cursor, Unavailable, unanswered
from e2e3d_stages.contract.messages import InvalidRequest, StageError, StageName

# Whoever asks is patient: a call need not be.
_CONFIG = Config(retries={"mode": "standard", "total_max_attempts": 2}, connect_timeout=10, read_timeout=30)
# Lines of a log that are asked for at a time: about base.LOG_CHUNK at 128 bytes each.
_LOG_LINES = 2_000
_BUSY = {
    *("Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled", "RequestThrottledException"),
    *("TooManyRequestsException", "RequestLimitExceeded", "LimitExceededException", "SlowDown"),
    *("InternalFailure", "InternalError", "InternalServerError", "ServerException", "ServiceUnavailable"),
    *("ServiceUnavailableException", "ExpiredToken", "ExpiredTokenException", "RequestExpired"),
    *("RequestTimeout", "RequestTimeoutException", "PriorRequestNotComplete", "OperationAbortedException"),
    # Whoever vouches for Airflow to AWS's STS.
    *("IDPCommunicationError", "InvalidIdentityToken"),
}
_FORBIDDEN = {
    *("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "UnrecognizedClientException"),
    *("InvalidClientTokenId", "InvalidSignatureException", "SignatureDoesNotMatch", "AuthFailure"),
}
_ON_THE_WAY = (
    *(NoConnection, HTTPClientError, IncompleteReadError, ResponseParserError),
    *(CredentialRetrievalError, MetadataRetrievalError, TokenRetrievalError),
)
# Neither a question nor an end: only these may be refused for what was asked.
_NEW = ("create_", "put_", "register_", "run_")
# What is wrong with the signature of a request that was held up, or comes from a clock that is wrong.
_LATE = ("Signature expired", "Signature not yet current")
_UNITS = {"billable_seconds": "Seconds"}


class Account:
    """AWS, as the settings of a stage reach it.

    :param settings: the profile's.
    """

    def __init__(self, settings: AwsSettings) -> None:
        self._settings = settings
        # Clients are made once for each hook.
        self.hook = cache(self._hook)

    def _hook(self, kind: type[AwsBaseHook] = AwsBaseHook, **values: Any) -> AwsBaseHook:
        """A hook of Airflow's Amazon provider."""
        return kind(
            aws_conn_id=self._settings.aws_conn_id,
            region_name=self._settings.region_name,
            config=_CONFIG,
            **values,
        )

    @cached_property
    def region(self) -> str:
        """Where it is: the profile's, the connection's or boto3's own.

        :raises InvalidRequest: when none of them says.
        """
        with _translate_errors("sts:AssumeRole", new=True):
            return str(self.hook(client_type="sts").conn_client_meta.region_name)

    def call(self, service: str, operation: str, *, hook: Any = None, **values: Any) -> Any:
        """Call an operation by its name in Python: describe_tasks.

        :param hook: the provider's own for the service, if it has one.
        :raises ClientError: what only the caller can judge.
        :raises Unavailable: when AWS is busy or away.
        :raises InvalidRequest: when Airflow may not do it or the profile leads nowhere.
        """
        action = "".join(word.capitalize() for word in operation.split("_"))
        with _translate_errors(f"{service}:{action}", new=operation.startswith(_NEW)):
            return getattr((hook or self.hook(client_type=service)).get_conn(), operation)(**values)

    def log_lines(self, group: str, stream: str, cursor: Cursor) -> tuple[list[str], Cursor]:
        """Lines of a stream of CloudWatch Logs after the cursor, which is CloudWatch's own token, and the next one."""
        while True:
            try:
                found = self.call(
                    "logs",
                    "get_log_events",
                    logGroupName=group,
                    logStreamName=stream,
                    startFromHead=True,
                    limit=_LOG_LINES,
                    **({"nextToken": cursor} if cursor else {}),
                )
            except ClientError as error:
                # It comes into being with its first line.
                if error.response["Error"]["Code"] == "ResourceNotFoundException":
                    return [], cursor
                if not cursor:
                    raise unanswered("CloudWatch", said(error)) from error
                # A token's time is over after a day: from the beginning.
                cursor = 0
                continue
            lines = [event["message"].rstrip() for event in found["events"]]
            # A page may be empty before the end; at the end the token stays the same.
            if lines or found["nextForwardToken"] == cursor:
                return lines, found["nextForwardToken"]
            cursor = found["nextForwardToken"]

    def put_metrics(self, namespace: str, stage: StageName, figures: Mapping[str, float]) -> None:
        """Send figures of an ended job to CloudWatch, each a metric with the stage as its dimension."""
        data = [
            {
                "MetricName": name,
                "Dimensions": [{"Name": "stage", "Value": stage}],
                "Value": value,
                "Unit": _UNITS.get(name, "None"),
            }
            for name, value in figures.items()
        ]
        try:
            self.call("cloudwatch", "put_metric_data", Namespace=namespace, MetricData=data)
        except ClientError as error:
            raise InvalidRequest(
                f"CloudWatch refused the metrics: {said(error)}", hint="Correct metrics_namespace in the profile."
            ) from error


def said(error: ClientError) -> str:
    """AWS's own words."""
    return str(error.response["Error"].get("Message") or error.response["Error"]["Code"])


@contextmanager
def _translate_errors(what: str, *, new: bool) -> Iterator[None]:
    """Say what is wrong with AWS or with Airflow's access to it; what only the caller can judge goes on to it.

    :param what: is tried, as IAM names it.
    :param new: whether something new is asked for.
    """
    try:
        yield
    except ClientError as error:
        told = _as_stage_error(error, what)
        if told is None:
            raise
        raise told from error
    except (BotoCoreError, ResponseParserError) as error:
        raise _trouble(error, new=new) from error


def _as_stage_error(error: ClientError, what: str) -> StageError | None:
    """What AWS says about itself or about Airflow's access to it; None for what only the caller can judge."""
    code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
    if code in _BUSY or status in (408, 429) or status >= 500 or said(error).startswith(_LATE):
        return Unavailable(f"AWS is busy ({code}): {said(error)}", hint="Try again later.")
    if code in _FORBIDDEN:
        return InvalidRequest(
            f"Airflow may not do {what}: {said(error)}",
            hint="Give Airflow's role the policy in deploy/aws/, or correct aws_conn_id in the profile.",
        )
    return None


def _trouble(error: Exception, *, new: bool) -> StageError:
    """What went wrong on the way to AWS."""
    if isinstance(error, _ON_THE_WAY):
        return Unavailable(f"AWS does not answer: {error}", hint="Check the network, and region_name in the profile.")
    if isinstance(error, NoCredentialsError):
        # Also when the machine's own role is meant, and whoever hands its credentials out is away for a moment.
        return Unavailable(
            f"Airflow has no credentials for AWS: {error}",
            hint="Name an `aws` connection by aws_conn_id in the profile, or give Airflow's machine a role.",
        )
    if isinstance(error, NoRegionError):
        return InvalidRequest(
            f"AWS cannot be reached: {error}", hint="Name a region by region_name in the profile or its connection."
        )
    if not new:
        return unanswered("AWS", str(error))
    return InvalidRequest(f"AWS was asked for what it does not know: {error}", hint="Correct the stage's settings.")
