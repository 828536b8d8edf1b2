"""SageMaker's training jobs for tests, each a real container that is given what SageMaker gives.

What a container sees and how a job ends is told in SageMaker's own developer guide, "How Amazon SageMaker Runs Your
Training Image"; the words of its failures are those that its users report.
"""

from __future__ import annotations

import json
import math
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from docker.errors import APIError
from docker.types import Mount

from tests.backends.aws_api import ACCOUNT, REGION, Aws, Container, Json, Refused

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
CAPACITY = (
    "CapacityError: Unable to provision requested ML compute capacity. Please retry using a different ML instance type."
)
NO_IMAGE = (
    "ClientError: Cannot pull algorithm container. Either the image does not exist or its permissions are incorrect."
)
NO_MEMORY = (
    "ClientError: Please use an instance type with more memory, "
    "or reduce the size of job data processed on an instance."
)
# Of a spot instance's time, what is billed.
SPOT_SHARE = 0.3
_GRACE = 120


class SageMaker:
    """The training jobs of an account.

    :param folder: where what containers see below /opt/ml lies.
    """

    def __init__(self, aws: Aws, folder: Path) -> None:
        self.aws = aws
        self.folder = folder
        # By name; a name is never forgotten but by `vanish`.
        self.jobs: dict[str, TrainingJob] = {}
        # By instance type, what a container may use; tests cannot fill a real one's.
        self.memory: dict[str, str] = {}
        # What the next calls of CreateTrainingJob are answered, and how the next jobs end before they begin.
        self.refusals: list[Refused] = []
        self.failures: list[str] = []
        # Cleared while there are none to be had.
        self.instances = threading.Event()
        self.instances.set()
        aws.services["SageMaker"] = (
            "sagemaker",
            {
                "CreateTrainingJob": self._create,
                "DescribeTrainingJob": lambda given: self._job(given).description,
                "StopTrainingJob": self._stop,
            },
        )

    def close(self) -> None:
        """End every job."""
        for job in list(self.jobs.values()):
            job.end()

    @property
    def only_job(self) -> TrainingJob:
        """The one that was created."""
        (job,) = self.jobs.values()
        return job

    def _create(self, request: Json) -> Json:
        if self.refusals:
            raise self.refusals.pop(0)
        name = request["TrainingJobName"]
        if name in self.jobs:
            raise Refused("ResourceInUse", f"Training job names must be unique: {name} is taken.")
        _check(request)
        self.jobs[name] = TrainingJob(self, request)
        return {"TrainingJobArn": self.jobs[name].arn}

    def _job(self, given: Json) -> TrainingJob:
        if given["TrainingJobName"] not in self.jobs:
            raise Refused("ValidationException", "Requested resource not found.")
        return self.jobs[given["TrainingJobName"]]

    def _stop(self, given: Json) -> Json:
        job = self._job(given)
        if job.over:
            told = f"The request was rejected because the training job is in status {job.status}."
            raise Refused("ValidationException", told)
        job.stop("Stopped")
        return {}


def _check(request: Json) -> None:
    """What the service checks besides its model."""
    condition = request.get("StoppingCondition", {})
    runtime, wait = condition.get("MaxRuntimeInSeconds", 86_400), condition.get("MaxWaitTimeInSeconds")
    spot = request.get("EnableManagedSpotTraining", False)
    if (wait is not None) != spot or (wait is not None and wait < runtime):
        raise Refused("ValidationException", f"Invalid MaxWaitTimeInSeconds: {wait}")
    if len({tag["Key"] for tag in request.get("Tags", [])}) < len(request.get("Tags", [])):
        raise Refused("ValidationException", "Duplicate tag keys found.")


