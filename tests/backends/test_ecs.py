"""Stages as ECS tasks: what only ECS knows; what every backend does alike is in test_conformance.py."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_provider_e2e3d.backends.base import JobStatus
from airflow_provider_e2e3d.backends.ecs.settings import EcsSettings
from airflow_provider_e2e3d.backends.ecs.status import job_status, vanished
from airflow_provider_e2e3d.jobs.attempt import Attempt, AttemptState
from airflow_provider_e2e3d.profiles.file import profile_named, read_profiles
from e2e3d_stages import __version__
from e2e3d_stages.contract.messages import Failure, FailureCode, Infrastructure, InvalidRequest, Request, now
from e2e3d_stages.registry import STAGES
from e2e3d_stages.store.captures import list_capture_files
from e2e3d_stages.store.leases import Watch
from e2e3d_stages.store.opening import open_storage
from tests.airflow_runs import Outcome
from tests.backends.ecs_api import Task
from tests.backends.places import KEY, EcsPlace, follow
from tests.conftest import until

pytestmark = pytest.mark.slow

Run = Callable[..., Outcome]

FARGATE: dict[str, Any] = {
    "backend": "ecs",
    "launchType": "FARGATE",
    "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-1"]}},
    "task_definition": {"cpu": "4096", "memory": "16384", "executionRoleArn": "arn:aws:iam::123456789012:role/x"},
}
EC2: dict[str, Any] = {
    "backend": "ecs",
    "capacityProviderStrategy": [{"capacityProvider": "gpus"}],
    "container": {"memory": 2048, "resourceRequirements": [{"type": "GPU", "value": "1"}]},
}


@pytest.fixture
def place(make_place: Callable[[str], EcsPlace]) -> EcsPlace:
    """A cluster of the test's own."""
    return make_place("ecs")


def on_ec2(place: EcsPlace) -> None:
    """Let the place have an instance with a GPU instead of Fargate."""
    place.ecs.gpus = 1
    container = {**EC2["container"], **place.settings["container"]}
    for name in ("launchType", "networkConfiguration", "task_definition"):
        del place.settings[name]
    place.settings |= {**EC2, "container": container}


def definition_of(place: EcsPlace) -> dict[str, Any]:
    """The task definition of the one job, as ECS has it."""
    return place.ecs.definition(place.ecs.only_task().object["taskDefinitionArn"])


def ended(place: EcsPlace, **settings: Any) -> JobStatus:
    """How a job ends."""
    made = place.attempt(**settings)
    until(lambda: not made.follow(print).running)
    return made.backend.poll(made.state.handle)


# The task


def test_a_task_says_whose_it_is_and_is_asked_for_once(place: EcsPlace) -> None:
    place.ecs.machine_there.clear()
    place.attempt(tags=[{"key": "team", "value": "scans"}])
    (request,) = place.ecs.requests
    job = place.job()
    assert request["startedBy"] == request["clientToken"] == job.name
    assert {tag["key"]: tag["value"] for tag in request["tags"]} == {
        "team": "scans",
        "e2e3d.stage": "ingest",
        "e2e3d.key": KEY,
        "e2e3d.attempt": "1",
        "e2e3d.owner": "test",
    }
    (own,) = request["overrides"]["containerOverrides"]
    assert own["command"] == ["run", job.request_uri]
    environment = {each["name"]: each["value"] for each in own["environment"]}
    assert environment == {"AWS_DEFAULT_REGION": "us-east-1", "E2E3D_IMAGE": place.settings["image"]}
    assert request["cluster"] == "splats"


def test_a_task_can_do_little_and_write_nowhere_but_its_scratch(place: EcsPlace) -> None:
    place.ecs.machine_there.clear()
    place.attempt()
    definition = definition_of(place)
    (container,) = definition["containerDefinitions"]
    assert container["readonlyRootFilesystem"] is True
    assert container["linuxParameters"] == {"initProcessEnabled": False, "capabilities": {"drop": ["ALL"]}}
    assert container["mountPoints"] == [
        {"sourceVolume": "e2e3d-scratch", "containerPath": "/tmp", "readOnly": False},
    ]
    assert definition["volumes"] == [{"name": "e2e3d-scratch"}]
    assert container["stopTimeout"] == 120
    assert container["image"] == place.settings["image"]
    assert "user" not in container
    assert (definition["networkMode"], definition["requiresCompatibilities"]) == ("awsvpc", ["FARGATE"])
    assert container["logConfiguration"] == {
        "logDriver": "awslogs",
        "options": {
            "awslogs-group": "/e2e3d",
            "awslogs-region": "us-east-1",
            "awslogs-stream-prefix": "e2e3d",
            "awslogs-create-group": "true",
        },
    }


