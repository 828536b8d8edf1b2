"""What a profile says of a stage on AWS, whichever service runs it."""

from __future__ import annotations

from pydantic import Field

from airflow_provider_e2e3d.backends.base import ImageSettings


class AwsSettings(ImageSettings):
    """Settings of a service of AWS."""

    poll_seconds: float = Field(default=15, gt=0, description="Pause between two looks: AWS counts calls.")
    aws_conn_id: str | None = Field(default=None, description="Airflow connection; boto3's own search when empty.")
    region_name: str | None = Field(default=None, description="Region; the connection's or boto3's when empty.")
    metrics_namespace: str | None = Field(
        default=None, description="CloudWatch namespace for duration, price and quality; nothing is sent when empty."
    )
