"""What a training job's description means for the stage in it.

The statuses are those of DescribeTrainingJob's TrainingJobStatus and SecondaryStatus. FailureReason begins with the
kind of failure: AlgorithmError (the program's), ClientError (the request's), CapacityError and InternalServerError.
"""

from __future__ import annotations

import re
from typing import Any

from airflow_provider_e2e3d.backends.base import TRANSIENT, JobStatus
from e2e3d_stages.contract.messages import Failure, FailureCode

_OVER = {"Completed", "Failed", "Stopped"}
_EXIT_CODE = re.compile(r",?\s*exit code: (\d+)\s*$", re.IGNORECASE)
# As in "ClientError: Please use an instance type with more memory, or reduce the size of job data processed".
_OUT_OF_MEMORY = re.compile(r"more memory|out ?of ?memory", re.IGNORECASE)
_GOES_ON = "The next try goes on from the newest checkpoint; when none is left, clear the task."
_LONGER = f"Raise StoppingCondition in the profile. {_GOES_ON}"
_STOPPED = {
    "MaxRuntimeExceeded": ("The job took longer than its MaxRuntimeInSeconds; SageMaker stopped it.", _LONGER),
    "MaxWaitTimeExceeded": ("The job waited for spot instances until its MaxWaitTimeInSeconds was over.", _LONGER),
}


def is_over(job: dict[str, Any]) -> bool:
    """Whether a job has ended: one that waits for its instance may yet begin."""
    return job["TrainingJobStatus"] in _OVER


def vanished(name: str) -> JobStatus:
    """The status of a job that SageMaker does not know."""
    return _ended(
        FailureCode.INFRASTRUCTURE,
        f"SageMaker knows no training job {name} any more.",
        f"Look whether the profile's region_name or account has changed. {_GOES_ON}",
    )


def job_status(job: dict[str, Any]) -> JobStatus:
    """How a job is.

    :param job: DescribeTrainingJob's answer.
    """
    if not is_over(job):
        return JobStatus(running=True)
    if job["TrainingJobStatus"] == "Completed":
        status = JobStatus(running=False, exit_code=0)
    elif job["TrainingJobStatus"] == "Stopped":
        somebody = ("Somebody stopped the training job.", _GOES_ON)
        status = _ended(FailureCode.INTERRUPTED, *_STOPPED.get(job["SecondaryStatus"], somebody))
    else:
        status = _failed(job.get("FailureReason", ""))
    # A job that never got its instance has no such field.
    nothing = None if "TrainingStartTime" in job else 0
    return status.model_copy(update={"billable_seconds": job.get("BillableTimeInSeconds", nothing)})


def _failed(reason: str) -> JobStatus:
    kind, _, told = reason.partition(":")
    if _OUT_OF_MEMORY.search(reason) and kind != "AlgorithmError":
        return _ended(
            FailureCode.OUT_OF_MEMORY,
            f"The machine's memory ran out ({reason})",
            "Choose an InstanceType with more memory in the profile, or a smaller preset.",
        )
    if kind == "AlgorithmError":
        return _program_failed(told.strip())
    if kind == "CapacityError":
        return _ended(
            FailureCode.INFRASTRUCTURE,
            f"SageMaker has no such instance now: {reason}",
            "If it stays so, choose another InstanceType or region_name in the profile, or do without spot instances.",
        )
    if kind == "ClientError" and not TRANSIENT.search(told):
        return _ended(FailureCode.INVALID_REQUEST, f"SageMaker could not run the job: {reason}", _advice(told))
    return _ended(FailureCode.INFRASTRUCTURE, f"SageMaker failed: {reason or 'it gives no reason'}", "Try again later.")


def _program_failed(told: str) -> JobStatus:
    """What the program wrote into /opt/ml/output/failure, and its exit status."""
    found = _EXIT_CODE.search(told)
    exit_code = int(found[1]) if found else None
    message = _EXIT_CODE.sub("", told).strip()
    if not message:
        return JobStatus(running=False, exit_code=exit_code)
    code = next((code for code in FailureCode if code.exit_code == exit_code), FailureCode.CRASH)
    if code is FailureCode.CRASH and _OUT_OF_MEMORY.search(message):
        code = FailureCode.OUT_OF_MEMORY
    return _ended(code, message, "", exit_code)


def _advice(told: str) -> str:
    """What to do about a ClientError."""
    lower = told.lower()
    if "image" in lower or "container" in lower:
        return "Push the image (make push), correct `image`, and let RoleArn pull it: deploy/aws/ has the policy."
    if "role" in lower or "assume" in lower or "access" in lower or "s3" in lower:
        return "Give RoleArn the trust and the rights in deploy/aws/."
    return "Correct the stage's settings in the profile."


def _ended(code: FailureCode, message: str, hint: str, exit_code: int | None = None) -> JobStatus:
    return JobStatus(running=False, exit_code=exit_code, failure=Failure(code=code, message=message, hint=hint))