def test_what_the_profile_says_reaches_ecs_and_goes_before_what_it_leaves_open(place: EcsPlace) -> None:
    place.ecs.machine_there.clear()
    on_ec2(place)
    more = yaml.safe_load("""
        placementConstraints: [{type: distinctInstance}]
        propagateTags: TASK_DEFINITION
        enableExecuteCommand: true
        group: scans
        overrides: {memory: "4096", taskRoleArn: "arn:aws:iam::123456789012:role/other"}
        task_definition:
          networkMode: host
          requiresCompatibilities: [EC2]
          runtimePlatform: {cpuArchitecture: X86_64}
          volumes: [{name: fast, host: {sourcePath: /tmp}}]
        container:
          memory: 2000
          memoryReservation: 1000
          user: "0"
          stopTimeout: 60
          ulimits: [{name: nofile, softLimit: 4096, hardLimit: 4096}]
          linuxParameters: {sharedMemorySize: 1024}
          mountPoints: [{sourceVolume: fast, containerPath: /tmp}]
          repositoryCredentials: {credentialsParameter: "arn:aws:secretsmanager:us-east-1:123456789012:secret:registry"}
          secrets: [{name: TOKEN, valueFrom: "arn:aws:ssm:us-east-1:123456789012:parameter/token"}]
    """)
    more["container"] = {**EC2["container"], **more["container"]}
    place.attempt(**more)
    (request,) = place.ecs.requests
    for name in ("placementConstraints", "propagateTags", "enableExecuteCommand", "group"):
        assert request[name] == more[name]
    assert request["capacityProviderStrategy"] == EC2["capacityProviderStrategy"]
    assert request["overrides"].items() >= more["overrides"].items()
    definition = definition_of(place)
    for name in ("networkMode", "requiresCompatibilities", "runtimePlatform", "volumes"):
        assert definition[name] == more["task_definition"][name]
    (container,) = definition["containerDefinitions"]
    linux = {"initProcessEnabled": False, "capabilities": {"drop": ["ALL"]}, "sharedMemorySize": 1024}
    assert container.items() >= {**more["container"], "linuxParameters": linux}.items()


def test_jobs_alike_share_one_definition_and_a_changed_profile_makes_another(place: EcsPlace) -> None:
    place.ecs.machine_there.clear()
    for number in (1, 2):
        place.attempt()
        assert place.aws.calls.count("RegisterTaskDefinition") == 1
        assert place.store.last_attempt("ingest", KEY) == number
    place.attempt(container={**place.settings["container"], "stopTimeout": 60})
    assert place.aws.calls.count("RegisterTaskDefinition") == 2
    families = [task.definition["family"] for task in place.ecs.tasks.values()]
    assert all(re.fullmatch(r"e2e3d-sfm-[0-9a-f]{16}", family) for family in families)
    assert len(set(families)) == 2


def test_the_real_image_works_with_a_read_only_root(place: EcsPlace, sample: Path) -> None:
    storage = open_storage(place.capture, place.aws.environment)
    for photo in sorted(sample.iterdir())[:4]:
        storage.write(photo.name, photo.read_bytes())
    backend = place.backend(image=f"e2e3d/sfm:{__version__}")
    claim = place.store.claim("ingest", KEY, "test", Watch(0))
    assert claim is not None
    params = STAGES["ingest"].resolve("draft", {}).model_dump(mode="json")
    place.store.write_request(
        Request(
            stage="ingest",
            stage_version=STAGES["ingest"].version,
            key=KEY,
            attempt=1,
            params=params,
            capture=place.capture,
            listing=list_capture_files(storage),
        )
    )
    state = AttemptState(profile="ecs", stage="ingest", key=KEY, claim=claim, handle=backend.submit(place.job()))
    made = Attempt(place.store, backend, state)
    lines: list[str] = []
    assert follow(made, lines) == 0, lines
    container = place.ecs.only_task().container
    assert container is not None
    host = place.aws.engine.inspect_container(container.id)["HostConfig"]
    assert host["ReadonlyRootfs"]
    manifest = made.store.manifest("ingest", KEY)
    assert manifest is not None
    assert manifest.metrics["photos"] >= 4