class TrainingJob:
    """One job and, while it trains, its container."""

    def __init__(self, account: SageMaker, request: Json) -> None:
        self.account = account
        self.request = request
        self.name: str = request["TrainingJobName"]
        self.arn = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:training-job/{self.name}"
        self.folder = account.folder / self.name
        self.status = "InProgress"
        self.reason = ""
        self.transitions: list[Json] = []
        self.container: Container | None = None
        self.starts = 0
        self._created = time.time()
        self._trained = 0.0
        self._lock = threading.RLock()
        # By which secondary status it was asked to end, and whether its spot instance is being taken away.
        self._stopping = ""
        self._interrupted = False
        self._failure = account.failures.pop(0) if account.failures else ""
        self._enter("Starting", "Starting the training job")
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.status in ("Completed", "Failed", "Stopped")

    @property
    def description(self) -> Json:
        """DescribeTrainingJob's answer."""
        with self._lock:
            given = {name: value for name, value in self.request.items() if name != "Tags"}
            told = {
                **given,
                "TrainingJobArn": self.arn,
                "TrainingJobStatus": self.status,
                "SecondaryStatus": self.transitions[-1]["Status"],
                "SecondaryStatusTransitions": list(self.transitions),
                "CreationTime": self._created,
                "LastModifiedTime": self.transitions[-1]["StartTime"],
            }
            if self.reason:
                told["FailureReason"] = self.reason
            if self.starts:
                told["TrainingStartTime"] = self._created
            if self.over and self.starts:
                share = SPOT_SHARE if self.request.get("EnableManagedSpotTraining") else 1
                told["TrainingTimeInSeconds"] = math.ceil(self._trained)
                told["BillableTimeInSeconds"] = math.ceil(share * self._trained)
            return told

    def stop(self, end: str) -> None:
        """SIGTERM, and SIGKILL when the grace period is over."""
        with self._lock:
            if self.over or self._stopping:
                return
            self._stopping = end
            self.status = "Stopping"
            self._enter("Stopping", "Stopping the training job")
            self._stop_container()

    def interrupt(self) -> None:
        """Take its spot instance away; it begins anew on another."""
        with self._lock:
            self._interrupted = True
            self._stop_container()

    def vanish(self) -> None:
        """Be forgotten."""
        self.account.jobs.pop(self.name)
        self.end()

    def end(self) -> None:
        """At once."""
        with self._lock:
            self._stopping = "Stopped"
            if self.container:
                self.container.kill()

    def _stop_container(self) -> None:
        if self.container:
            threading.Thread(target=self.container.stop, args=(_GRACE,), daemon=True).start()

    def _enter(self, state: str, message: str) -> None:
        with self._lock:
            moment = time.time()
            if self.transitions:
                self.transitions[-1]["EndTime"] = moment
            self.transitions.append({"Status": state, "StartTime": moment, "StatusMessage": message})

    def _run(self) -> None:
        condition = self.request.get("StoppingCondition", {})
        limits = [("MaxRuntimeInSeconds", "MaxRuntimeExceeded"), ("MaxWaitTimeInSeconds", "MaxWaitTimeExceeded")]
        timers = [threading.Timer(condition[name], self.stop, [end]) for name, end in limits if name in condition]
        for timer in timers:
            timer.daemon = True
            timer.start()
        try:
            while (end := self._train()) is None:
                self._enter("Starting", "Preparing the instances for training")
        finally:
            for timer in timers:
                timer.cancel()
        with self._lock:
            self.status, state, self.reason = end
            self._enter(state, self.reason)

    def _train(self) -> tuple[str, str, str] | None:
        """One start of the program; status, secondary status and reason of the job's end, or None to start again."""
        if self._failure:
            return "Failed", "Failed", self._failure
        while not self._stopping and not self.account.instances.wait(0.05):
            pass
        self._lay_out()
        self._enter("Downloading", "Downloading the training image")
        with self._lock:
            if self._stopping:
                return "Stopped", self._stopping, ""
            try:
                self.container = container = self._make()
            except APIError:
                return "Failed", "Failed", NO_IMAGE
            self._interrupted = False
            self.starts += 1
            started = time.monotonic()
            self._enter("Training", "Training image download completed. Training in progress.")
            container.start(LOG_GROUP, f"{self.name}/algo-1-{time.time_ns() // 10**6}")
        exit_code = container.wait()
        state = container.state
        with self._lock:
            self._trained += time.monotonic() - started
            self.container = None
            container.remove()
            if self._interrupted and not self._stopping:
                self._enter("Interrupted", "The spot instance was taken away")
                return None
            self._enter("Uploading", "Uploading generated training model")
            if self._stopping:
                return "Stopped", self._stopping, ""
            if state.get("OOMKilled"):
                return "Failed", "Failed", NO_MEMORY
            if exit_code:
                file = self.folder / "output" / "failure"
                told = file.read_text()[:1024] if file.exists() else ""
                return "Failed", "Failed", f"AlgorithmError: {told}, exit code: {exit_code}"
            return "Completed", "Completed", ""

    def _lay_out(self) -> None:
        """A fresh instance's /opt/ml."""
        shutil.rmtree(self.folder, ignore_errors=True)
        config = self.folder / "input" / "config"
        config.mkdir(parents=True)
        hosts = {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"}
        (config / "hyperparameters.json").write_text(json.dumps(self.request.get("HyperParameters", {})))
        (config / "resourceconfig.json").write_text(json.dumps(hosts))
        for name in ("output", "model", "checkpoints"):
            (self.folder / name).mkdir()
            (self.folder / name).chmod(0o777)

    def _make(self) -> Container:
        memory = self.account.memory.get(self.request["ResourceConfig"]["InstanceType"])
        limits: dict[str, Any] = {"mem_limit": memory} if memory else {}
        told = {"TRAINING_JOB_NAME": self.name, "TRAINING_JOB_ARN": self.arn}
        return Container(
            self.account.aws,
            self.request["AlgorithmSpecification"]["TrainingImage"],
            ["train"],
            {**told, **self.request.get("Environment", {})},
            mounts=[Mount("/opt/ml", str(self.folder), type="bind")],
            **limits,
        )
