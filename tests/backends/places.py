"""Places where stage programs do what a test says: processes, containers of a real engine, pods that are such."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import docker
import docker.errors
import psutil
import pytest
import yaml

from airflow_provider_e2e3d.backends.base import Backend, JobSpec, JobStatus
from airflow_provider_e2e3d.jobs.attempt import Attempt, AttemptState, retry_while_unavailable
from airflow_provider_e2e3d.profiles.profile import backend_class
from e2e3d_stages.contract.messages import Claim, Request, now
from e2e3d_stages.registry import STAGES
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.leases import Watch
from e2e3d_stages.store.opening import open_storage
from tests.backends.aws_api import ACCOUNT, REGION, Aws
from tests.backends.doubles import Disturbance
from tests.backends.ecs_api import Ecs
from tests.backends.engine_proxy import EngineProxy
from tests.backends.kubernetes_api import Cluster
from tests.backends.sagemaker_api import NO_MEMORY, SageMaker
from tests.conftest import until
from tests.provider.conftest import Script, told_container, told_pods, told_profiles

KEY = "0123456789abcdef" * 2


def never_claimed(number: int) -> Claim:
    """A claim that is in no store."""
    epoch = dt.datetime.fromtimestamp(0, dt.timezone.utc)
    return Claim(owner="test", attempt=number, claimed=epoch)


# A client of S3 takes a while to make.
_opened = lru_cache(ArtifactStore.open)


class Place:
    """A profile of a test's own, named as its backend.

    :param capture: where its one capture lies: a folder or an address.
    :param settings: what `default` says; a test may change it before it runs anything.
    :param environment: what Airflow is told by its environment.
    """

    name: ClassVar[str]
    # What makes training need too much memory at first, by the script's word.
    out_of_memory: ClassVar[str] = "eat memory"
    # What the place says of it.
    says_of_memory: ClassVar[str] = "needed more memory than its limit"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.script = Script(folder / "script")
        statue = folder / "captures" / "statue"
        statue.mkdir(parents=True)
        (statue / "1.jpg").write_bytes(b"a photo")
        self.capture = str(statue)
        self.profile: dict[str, Any] = {
            "store": (folder / "store").as_uri(),
            "captures": [(folder / "captures").as_uri()],
            "preset": "draft",
        }
        self.settings: dict[str, Any] = {"backend": self.name, "poll_seconds": 0.05}
        self.environment = {"AIRFLOW__E2E3D__PROFILES_FILE": str(folder / "profiles.yaml")}

    @property
    def store(self) -> ArtifactStore:
        """Where its artifacts lie."""
        return _opened(self.profile["store"])

    def write(self) -> None:
        """Make the profile file what it is to be."""
        profile = {**self.profile, "stages": {"default": self.settings}}
        (self.folder / "profiles.yaml").write_text(yaml.safe_dump({self.name: profile}))

    def backend(self, **settings: Any) -> Backend:
        """The backend with the place's settings and some of the test's own."""
        made = backend_class(self.name)
        return made(made.Settings.model_validate({**self.settings, **settings}))

    def claim(self, number: int) -> Claim:
        """The claim of an attempt, or one that was never taken."""
        return self.store.read_claim("ingest", KEY, number) or never_claimed(number)

    def job(self, number: int = 1, **values: Any) -> JobSpec:
        """An attempt at ingest as a job."""
        uri = self.store.request_uri("ingest", KEY, number)
        return JobSpec(stage="ingest", key=KEY, claim=self.claim(number), request_uri=uri, **values)

    def attempt(self, *, environment: dict[str, str] | None = None, **settings: Any) -> Attempt:
        """A job of ingest that was just submitted for a claimed attempt."""
        self.write()
        store = self.store
        claim = store.claim("ingest", KEY, "test", Watch(0))
        assert claim is not None
        params = STAGES["ingest"].resolve("draft", {}).model_dump(mode="json")
        version = STAGES["ingest"].version
        store.write_request(
            Request(stage="ingest", stage_version=version, key=KEY, attempt=claim.attempt, params=params)
        )
        backend = self.backend(**settings)
        job = self.job(claim.attempt, environment=environment or {})
        handle = retry_while_unavailable(lambda: backend.submit(job))
        return Attempt(
            store, backend, AttemptState(profile=self.name, stage="ingest", key=KEY, claim=claim, handle=handle)
        )

    def limit_memory(self) -> None:
        """Give every stage too little for the word `out_of_memory`."""

    def left(self) -> list[Any]:
        """Whatever of its jobs is there, running or not."""
        raise NotImplementedError

    def remove(self, attempt: Attempt) -> None:
        """Take a job away without a trace."""
        raise NotImplementedError

    def disturb(self, kind: str, seconds: float) -> Disturbance:
        """Keep the place's API `busy` or `away` for a while."""
        pytest.skip("the place has no API beyond this machine")

    def close(self) -> None:
        """Leave nothing."""