def test_a_fresh_volume_is_the_image_s_own(place: EcsPlace) -> None:
    # Of every image that stages run in, as their Dockerfiles say.
    for container in ("sfm", "3dgs", "compressor"):
        file = Path(__file__).parents[2] / "containers" / container / "Dockerfile"
        steps = file.read_text().splitlines()
        assert "/tmp" not in "".join(steps[steps.index("VOLUME /tmp") + 1 :])
    image = place.aws.engine.inspect_image(place.settings["image"])
    assert list(image["Config"]["Volumes"]) == ["/tmp"]


# The profile


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"luanchType": "FARGATE"}, r"has no 'luanchType'; did you mean launchType\?"),
        ({"imag": "x"}, r"has no 'imag'; did you mean image\?"),
        ({"launchType": "FARGAT"}, r"knows no LaunchType 'FARGAT'; did you mean FARGATE\?"),
        ({"taskDefinition": "mine:1"}, "'taskDefinition' is the stage's own"),
        ({"startedBy": "me"}, "the stage's own"),
        ({"clientToken": "x"}, "the stage's own"),
        ({"count": 2}, "the stage's own"),
        ({"overrides": {"containerOverrides": []}}, "'containerOverrides' is the stage's own"),
        ({"overrides": {"cpu": 1024}}, "must be text: put it in quotes"),
        ({"networkConfiguration": {"awsvpcConfiguration": {"securityGroups": ["sg-1"]}}}, "subnets is missing"),
        ({"networkConfiguration": "awsvpc"}, "must be a mapping"),
        ({"tags": {"team": "scans"}}, "must be a list"),
        ({"tags": [{"key": "te#am", "value": "x"}]}, "must match"),
        ({"enableExecuteCommand": "yes"}, "must be true or false"),
        ({"capacityProviderStrategy": [{"capacityProvider": "x", "weight": 2000}]}, "must be 0 to 1000, not 2000"),
        ({"launchType": "EC2", "capacityProviderStrategy": [{"capacityProvider": "x"}]}, "without capacityProvider"),
        ({"task_definition": {"family": "mine"}}, "'family' is the stage's own"),
        ({"task_definition": {"containerDefinitions": []}}, "the stage's own"),
        ({"task_definition": {"ephemeralStorage": {"size": 200}}}, r"did you mean sizeInGiB\?"),
        ({"container": {"image": "x"}}, "'image' is the stage's own"),
        ({"container": {"command": ["sh"]}}, "the stage's own"),
        ({"container": {"entryPoint": ["sh"]}}, "the stage's own"),
        ({"container": {"essential": False}}, "the stage's own"),
        ({"container": {"resourceRequirements": [{"type": "GPU", "value": 1}]}}, "put it in quotes"),
        ({"container": {"resourceRequirements": [{"type": "GPUS", "value": "1"}]}}, r"did you mean GPU\?"),
        ({"threads": 0}, "greater than or equal to 1"),
        ({**FARGATE, "networkConfiguration": None}, "must be a mapping"),
        ({name: FARGATE[name] for name in ("launchType", "task_definition")}, "Fargate needs networkConfiguration"),
        ({**FARGATE, "task_definition": {"cpu": "4096", "memory": "8192"}}, "Fargate needs executionRoleArn"),
        ({**FARGATE, "container": EC2["container"]}, "Fargate has no GPUs"),
    ],
)
def test_a_profile_that_cannot_work_is_refused_when_it_is_read(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EcsSettings.model_validate({"backend": "ecs", **settings})


PROFILE = """
cloud:
  store: s3://scenes/e2e3d
  captures: [s3://uploads]
  stages:
    default:
      backend: ecs
      cluster: splats
      capacityProviderStrategy:
        - capacityProvider: FARGATE_SPOT
      networkConfiguration:
        awsvpcConfiguration:
          subnets: [subnet-1]
      task_definition:
        cpu: "4096"
        memory: "16384"
        executionRoleArn: arn:aws:iam::123456789012:role/e2e3d-ecs-execution
      container:
        stopTimeout: 120
"""


@pytest.mark.parametrize(
    ("change", "line", "place", "words"),
    [
        (("cluster:", "clustr:"), 8, "clustr", "did you mean cluster"),
        (("subnets:", "subnet:"), 13, "networkConfiguration.awsvpcConfiguration.subnet", "did you mean subnets"),
        (('memory: "16384"', "memory: 16384"), 16, "task_definition.memory", "put it in quotes"),
        (("stopTimeout:", "command:"), 19, "container.command", "the stage's own"),
        (("capacityProvider: F", "capacityProviders: F"), 10, r"capacityProviderStrategy.0.capacityProviders", "mean"),
    ],
)
def test_a_mistake_is_told_with_its_line(
    tmp_path: Path, change: tuple[str, str], line: int, place: str, words: str
) -> None:
    file = tmp_path / "profiles.yaml"
    file.write_text(PROFILE)
    assert read_profiles(file, {})["cloud"].backend("train").settings.backend == "ecs"
    file.write_text(PROFILE.replace(*change))
    with pytest.raises(InvalidRequest, match=rf"profiles\.yaml:{line}: cloud\.stages\.default\.{place}: .*{words}"):
        read_profiles(file, {})


def test_the_profile_in_the_documentation_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "ecs.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    file = tmp_path / "profiles.yaml"
    file.write_text(example)
    profile = read_profiles(file, {})["cloud"]
    settings = {stage: profile.settings(stage) for stage in STAGES}
    assert all(isinstance(each, EcsSettings) and each.machine in profile.prices for each in settings.values())


def test_a_folder_is_out_of_a_task_s_reach(place: EcsPlace, tmp_path: Path) -> None:
    place.profile["store"] = (tmp_path / "store").as_uri()
    with pytest.raises(InvalidRequest, match="does not see"):
        place.attempt()
    assert place.aws.calls == []


# How it begins


@pytest.mark.parametrize(
    "refusal",
    [
        [{"reason": "RESOURCE:MEMORY"}, {"reason": "RESOURCE:GPU"}],
        [{"reason": "AGENT"}],
        ("ClientException", "Capacity is unavailable at this time. Please try again later or in a different zone"),
        ("InvalidParameterException", "No Container Instances were found in your cluster."),
    ],
)
def test_a_cluster_that_is_full_for_a_while_costs_time_only(place: EcsPlace, refusal: Any) -> None:
    place.ecs.machine_there.clear()
    place.ecs.no_room = [refusal]
    backend = place.backend()
    with pytest.raises(Infrastructure, match="no room") as told:
        backend.submit(place.job())
    assert "subnets" in told.value.hint
    assert place.ecs.tasks == {}
    assert place.attempt().follow(print).running
    assert len(place.ecs.requests) == 1


def test_a_gpu_that_no_instance_has_is_waited_for(place: EcsPlace) -> None:
    on_ec2(place)
    place.ecs.gpus = 0
    with pytest.raises(Infrastructure, match="RESOURCE:GPU"):
        place.backend().submit(place.job())
    place.ecs.gpus = 1
    assert follow(place.attempt()) == 0


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ([{"reason": "ATTRIBUTE", "detail": "ecs.capability.nvidia"}], "ATTRIBUTE: ecs.capability.nvidia"),
        (("PlatformUnknownException", "The platform version does not exist."), "platform version does not exist"),
        (("UnsupportedFeatureException", "Not in this region."), "Not in this region"),
        (("AccessDeniedException", "is not authorized to perform: iam:PassRole"), "may not do ecs:RunTask.*PassRole"),
    ],
)
def test_what_the_cluster_will_never_do_is_not_tried_again(place: EcsPlace, refusal: Any, words: str) -> None:
    place.ecs.no_room = [refusal]
    with pytest.raises(InvalidRequest, match=words) as told:
        place.attempt()
    assert told.value.hint
    assert place.aws.calls.count("RunTask") == 1


