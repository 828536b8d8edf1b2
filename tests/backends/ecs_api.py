"""ECS for tests: tasks run real containers; clusters and task definitions are moto's."""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from typing import Any

from docker.errors import ImageNotFound
from docker.types import Mount

from tests.backends.aws_api import ACCOUNT, REGION, Aws, Container, Json, Refused

# How long a task stays in a state that passes.
_TICK = 0.05


class Ecs:
    """Clusters of an account.

    :param aws: the account.
    :param gpus: of the one instance that clusters have besides Fargate.
    """

    def __init__(self, aws: Aws, gpus: int = 0) -> None:
        self.aws = aws
        self.gpus = gpus
        self.tasks: dict[str, Task] = {}
        # Every RunTask that was accepted.
        self.requests: list[Json] = []
        # Cleared, tasks wait for a machine.
        self.machine_there = threading.Event()
        self.machine_there.set()
        # What the next calls of RunTask are answered instead of success: failures, or an error's code and message.
        self.no_room: list[list[Json] | tuple[str, str]] = []
        self._tokens: dict[tuple[str, str], tuple[Json, Task]] = {}
        self._lock = threading.Lock()
        operations = {
            "RunTask": self.run_task,
            "ListTasks": self.list_tasks,
            "DescribeTasks": self.describe_tasks,
            "StopTask": self.stop_task,
        }
        aws.services["AmazonEC2ContainerServiceV20141113"] = ("ecs", operations)

    def close(self) -> None:
        """End every task."""
        self.machine_there.set()
        for task in list(self.tasks.values()):
            task.end()

    def only_task(self) -> Task:
        """The one task there is."""
        (task,) = self.tasks.values()
        return task

    def definition(self, name: str) -> Json:
        """A task definition as moto keeps it."""
        found: Json = self.aws.client("ecs").describe_task_definition(taskDefinition=name)["taskDefinition"]
        return found

    # The API

    def run_task(self, given: Json) -> Json:
        """Start a task, or answer as before."""
        cluster = self._cluster(given)
        _check(given)
        with self._lock:
            token = (cluster, given["clientToken"])
            if token in self._tokens:
                before, task = self._tokens[token]
                if before != given:
                    raise Refused("ConflictException", "The clientToken is in use with a different request.")
                return {"tasks": [task.object], "failures": []}
            if self.no_room:
                refusal = self.no_room.pop(0)
                if isinstance(refusal, tuple):
                    raise Refused(*refusal)
                return {"tasks": [], "failures": refusal}
            definition = self._definition_for(given)
            if failures := self._failures(definition):
                return {"tasks": [], "failures": failures}
            task = Task(self, cluster, given, definition)
            self._tokens[token] = (given, task)
            self.tasks[task.arn] = task
            self.requests.append(given)
        task.thread.start()
        return {"tasks": [task.object], "failures": []}

    def list_tasks(self, given: Json) -> Json:
        """Names of tasks that are to run, or of those that are to be stopped."""
        cluster, status = self._cluster(given), given.get("desiredStatus", "RUNNING")
        found = [
            task.arn
            for task in list(self.tasks.values())
            if (task.cluster, task.object["desiredStatus"]) == (cluster, status)
            and given.get("startedBy") in (None, task.object.get("startedBy"))
        ]
        return {"taskArns": found}

    def describe_tasks(self, given: Json) -> Json:
        """Tasks as they are."""
        self._cluster(given)
        found = {arn: self.tasks.get(arn) for arn in given["tasks"]}
        return {
            "tasks": [task.object for task in found.values() if task],
            "failures": [{"arn": arn, "reason": "MISSING"} for arn, task in found.items() if not task],
        }

    def stop_task(self, given: Json) -> Json:
        """Ask a task to end."""
        self._cluster(given)
        task = self.tasks.get(given["task"])
        if task is None:
            raise Refused("InvalidParameterException", "The referenced task was not found.")
        task.stop("UserInitiated", given.get("reason", "Task stopped by user"))
        return {"task": task.object}

    def _cluster(self, given: Json) -> str:
        name = given.get("cluster", "default").rpartition("/")[2]
        if not self.aws.client("ecs").describe_clusters(clusters=[name])["clusters"]:
            raise Refused("ClusterNotFoundException", "Cluster not found.")
        return str(name)

    def _definition_for(self, given: Json) -> Json:
        definition = self.definition(given["taskDefinition"])
        if definition.get("networkMode") == "awsvpc" and "networkConfiguration" not in given:
            raise Refused(
                "InvalidParameterException",
                "Network Configuration must be provided when networkMode 'awsvpc' is specified.",
            )
        if given.get("launchType") == "FARGATE" and "FARGATE" not in definition.get("requiresCompatibilities", []):
            raise Refused(
                "InvalidParameterException",
                "Task definition does not support launch_type FARGATE.",
            )
        return definition

    def _failures(self, definition: Json) -> list[Json]:
        (container,) = definition["containerDefinitions"]
        wanted = [int(each["value"]) for each in container.get("resourceRequirements", []) if each["type"] == "GPU"]
        if sum(wanted) <= self.gpus:
            return []
        instance = f"arn:aws:ecs:{REGION}:{ACCOUNT}:container-instance/splats/{uuid.uuid4().hex}"
        return [{"arn": instance, "reason": "RESOURCE:GPU"}]


