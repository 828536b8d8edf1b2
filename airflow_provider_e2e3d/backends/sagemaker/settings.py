"""What a profile says of a stage that runs as a training job."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import ConfigDict, model_validator
from typing_extensions import Self

from airflow_provider_e2e3d.backends.aws.settings import AwsSettings
from airflow_provider_e2e3d.backends.aws.shapes import Problem, problems, refuse
from airflow_provider_e2e3d.backends.base import JobSpec, merged

# SageMaker lets no job run longer.
_LONGEST_SECONDS = 28 * 86_400


# What a stage decides itself: its name, image, program and inputs, and that it runs alone.
_OWN = frozenset(
    (
        *("TrainingJobName", "HyperParameters", "InputDataConfig", "ServerlessJobConfig"),
        *("AlgorithmSpecification.TrainingImage", "AlgorithmSpecification.AlgorithmName"),
        *("AlgorithmSpecification.ContainerEntrypoint", "AlgorithmSpecification.ContainerArguments"),
        "ResourceConfig.InstanceGroups",
    )
)


_NOT_IN_TAGS = re.compile(r"[^\w\s.:/=+@-]")


class SageMakerSettings(AwsSettings):
    """A training job. Besides the names here, every field of CreateTrainingJob that a stage does not own.

    Names and values are the API's:
    https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateTrainingJob.html
    """

    model_config = ConfigDict(extra="allow")

    backend: Literal["sagemaker"]

    @property
    def fields(self) -> dict[str, Any]:
        """What the profile says of CreateTrainingJob, and what a stage needs where it says nothing."""
        needed = {
            "AlgorithmSpecification": {"TrainingInputMode": "File"},
            "ResourceConfig": {"InstanceCount": 1, "VolumeSizeInGB": 100},
        }
        return merged(needed, self.model_extra or {})

    def request(self, job: JobSpec) -> dict[str, Any]:
        """CreateTrainingJob's input, but for the program's environment."""
        owned = {
            "TrainingJobName": job.name,
            "AlgorithmSpecification": {"TrainingImage": self.image_of(job)},
            # Each value is JSON in a string.
            "HyperParameters": {"request_uri": json.dumps(job.request_uri)},
            "StoppingCondition": self._stopping_condition(job.longest_seconds),
            "Tags": _tags(job, self.fields.get("Tags", [])),
        }
        # SageMaker wants a place for outputs; what it leaves there is empty.
        place = {"OutputDataConfig": {"S3OutputPath": f"{job.store_uri}/sagemaker"}}
        return merged(merged(place, self.fields), owned)

    def _stopping_condition(self, longest_seconds: float) -> dict[str, int]:
        """When SageMaker ends the job, where the profile does not say; on spot instances waiting counts, too."""
        given = self.fields.get("StoppingCondition", {})
        longest = min(math.ceil(longest_seconds), given.get("MaxWaitTimeInSeconds", _LONGEST_SECONDS), _LONGEST_SECONDS)
        condition = {"MaxRuntimeInSeconds": longest, **given}
        if self.fields.get("EnableManagedSpotTraining"):
            condition.setdefault("MaxWaitTimeInSeconds", 2 * condition["MaxRuntimeInSeconds"])
        return condition

    @model_validator(mode="after")
    def _sagemaker_accepts_it(self) -> Self:
        outputs = {"OutputDataConfig": {"S3OutputPath": "s3://store"}}
        values = merged(outputs, self.fields)
        found = problems("sagemaker", "CreateTrainingJobRequest", values, _OWN, type(self).model_fields)
        # What depends on the right shape of it all.
        refuse(type(self), found or self._contradictions())
        return self

    def _contradictions(self) -> Iterator[Problem]:
        """What SageMaker would refuse only when the job is created, or the stage could not work with."""
        if "RoleArn" not in self.fields:
            yield (), "RoleArn is missing: the role whose rights the program has"
        resources = self.fields["ResourceConfig"]
        if "InstanceType" not in resources and "InstancePreferences" not in resources:
            yield ("ResourceConfig",), "InstanceType is missing"
        if resources["InstanceCount"] != 1:
            yield ("ResourceConfig", "InstanceCount"), "must be 1: a stage runs on one machine"
        if self.fields.get("EnableNetworkIsolation"):
            yield ("EnableNetworkIsolation",), "must be false: the program reads and writes the store itself"
        condition = self.fields.get("StoppingCondition", {})
        runtime, wait = condition.get("MaxRuntimeInSeconds", 1), condition.get("MaxWaitTimeInSeconds")
        if runtime > _LONGEST_SECONDS:
            yield ("StoppingCondition", "MaxRuntimeInSeconds"), f"must be at most {_LONGEST_SECONDS}, 28 days"
        if wait is not None and not self.fields.get("EnableManagedSpotTraining"):
            yield ("StoppingCondition", "MaxWaitTimeInSeconds"), "goes with EnableManagedSpotTraining only"
        if wait is not None and wait < runtime:
            yield ("StoppingCondition", "MaxWaitTimeInSeconds"), f"must be at least MaxRuntimeInSeconds, {runtime}"


def _tags(job: JobSpec, given: list[dict[str, str]]) -> list[dict[str, str]]:
    """The profile's tags, and whose job it is."""
    own = {"stage": job.stage, "key": job.key, "attempt": str(job.claim.attempt), "owner": job.claim.owner}
    tags = {each["Key"]: each["Value"] for each in given}
    tags |= {f"e2e3d.{name}": _NOT_IN_TAGS.sub("_", value)[:256] for name, value in own.items()}
    return [{"Key": name, "Value": value} for name, value in tags.items()]
