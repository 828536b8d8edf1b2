"""An Airflow connection becomes an artifact store."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseHook

from e2e3d_stages.store.artifacts import ArtifactStore


class StoreHook(BaseHook):
    """Opens artifact stores with a connection's credentials.

    :param store_conn_id: an `aws` connection (AWS, MinIO: `endpoint_url` in its extra), or None to take credentials
        from the environment as boto3 does.
    """

    conn_name_attr = "store_conn_id"

    def __init__(self, store_conn_id: str | None = None) -> None:
        super().__init__()
        self.store_conn_id = store_conn_id

    def environment(self) -> dict[str, str]:
        """The credentials as the environment variables that boto3 reads; secret, for private channels only."""
        if self.store_conn_id is None:
            return {}
        from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook

        aws: AwsGenericHook[Any] = AwsGenericHook(aws_conn_id=self.store_conn_id, client_type="s3")
        credentials = aws.get_credentials(region_name=aws.region_name)
        values = {
            "AWS_ACCESS_KEY_ID": credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": credentials.secret_key,
            "AWS_SESSION_TOKEN": credentials.token,
            "AWS_DEFAULT_REGION": aws.region_name,
            "AWS_ENDPOINT_URL_S3": aws.conn_config.get_service_endpoint_url("s3"),
        }
        return {name: value for name, value in values.items() if value}

    def open(self, uri: str) -> ArtifactStore:
        """The artifact store at an address."""
        return ArtifactStore.open(uri, self.environment())