def _check(given: Json) -> None:
    """What ECS's documentation says of RunTask's values and its model does not."""
    overrides = given.get("overrides", {})
    problems = {
        "startedBy": re.fullmatch(r"[\w/-]{1,128}", given["startedBy"]),
        "clientToken": re.fullmatch(r"[!-~]{1,64}", given["clientToken"]),
        "tags": all(re.fullmatch(r"[\w\s+\-=.:/@]{0,256}", each["value"]) for each in given.get("tags", [])),
        "overrides": len(json.dumps(overrides)) <= 8192,
        "launchType": not ("launchType" in given and "capacityProviderStrategy" in given),
    }
    if wrong := [name for name, fits in problems.items() if not fits]:
        raise Refused("InvalidParameterException", f"Invalid {', '.join(wrong)}")


class Task:
    """A task and what its machine does for it."""

    def __init__(self, ecs: Ecs, cluster: str, given: Json, definition: Json) -> None:
        self.ecs = ecs
        self.cluster = cluster
        self.arn = f"arn:aws:ecs:{REGION}:{ACCOUNT}:task/{cluster}/{uuid.uuid4().hex}"
        (self.spec,) = definition["containerDefinitions"]
        self.definition = definition
        (self.override,) = given["overrides"]["containerOverrides"]
        self.container: Container | None = None
        providers = [each["capacityProvider"] for each in given.get("capacityProviderStrategy", [])]
        fargate = given.get("launchType") == "FARGATE" or any(name.startswith("FARGATE") for name in providers)
        self.object: Json = {
            "taskArn": self.arn,
            "clusterArn": f"arn:aws:ecs:{REGION}:{ACCOUNT}:cluster/{cluster}",
            "taskDefinitionArn": definition["taskDefinitionArn"],
            "createdAt": time.time(),
            "startedBy": given.get("startedBy"),
            "launchType": "FARGATE" if fargate else "EC2",
            "lastStatus": "PROVISIONING",
            "desiredStatus": "RUNNING",
            "containers": [{"name": self.spec["name"], "image": self.spec["image"], "lastStatus": "PENDING"}],
        }
        self.thread = threading.Thread(target=self.live, daemon=True)
        self._stopping = threading.Event()
        self._lock = threading.Lock()

    # What tests demand

    def interrupt(self) -> None:
        """Fargate needs its spot capacity back."""
        self.stop("SpotInterruption", "Your Spot Task was interrupted.")

    def lose_host(self) -> None:
        """Its instance goes, and everything on it at once."""
        self._mark("TerminationNotice", "Host EC2 (instance i-0123456789abcdef0) terminated.")
        if self.container:
            self.container.kill()

    def vanish(self) -> None:
        """ECS has forgotten it."""
        del self.ecs.tasks[self.arn]
        if self.container:
            self.container.remove()

    def end(self) -> None:
        """At once; returns when nothing goes on."""
        self._mark("UserInitiated", "The test is over.")
        if self.container:
            self.container.kill()
        self.thread.join(30)

    # What the API demands

    def stop(self, code: str, reason: str) -> None:
        """SIGTERM, and SIGKILL when the container's time to stop is over."""
        if self._mark(code, reason) and self.container:
            grace = self.spec.get("stopTimeout", 30)
            threading.Thread(target=self.container.stop, args=(grace,), daemon=True).start()

    def _mark(self, code: str, reason: str) -> bool:
        with self._lock:
            if self._stopping.is_set():
                return False
            self._stopping.set()
            self._now(desiredStatus="STOPPED", stopCode=code, stoppedReason=reason, stoppingAt=time.time())
            return True

    # What its machine does

    def live(self) -> None:
        """From nothing to the end."""
        time.sleep(_TICK)
        self.ecs.machine_there.wait()
        self._now(lastStatus="PENDING", pullStartedAt=time.time())
        told = self._pull()
        if told:
            self._mark("TaskFailedToStart", told)
        if self._stopping.is_set():
            return self._end({"reason": told} if told else {})
        self._now(pullStoppedAt=time.time())
        log = self.spec.get("logConfiguration", {})
        options = log["options"] if log.get("logDriver") == "awslogs" else {}
        stream = f"{options.get('awslogs-stream-prefix')}/{self.spec['name']}/{self.arn.rpartition('/')[2]}"
        with self._lock:
            self.container = self._make()
            self.container.start(options.get("awslogs-group"), stream)
            self._now(lastStatus="RUNNING", startedAt=time.time())
        if self._stopping.is_set():
            self.container.stop(self.spec.get("stopTimeout", 30))
        exit_code = self.container.wait()
        ended: Json = {"exitCode": exit_code}
        if self.container.state.get("OOMKilled"):
            ended["reason"] = "OutOfMemoryError: Container killed due to memory usage"
        self._mark("EssentialContainerExited", "Essential container in task exited")
        return self._end(ended)

    def _end(self, container: Json) -> None:
        (before,) = self.object["containers"]
        ended = {**before, **container, "lastStatus": "STOPPED"}
        self._now(lastStatus="DEPROVISIONING", containers=[ended], executionStoppedAt=time.time())
        time.sleep(_TICK)
        self._now(lastStatus="STOPPED", stoppedAt=time.time())

    def _now(self, **changes: Any) -> None:
        # Replaced, so that a reader never sees half a change.
        self.object = {**self.object, **changes}

    def _pull(self) -> str | None:
        """Why the image cannot be had."""
        image = self.spec["image"]
        try:
            self.ecs.aws.engine.inspect_image(image)
            return None
        except ImageNotFound:
            why = "dial tcp 10.0.0.9:443: i/o timeout" if "unreachable" in image else f"{image}: not found"
            return (
                "CannotPullContainerError: pull image manifest has been retried 1 time(s): "
                f"failed to resolve ref {image}: {why}"
            )

    def _make(self) -> Container:
        linux = self.spec.get("linuxParameters", {})
        capabilities = linux.get("capabilities", {})
        memory = self.spec.get("memory") or self.definition.get("memory")
        environment = [*self.spec.get("environment", []), *self.override.get("environment", [])]
        return Container(
            self.ecs.aws,
            self.spec["image"],
            self.override["command"],
            {each["name"]: each["value"] for each in environment},
            mounts=[self._mount(each) for each in self.spec.get("mountPoints", [])],
            user=self.spec.get("user"),
            mem_limit=int(memory) << 20 if memory else None,
            read_only=self.spec.get("readonlyRootFilesystem", False),
            cap_drop=capabilities.get("drop"),
            cap_add=capabilities.get("add"),
            init=linux.get("initProcessEnabled", False),
        )

    def _mount(self, point: Json) -> Mount:
        """A volume; an empty one is root's alone, unless the image's VOLUME says otherwise."""
        (volume,) = (each for each in self.definition["volumes"] if each["name"] == point["sourceVolume"])
        folder = volume.get("host", {}).get("sourcePath")
        if folder:
            return Mount(point["containerPath"], folder, type="bind")
        image = self.ecs.aws.engine.inspect_image(self.spec["image"])
        told = point["containerPath"] in (image["Config"].get("Volumes") or {})
        return Mount(point["containerPath"], None, type="volume", no_copy=not told)
