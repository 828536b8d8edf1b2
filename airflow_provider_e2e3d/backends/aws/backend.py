"""What the backends on AWS share: their settings, and how little of a job's environment they show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from airflow_provider_e2e3d.backends.aws.settings import AwsSettings
from airflow_provider_e2e3d.backends.base import Backend, JobSpec
from e2e3d_stages.contract.messages import InvalidRequest, StageName

if TYPE_CHECKING:
    from airflow_provider_e2e3d.backends.aws.client import Account

# Instance types of the families G and P.
_GPU_INSTANCE = re.compile(r"\b[gp]\d+\w*\.\w*(large|metal)", re.IGNORECASE)
# What a job's role stands for: environments are shown in AWS's console and API.
_SECRETS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}


class AwsBackend(Backend):
    """A service of AWS: its jobs reach the store by a role, never by keys that somebody hands on."""

    deferrable = True
    settings: AwsSettings

    def environment(self, job: JobSpec) -> dict[str, str]:
        """What a program is told; no secret in it."""
        told = {name: value for name, value in super().environment(job).items() if name not in _SECRETS}
        return {**told, "E2E3D_IMAGE": self.settings.image_of(job)}

    def report(self, stage: StageName, figures: Mapping[str, float]) -> None:
        if self.settings.metrics_namespace and figures:
            self.account.put_metrics(self.settings.metrics_namespace, stage, figures)

    @property
    def has_gpu(self) -> bool:
        return super().has_gpu or bool(_GPU_INSTANCE.search(self.settings.model_dump_json()))

    @cached_property
    def account(self) -> Account:
        """AWS's API, as the profile reaches it."""
        # boto3 is not for whoever only reads the profile.
        from airflow_provider_e2e3d.backends.aws.client import Account

        return Account(self.settings)


def refuse_folders(job: JobSpec) -> None:
    """A job on AWS sees no folder of Airflow's machine.

    :raises InvalidRequest: when the store or the capture is one.
    """
    for uri in (job.store_uri, job.capture or "s3://"):
        if not uri.startswith("s3://"):
            raise InvalidRequest(
                f"A job on AWS does not see {uri}.",
                hint="Give the profile an s3:// store, and upload the capture to a bucket.",
            )