def test_a_cluster_that_is_not_there_is_told(place: EcsPlace) -> None:
    with pytest.raises(InvalidRequest, match="Cluster not found") as told:
        place.attempt(cluster="nowhere")
    assert "docs/ecs.md" in told.value.hint


def test_an_image_that_is_not_there_is_never_tried_again(place: EcsPlace) -> None:
    failure = ended(place, image="e2e3d-tests/nothing:0").failure
    assert failure is not None
    assert failure.code is FailureCode.INVALID_REQUEST
    assert "CannotPullContainerError" in failure.message
    assert "Push the image" in failure.hint


def test_a_registry_that_does_not_answer_is_tried_again(place: EcsPlace) -> None:
    failure = ended(place, image="e2e3d-tests/unreachable:0").failure
    assert failure is not None
    assert failure.code is FailureCode.INFRASTRUCTURE
    assert "i/o timeout" in failure.message


def test_a_profile_that_changed_meanwhile_starts_no_second_task(place: EcsPlace) -> None:
    place.ecs.machine_there.clear()
    made = place.attempt()
    handle = place.backend(enableExecuteCommand=True).submit(place.job())
    assert handle == made.state.handle
    assert len(place.ecs.tasks) == 1


def test_an_ended_task_is_found_again_with_its_exit_status(place: EcsPlace) -> None:
    place.script["ingest"] = ["unreadable"]
    made = place.attempt()
    assert follow(made) == FailureCode.UNREADABLE_CAPTURE.exit_code
    assert place.backend().find(place.job()) == made.state.handle
    assert place.backend().submit(place.job()) == made.state.handle
    # Another profile by now: the task is where it was.
    assert place.backend(cluster="nowhere").poll(made.state.handle).exit_code == 2
    assert place.script.calls == ["ingest"]


