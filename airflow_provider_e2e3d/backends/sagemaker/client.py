"""SageMaker's API as a stage uses it."""

from __future__ import annotations

import re
from typing import Any

from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from botocore.exceptions import ClientError

from airflow_provider_e2e3d.backends.aws.client import Account, said
from airflow_provider_e2e3d.backends.base import Cursor, unanswered
from airflow_provider_e2e3d.backends.sagemaker.status import is_over
from e2e3d_stages.contract.messages import Infrastructure, InvalidRequest, StageError

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
_NO_QUOTA = re.compile(r"'([^']+)' is 0 ")


class TrainingJobs:
    """The training jobs of an account.

    :param account: AWS, as the profile reaches it.
    """

    def __init__(self, account: Account) -> None:
        self._account = account
        # By job: how often its program was started, and the log streams that were seen.
        self._starts: dict[str, int] = {}
        self._streams: dict[str, list[str]] = {}

    def create(self, request: dict[str, Any]) -> None:
        """Create a job, unless it is there.

        :raises Infrastructure: when the account's instances are all in use.
        :raises InvalidRequest: when there will never be such a job.
        """
        try:
            self._call("create_training_job", **request)
        except ClientError as error:
            # The name is taken: what a dead worker started is this very job.
            if error.response["Error"]["Code"] != "ResourceInUse":
                raise _refusal(error) from error

    def describe(self, name: str) -> dict[str, Any] | None:
        """A job as DescribeTrainingJob tells it, whatever its state."""
        try:
            found: dict[str, Any] = self._call("describe_training_job", TrainingJobName=name)
        except ClientError as error:
            # "Requested resource not found."
            if error.response["Error"]["Code"] == "ResourceNotFound" or "not found" in said(error):
                return None
            raise unanswered("SageMaker", said(error)) from error
        states = [each["Status"] for each in found.get("SecondaryStatusTransitions", [])]
        self._starts[name] = states.count("Training") + is_over(found)
        return found

    def stop(self, name: str) -> None:
        """Ask a job to stop; one that has ended or is not there, is left alone."""
        try:
            self._call("stop_training_job", TrainingJobName=name)
        except ClientError as error:
            # A job that has ended is a ValidationException, too.
            if error.response["Error"]["Code"] not in ("ValidationException", "ResourceNotFound"):
                raise unanswered("SageMaker", said(error)) from error

    def log_lines(self, name: str, cursor: Cursor) -> tuple[list[str], Cursor]:
        """Lines of a job's log after the cursor, and the next one.

        A program writes into one stream; when SageMaker starts it again, into another.

        :param cursor: a stream's name and CloudWatch's token in two lines; 0 for the beginning.
        """
        stream, _, token = str(cursor or "").partition("\n")
        if stream:
            lines, follows = self._account.log_lines(LOG_GROUP, stream, token)
            if lines:
                return lines, f"{stream}\n{follows}"
        for later in self._streams_after(name, stream):
            lines, follows = self._account.log_lines(LOG_GROUP, later, "")
            if lines:
                return lines, f"{later}\n{follows}"
        return [], cursor

    def _streams_after(self, name: str, stream: str) -> list[str]:
        """The job's streams behind one; their names end with the moment when they were begun."""
        # Asked for only when there can be a new one: the account has few such calls a second.
        if len(self._streams.get(name, [])) < self._starts.get(name, 1):
            self._streams[name] = self._find_streams(name)
        return [each for each in self._streams.get(name, []) if each > stream]

    def _find_streams(self, name: str) -> list[str]:
        try:
            found = self._account.call(
                "logs", "describe_log_streams", logGroupName=LOG_GROUP, logStreamNamePrefix=f"{name}/"
            )
        except ClientError as error:
            # The group comes into being with the account's first job.
            if error.response["Error"]["Code"] == "ResourceNotFoundException":
                return []
            raise unanswered("CloudWatch", said(error)) from error
        return sorted(each["logStreamName"] for each in found["logStreams"])

    def _call(self, operation: str, **values: Any) -> Any:
        return self._account.call("sagemaker", operation, hook=self._account.hook(SageMakerHook), **values)


def _refusal(error: ClientError) -> StageError:
    """What SageMaker's refusal of a job means."""
    words, code = said(error), error.response["Error"]["Code"]
    if code == "ConflictException":
        return unanswered("SageMaker", words)
    if code != "ResourceLimitExceeded" or "not available" in words:
        return InvalidRequest(f"SageMaker refuses: {words}", hint="Correct the stage's settings in the profile.")
    # "The account-level service limit 'ml.g5.xlarge for training job usage' is 0 Instances, with …"
    if found := _NO_QUOTA.search(words):
        return InvalidRequest(
            f"The account may not use such an instance: {words}",
            hint=f"In Service Quotas, Amazon SageMaker, ask for an increase of {found[1]!r} in this region, or choose "
            "another InstanceType in the profile.",
        )
    return Infrastructure(
        f"The account's instances are all in use: {words}",
        hint="The next try may find one free; for more at a time, ask for an increase in Service Quotas.",
    )