def follow(made: Attempt, lines: list[str] | None = None) -> int | None:
    """Wait for the end as StageOperator does; returns the exit status."""
    written = lines if lines is not None else []
    seen: list[JobStatus] = []

    def ended() -> bool:
        seen.append(made.follow(written.append))
        return not seen[-1].running

    until(ended)
    return seen[-1].exit_code


class LocalPlace(Place):
    """Processes of this machine."""

    name = "local"
    out_of_memory = "out of memory"
    says_of_memory = "The GPU's memory ran out"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        told_profiles(folder / "profiles.yaml", folder / "captures", self.script)
        self.settings["python"] = str(folder / "python")

    def left(self) -> list[psutil.Process]:
        """Whatever still runs for the store."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            about = (process.info["cmdline"] or [""])[-1]
            if about.startswith(self.profile["store"]) and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found

    def remove(self, attempt: Attempt) -> None:
        psutil.Process(attempt.state.handle["pid"]).kill()

    def close(self) -> None:
        for process in self.left():
            # It may end between the two.
            with suppress(psutil.NoSuchProcess):
                process.kill()


class DockerPlace(Place):
    """Containers of this machine's engine."""

    name = "docker"

    def __init__(self, folder: Path, image: str, engine: docker.APIClient) -> None:
        super().__init__(folder)
        self.engine = engine
        self.mark = uuid.uuid4().hex
        self.proxy = EngineProxy(folder / "engine")
        self.settings |= {
            "image": image,
            "docker_url": self.proxy.url,
            **told_container(self.script),
            "labels": {"e2e3d-test": self.mark},
        }

    def left(self) -> list[dict[str, Any]]:
        """Every container of this test, running or not."""
        filters = {"label": f"e2e3d-test={self.mark}"}
        found = []
        for each in self.engine.containers(all=True, filters=filters):
            # It may be removed between the two questions.
            with suppress(docker.errors.NotFound):
                found.append(self.engine.inspect_container(each["Id"]))
        return found

    def limit_memory(self) -> None:
        self.settings["mem_limit"] = "200m"

    def remove(self, attempt: Attempt) -> None:
        self.engine.remove_container(attempt.state.handle["container"], v=True, force=True)

    def disturb(self, kind: str, seconds: float) -> Disturbance:
        return self.proxy.disturb(kind, seconds)

    def close(self) -> None:
        self.proxy.close()
        for container in self.left():
            # Its reaper may be about to.
            with suppress(docker.errors.APIError):
                self.engine.remove_container(container["Id"], v=True, force=True)


class KubernetesPlace(Place):
    """Pods of a small cluster of the test's own, whose containers are real."""

    name = "kubernetes"

    def __init__(self, folder: Path, image: str, engine: docker.APIClient) -> None:
        super().__init__(folder)
        self.cluster = Cluster(engine)
        (folder / "store").mkdir()
        kubeconfig = self.cluster.kubeconfig(folder / "kubeconfig")
        told = told_pods(self.script, kubeconfig, folder / "store", folder / "captures")
        self.settings |= {"image": image, **told}

    def left(self) -> list[dict[str, Any]]:
        """Every pod and Secret."""
        # Copied first: pods come and go meanwhile.
        return [*(pod.object for pod in list(self.cluster.pods.values())), *list(self.cluster.secrets.values())]

    def limit_memory(self) -> None:
        self.settings["container_resources"] = {"limits": {"memory": "200Mi"}}

    def remove(self, attempt: Attempt) -> None:
        self.cluster.pods["splats", attempt.state.handle["pod"]].vanish()

    def disturb(self, kind: str, seconds: float) -> Disturbance:
        return self.cluster.answer(429 if kind == "busy" else None, seconds=seconds)

    def close(self) -> None:
        self.cluster.close()


