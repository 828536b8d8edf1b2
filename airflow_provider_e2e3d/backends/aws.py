"""What the backends on AWS share: their settings, and how little of a job's environment they show."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from pydantic import Field

from airflow_provider_e2e3d.backends.base import Backend, ImageSettings, JobSpec
from e2e3d_stages.contract import InvalidRequest, StageName

if TYPE_CHECKING:
    from airflow_provider_e2e3d.backends.aws_account import Account

# What a job's role stands for: environments are shown in AWS's console and API.
_SECRETS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}


class AwsSettings(ImageSettings):
    """Settings of a service of AWS."""

    poll_seconds: float = Field(default=15, gt=0, description="Pause between two looks: AWS counts calls.")
    aws_conn_id: str | None = Field(default=None, description="Airflow connection; boto3's own search when empty.")
    region_name: str | None = Field(default=None, description="Region; the connection's or boto3's when empty.")
    metrics_namespace: str | None = Field(
        default=None, description="CloudWatch namespace for duration, price and quality; nothing is sent when empty."
    )


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

    @cached_property
    def account(self) -> Account:
        """AWS's API, as the profile reaches it."""
        # boto3 is not for whoever only reads the profile.
        from airflow_provider_e2e3d.backends.aws_account import Account

        return Account(self.settings)


def console_of(region: str) -> str:
    """Address of AWS's console for a region; each partition of AWS has its own."""
    domains = {"cn": "amazonaws.cn", "us-gov": "amazonaws-us-gov.com"}
    domain = next((domain for name, domain in domains.items() if region.startswith(f"{name}-")), "aws.amazon.com")
    return f"https://console.{domain}"


def refuse_folders(job: JobSpec) -> None:
    """A job on AWS sees no folder of Airflow's machine.

    :raises InvalidRequest: when the store or the capture is one.
    """
    for uri in (job.request_uri, job.capture or "s3://"):
        if not uri.startswith("s3://"):
            raise InvalidRequest(
                f"A job on AWS does not see {uri.partition('/artifacts/')[0]}.",
                hint="Give the profile an s3:// store, and upload the capture to a bucket.",
            )