def test_a_task_that_ecs_does_not_show_yet_is_taken_to_run() -> None:
    handle = {"task": "arn:of:a-task", "created": now().isoformat(), "log": None}
    assert vanished(handle).running
    told = vanished({**handle, "created": (now() - dt.timedelta(minutes=2)).isoformat()})
    assert told.failure is not None
    assert "checkpoint" in told.failure.hint


def test_a_task_that_is_cancelled_before_it_begins_never_does(place: EcsPlace) -> None:
    place.ecs.machine_there.clear()
    made = place.attempt()
    made.cancel()
    place.ecs.machine_there.set()
    until(lambda: not place.left())
    failure = made.failure(made.backend.poll(made.state.handle))
    assert failure.code is FailureCode.INTERRUPTED
    assert "Airflow's task was stopped" in failure.message
    assert place.script.calls == []


# How it ends


@pytest.mark.parametrize(
    ("task", "container", "code", "words"),
    [
        (
            {"stopCode": "SpotInterruption", "stoppedReason": "Your Spot Task was interrupted."},
            137,
            "interrupted",
            "Spot",
        ),
        (
            {"stopCode": "TerminationNotice", "stoppedReason": "Host EC2 (instance i-1) terminated."},
            None,
            "interrupted",
            "i-1",
        ),
        ({"stoppedReason": "Host EC2 (instance i-1) stopped."}, None, "interrupted", "i-1"),
        ({"stopCode": "UserInitiated", "stoppedReason": "by hand"}, 137, "interrupted", "by hand"),
        ({"stoppedReason": "OutOfMemoryError: Container killed due to memory usage"}, 137, "out_of_memory", "memory"),
        ({"stoppedReason": "CannotPullContainerError: pull access denied for x"}, None, "invalid_request", "denied"),
        ({"stoppedReason": "CannotPullContainerError: context deadline exceeded"}, None, "infrastructure", "deadline"),
        (
            {"stoppedReason": "ResourceInitializationError: unable to pull secrets: AccessDeniedException"},
            None,
            "invalid_request",
            "secrets",
        ),
        (
            {"stoppedReason": "ResourceInitializationError: unable to pull secrets: connection timed out"},
            None,
            "infrastructure",
            "timed out",
        ),
        ({"stoppedReason": "Timeout waiting for network interface provisioning"}, None, "infrastructure", "network"),
        (
            {"stopCode": "TaskFailedToStart", "stoppedReason": "Capacity is unavailable at this time"},
            None,
            "infrastructure",
            "Capacity",
        ),
        ({"stoppedReason": "Essential container in task exited"}, 1, None, ""),
    ],
)
def test_a_task_s_end_tells_what_a_retry_can_do(
    task: dict[str, Any], container: int | None, code: str | None, words: str
) -> None:
    own = {"name": "stage"} if container is None else {"name": "stage", "exitCode": container}
    beside = {"name": "ecs-service-connect", "exitCode": 0}
    told = job_status({"lastStatus": "STOPPED", "containers": [beside, own], **task})
    assert not told.running
    assert told.exit_code == container
    assert (told.failure.code if told.failure else None) == code
    assert words in (told.failure.message if told.failure else "")


@pytest.mark.parametrize("state", ["PROVISIONING", "PENDING", "RUNNING", "DEACTIVATING", "STOPPING", "DEPROVISIONING"])
def test_a_task_runs_until_it_has_left_its_machine(state: str) -> None:
    assert job_status({"lastStatus": state, "containers": []}).running


