"""Stages as training jobs of Amazon SageMaker."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from airflow_provider_e2e3d.backends.aws.backend import AwsBackend, refuse_folders
from airflow_provider_e2e3d.backends.aws.console import console_of
from airflow_provider_e2e3d.backends.base import Cursor, Handle, JobSpec, JobStatus
from airflow_provider_e2e3d.backends.sagemaker.settings import SageMakerSettings
from airflow_provider_e2e3d.backends.sagemaker.status import is_over, job_status, vanished

if TYPE_CHECKING:
    from airflow_provider_e2e3d.backends.sagemaker.client import TrainingJobs


class SageMakerBackend(AwsBackend):
    """Starts an image's program as a training job that outlives the worker.

    The program has the rights of the profile's RoleArn, and no secret is in the request. SageMaker starts a job whose
    spot instance was taken away again by itself; the program then goes on from its checkpoint.
    """

    Settings = SageMakerSettings
    settings: SageMakerSettings

    @property
    def machine(self) -> str | None:
        """The instance type, unless the profile calls it otherwise."""
        return self.settings.machine or self.settings.fields["ResourceConfig"].get("InstanceType")

    def submit(self, job: JobSpec) -> Handle:
        refuse_folders(job)
        environment = {**self.settings.fields.get("Environment", {}), **self.environment(job)}
        self._jobs.create({**self.settings.request(job), "Environment": environment})
        return {"job": job.name}

    def find(self, job: JobSpec) -> Handle | None:
        return {"job": job.name} if self._jobs.describe(job.name) else None

    def poll(self, handle: Handle) -> JobStatus:
        found = self._jobs.describe(handle["job"])
        return job_status(found) if found else vanished(handle["job"])

    def logs(self, handle: Handle, cursor: Cursor) -> tuple[list[str], Cursor]:
        """See `Backend.logs`; the cursor is a stream's name and CloudWatch's token in two lines."""
        return self._jobs.log_lines(handle["job"], cursor)

    def cancel(self, handle: Handle) -> None:
        """Stop the job: SageMaker sends SIGTERM, and SIGKILL 120 s later."""
        self._jobs.stop(handle["job"])

    def job_url(self, handle: Handle) -> str:
        """See `Backend.job_url`: SageMaker's console, which has the log and the metrics, too."""
        region = self.account.region
        page = f"{console_of(region)}/sagemaker/home?region={region}#/jobs/{handle['job']}"
        return super().job_url(handle) or page

    def clean_up(self, handle: Handle, *, succeeded: bool) -> None:
        """See `Backend.clean_up`; an ended job stays in SageMaker's history, which nobody can delete."""
        found = self._jobs.describe(handle["job"])
        if found and not is_over(found):
            self._jobs.stop(handle["job"])

    @cached_property
    def _jobs(self) -> TrainingJobs:
        # boto3 is not for whoever only reads the profile.
        from airflow_provider_e2e3d.backends.sagemaker.client import TrainingJobs

        return TrainingJobs(self.account)