class AwsPlace(Place):
    """Jobs of an AWS of the test's own, whose containers are real; store and capture lie in a bucket."""

    def __init__(self, folder: Path, image: str, engine: docker.APIClient, s3_endpoint: str, s3_root: str) -> None:
        super().__init__(folder)
        self.script.folder.chmod(0o777)
        # Stands for the role that jobs have.
        role = {
            "AWS_ENDPOINT_URL_S3": s3_endpoint,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": REGION,
        }
        self.aws = Aws(engine, s3_endpoint, [self.script.folder], role)
        open_storage(s3_root, role).write("captures/statue/1.jpg", b"a photo")
        self.capture = f"{s3_root}/captures/statue"
        self.profile |= {"store": f"{s3_root}/store", "captures": [f"{s3_root}/captures"]}
        self.settings |= {"image": image, "aws_conn_id": "aws_of_the_test", "region_name": REGION}
        connection = {
            "conn_type": "aws",
            "login": "airflow",
            "password": "hush-hush-secret-key",
            "extra": {"endpoint_url": self.aws.endpoint},
        }
        self.environment["AIRFLOW_CONN_AWS_OF_THE_TEST"] = json.dumps(connection)

    def disturb(self, kind: str, seconds: float) -> Disturbance:
        return self.aws.answer("ThrottlingException" if kind == "busy" else None, seconds=seconds)

    def close(self) -> None:
        self.aws.close()


class SageMakerPlace(AwsPlace):
    """Training jobs."""

    name = "sagemaker"
    says_of_memory = NO_MEMORY

    def __init__(self, folder: Path, image: str, engine: docker.APIClient, s3_endpoint: str, s3_root: str) -> None:
        super().__init__(folder, image, engine, s3_endpoint, s3_root)
        self.sagemaker = SageMaker(self.aws, folder / "instances")
        self.settings |= {
            "RoleArn": "arn:aws:iam::123456789012:role/e2e3d-stages",
            "ResourceConfig": {"InstanceType": "ml.m5.xlarge"},
            "Environment": {"E2E3D_TEST_SCRIPT": str(self.script.folder)},
        }

    def left(self) -> list[Any]:
        """Every job that is not over, and every container."""
        running = [name for name, job in list(self.sagemaker.jobs.items()) if not job.over]
        return [*running, *self.aws.containers()]

    def limit_memory(self) -> None:
        self.sagemaker.memory["ml.m5.large"] = "200m"
        self.settings["ResourceConfig"] = {"InstanceType": "ml.m5.large"}

    def remove(self, attempt: Attempt) -> None:
        self.sagemaker.jobs[attempt.state.handle["job"]].vanish()

    def close(self) -> None:
        self.sagemaker.close()
        super().close()


class EcsPlace(AwsPlace):
    """Tasks of a cluster on Fargate."""

    name = "ecs"
    says_of_memory = "OutOfMemoryError"

    def __init__(self, folder: Path, **needs: Any) -> None:
        super().__init__(folder, **needs)
        self.ecs = Ecs(self.aws)
        self.aws.client("ecs").create_cluster(clusterName="splats")
        self.settings |= {
            "cluster": "splats",
            "launchType": "FARGATE",
            "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-1"]}},
            "task_definition": {
                "cpu": "1024",
                "memory": "2048",
                "executionRoleArn": f"arn:aws:iam::{ACCOUNT}:role/e2e3d-ecs-execution",
                "taskRoleArn": f"arn:aws:iam::{ACCOUNT}:role/e2e3d-ecs-task",
            },
            "container": {"environment": [{"name": "E2E3D_TEST_SCRIPT", "value": str(self.script.folder)}]},
        }

    def left(self) -> list[dict[str, Any]]:
        """Every task that has not ended."""
        return [task.object for task in list(self.ecs.tasks.values()) if task.object["lastStatus"] != "STOPPED"]

    def limit_memory(self) -> None:
        self.settings["container"]["memory"] = 200

    def remove(self, attempt: Attempt) -> None:
        # Of a task that is a few seconds old, ECS itself may not know yet.
        attempt.state.handle["created"] = (now() - dt.timedelta(minutes=1)).isoformat()
        self.ecs.tasks[attempt.state.handle["task"]].vanish()

    def close(self) -> None:
        self.ecs.close()
        super().close()