@pytest.mark.parametrize(("launched", "seconds"), [("FARGATE", 60), ("EC2", 20)])
def test_fargate_bills_from_the_pull_on_and_at_least_a_minute(launched: str, seconds: float) -> None:
    times = {"pullStartedAt": now(), "startedAt": now() + dt.timedelta(seconds=15)}
    task = {"lastStatus": "STOPPED", "launchType": launched, "containers": [], **times}
    assert (
        job_status({**task, "stoppedAt": times["pullStartedAt"] + dt.timedelta(seconds=20)}).billable_seconds == seconds
    )
    assert job_status({**task, "stoppedAt": times["pullStartedAt"] + dt.timedelta(seconds=90)}).billable_seconds == 90
    assert job_status(task).billable_seconds is None


def taken_away(place: EcsPlace, how: Callable[[Task], None]) -> Failure:
    """Why the first attempt ended, whose task is taken away while it works; the cluster is then full for a moment."""
    place.script["ingest"] = ["wait", "succeed"]
    made = place.attempt()
    until(lambda: place.script.calls)
    place.ecs.no_room = [[{"reason": "RESOURCE:GPU"}]]
    how(place.ecs.only_task())
    follow(made)
    return made.failure(made.backend.poll(made.state.handle))


def test_work_on_fargate_spot_goes_on_from_its_checkpoint(place: EcsPlace) -> None:
    del place.settings["launchType"]
    place.settings["capacityProviderStrategy"] = [{"capacityProvider": "FARGATE_SPOT"}]
    assert taken_away(place, Task.interrupt).code is FailureCode.INTERRUPTED
    assert (place.script.folder / "stopped").exists()
    lines: list[str] = []
    assert follow(place.attempt(), lines) == 0
    told = "\n".join(lines)
    assert "ingest does succeed, from step" in told
    assert "ingest does succeed, from step 0" not in told


def test_work_that_loses_its_instance_and_meets_a_full_cluster_goes_on(place: EcsPlace) -> None:
    on_ec2(place)
    failure = taken_away(place, Task.lose_host)
    assert failure.code is FailureCode.INTERRUPTED
    assert "Host EC2 (instance i-0123456789abcdef0) terminated" in failure.message
    assert follow(place.attempt()) == 0
    assert len(place.ecs.requests) == 2
    assert place.aws.calls.count("RunTask") == 3


# What is told of it


def test_no_secret_leaves_airflow(place: EcsPlace, run: Run, airflow_home: Path) -> None:
    secret = "hush-hush-secret-key"
    assert secret in place.environment["AIRFLOW_CONN_AWS_OF_THE_TEST"]
    # The store's own connection has one, too.
    access = {
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "hush-hush-store-key",
        "AWS_SESSION_TOKEN": "hush",
    }
    made = place.attempt(environment={**access, "AWS_ENDPOINT_URL_S3": "http://minio"})
    told = json.dumps([place.ecs.requests, definition_of(place), made.serialize()], default=str)
    assert "http://minio" in told
    assert "hush" not in told
    assert "someone" not in told
    outcome = run(last="sfm")
    assert outcome.state == "success", outcome.log
    assert len(place.ecs.requests) == 3
    assert "hush" not in json.dumps([place.ecs.requests, outcome.results])
    assert secret not in outcome.log


def test_what_the_work_took_is_written_down(place: EcsPlace) -> None:
    namespace = f"E2E3D/{place.aws.mark}"
    place.profile["prices"] = {"fargate-1vcpu-2gb": 0.0494}
    place.settings |= {"machine": "fargate-1vcpu-2gb", "metrics_namespace": namespace}
    made = place.attempt()
    assert follow(made) == 0
    made.record(profile_named("ecs"), made.backend.poll(made.state.handle), {"psnr": 31.5})
    record = place.store.job("ingest", KEY, 1)
    assert record is not None
    assert (record.backend, record.machine) == ("ecs", "fargate-1vcpu-2gb")
    # Nothing here takes a minute.
    assert record.billable_seconds == 60
    assert record.price == round(0.0494 / 60, 6)
    assert record.handle["task"] in place.ecs.tasks
    sent = place.aws.client("cloudwatch").list_metrics(Namespace=namespace)["Metrics"]
    assert {metric["MetricName"] for metric in sent} == {"billable_seconds", "price", "psnr"}


def test_logs_that_go_elsewhere_are_left_there(place: EcsPlace) -> None:
    place.settings["container"]["logConfiguration"] = {"logDriver": "json-file"}
    made = place.attempt()
    lines: list[str] = []
    assert follow(made, lines) == 0
    assert lines == []
    assert "GetLogEvents" not in place.aws.calls
