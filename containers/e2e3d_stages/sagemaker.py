"""What a stage program has to know of SageMaker, which runs it as a training job.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo.html
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from e2e3d_stages.contract.messages import Failure, FailureCode, InvalidRequest

# What the job was given; each value is JSON in a string.
HYPERPARAMETERS = Path("/opt/ml/input/config/hyperparameters.json")
# Its beginning becomes the job's FailureReason.
FAILURE = Path("/opt/ml/output/failure")
# A FailureReason has 1,024 characters, and SageMaker adds a few words of its own.
_LONGEST = 960

log = logging.getLogger("e2e3d")


def request_uri() -> str:
    """The request's address as SageMaker passes it.

    :raises InvalidRequest: when it does not.
    """
    hint = "Start the training job with the hyperparameter request_uri, the JSON string of a request's address."
    try:
        values = json.loads(HYPERPARAMETERS.read_text(encoding="utf-8"))
        uri = json.loads(values["request_uri"])
    except OSError as error:
        raise InvalidRequest(f"`train` is for SageMaker, and {HYPERPARAMETERS} cannot be read.", hint=hint) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(f"{HYPERPARAMETERS} holds no request_uri in JSON.", hint=hint) from error
    if not isinstance(uri, str):
        raise InvalidRequest(f"The hyperparameter request_uri is {uri!r}, not an address.", hint=hint)
    return uri


def ends(failure: Failure) -> bool:
    """Tell SageMaker of a failure; returns whether the attempt ends with it.

    An interruption is no end: SageMaker starts a job on spot instances again by itself, and calls one that somebody
    stopped so.
    """
    if failure.code is FailureCode.INTERRUPTED:
        return False
    try:
        FAILURE.write_text(f"{failure.message} {failure.hint}".strip()[:_LONGEST], encoding="utf-8")
    except OSError as error:
        log.warning("SageMaker could not be told why the job fails: %s", error)
    return True
