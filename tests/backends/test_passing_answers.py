"""What passes is never told as the user's mistake.

Every verb of every backend, each of its calls answered by whatever an engine, a cluster or AWS says while something is
busy, away, changing or going. Nothing runs here; the answers are those of moby's daemon, of Kubernetes' API server and
of AWS's services, in their own words.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    MetadataRetrievalError,
    NoCredentialsError,
)
from botocore.stub import Stubber
from kubernetes.client import ApiClient

from airflow_provider_e2e3d.backends.aws import client as aws_account
from airflow_provider_e2e3d.backends.base import Backend, JobSpec, JobStatus, Orphan
from airflow_provider_e2e3d.backends.ecs import status as ecs_status
from airflow_provider_e2e3d.backends.kubernetes import status as kubernetes_status
from airflow_provider_e2e3d.backends.sagemaker import status as sagemaker_status
from airflow_provider_e2e3d.profiles.profile import backend_class
from e2e3d_stages.contract.messages import FailureCode, Infrastructure, InvalidRequest, StageError, now
from tests.backends.places import KEY, never_claimed
from tests.backends.scripted_api import Answer, ScriptedApi

Ask = Callable[[], object]
JOB = JobSpec(
    stage="ingest",
    key=KEY,
    claim=never_claimed(1),
    request_uri="s3://scenes/artifacts/ingest/a-key/attempts/1/request.json",
    environment={"AWS_SECRET_ACCESS_KEY": "hush"},
)
LEFT = dict(what="it", since=now())


@pytest.fixture
def api_of() -> Iterator[Callable[[dict[str, Answer]], ScriptedApi]]:
    """Makes an API that answers as told."""
    made: list[ScriptedApi] = []

    def make(answers: dict[str, Answer]) -> ScriptedApi:
        made.append(ScriptedApi(answers))
        return made[-1]

    yield make
    for api in made:
        api.close()


def backend_of(name: str, **settings: Any) -> Backend:
    """A backend that was just made."""
    kind = backend_class(name)
    return kind(kind.Settings.model_validate({"backend": name, **settings}))


def code_of(ask: Ask) -> FailureCode | None:
    """How what a place answers is judged; None where it is no failure."""
    try:
        status = ask()
    except StageError as told:
        return told.code if told.message and told.hint else FailureCode.CRASH
    return status.failure.code if isinstance(status, JobStatus) and status.failure else None


def misjudged(api: ScriptedApi, call: str, answers: Iterable[Answer], ask: Ask) -> list[tuple[Answer, object]]:
    """The answers to one call that are not told as something that passes."""
    wrong: list[tuple[Answer, object]] = []
    for answer in answers:
        api.calls.clear()
        api.instead = {call: answer}
        code = code_of(ask)
        assert any(re.match(call, each) for each in api.calls), f"{call} was not asked"
        if code not in (None, FailureCode.INFRASTRUCTURE):
            wrong.append((answer, code))
    return wrong


# Docker

CONTAINER = "c0ffee" * 10
STATE = {"Status": "running", "ExitCode": 0, "OOMKilled": False}
STATE |= {"StartedAt": "2020-01-01T00:00:00Z", "FinishedAt": "0001-01-01T00:00:00Z"}
INSPECTED = {"Id": CONTAINER, "Created": "2020-01-01T00:00:00Z", "State": STATE, "Config": {"Tty": False}}
CREATED = {**INSPECTED, "State": {**STATE, "Status": "created", "StartedAt": "0001-01-01T00:00:00Z"}}
LABELS = {"e2e3d.request": JOB.request_uri, "e2e3d.stage": "ingest", "e2e3d.key": KEY, "e2e3d.attempt": "1"}
ENGINE: dict[str, Answer] = {
    "GET /version": (200, {"ApiVersion": "1.47", "MinAPIVersion": "1.24"}),
    "GET /_ping": (200, "OK"),
    "GET /v1.47/_ping": (200, "OK"),
    "GET /v1.47/images/json": (200, [{"Id": "sha256:1"}]),
    "GET /v1.47/images/.*/json": (200, {"Id": "sha256:1"}),
    "POST /v1.47/images/create": (200, b'{"status": "Pulling"}'),
    "POST /v1.47/containers/create": (201, {"Id": CONTAINER}),
    "POST /v1.47/containers/.*/start": (204, ""),
    "POST /v1.47/containers/.*/kill": (204, ""),
    "DELETE /v1.47/containers/": (204, ""),
    "GET /v1.47/containers/json": (200, [{"Id": CONTAINER, "Labels": LABELS, "Names": ["/e2e3d"], "Created": 0}]),
    "GET /v1.47/containers/.*/json": (200, INSPECTED),
    "GET /v1.47/containers/.*/logs": (200, b""),
}
OF_AN_ENGINE: list[Answer] = [
    *(
        (status, {"message": said})
        for status, said in [
            (404, f"No such container: {CONTAINER}"),
            (408, "request timeout"),
            (409, "can not get logs from container which is dead or marked for removal"),
            (409, f"removal of container {CONTAINER} is already in progress"),
            (409, "container is marked for removal and cannot be started"),
            (
                409,
                f'Conflict. The container name "/e2e3d" is already in use by container "{CONTAINER}". '
                "You have to remove (or rename) that container to be able to reuse that name.",
            ),
            (409, f"container {CONTAINER} is not running"),
            (409, f"Container {CONTAINER} is restarting, wait until the container is running"),
            (409, "cannot start a paused container, try unpause instead"),
            (403, "endpoint with name e2e3d already exists in network bridge"),
            (401, "unauthorized: Your authorization token has expired. Reauthenticate and try again."),
            (
                404,
                "pull access denied for x, repository does not exist or may require 'docker login': denied: "
                "Your authorization token has expired. Reauthenticate and try again.",
            ),
            (429, "toomanyrequests: You have reached your unauthenticated pull rate limit."),
            (500, "can not get logs from container which is dead or marked for removal"),
            (500, "could not kill container: tried to kill container, but did not receive an exit event"),
            (500, 'Get "https://registry-1.docker.io/v2/": net/http: TLS handshake timeout'),
            (500, "write /var/lib/docker/tmp/x: no space left on device"),
            (503, "the engine is busy"),
        ]
    ),
    (502, "<html>Bad Gateway</html>"),
    (504, "<html>Gateway Timeout</html>"),
]
# What an engine may say of a job that is there, whatever it means.
AT_ALL: list[Answer] = [(status, {"message": "no"}) for status in (400, 401, 403, 405, 410, 422)]


@pytest.fixture
def engine(api_of: Callable[[dict[str, Answer]], ScriptedApi], monkeypatch: pytest.MonkeyPatch) -> ScriptedApi:
    """An engine with one container."""
    # Whoever ends a cancelled container is a process of its own.
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: None)
    return api_of(dict(ENGINE))


@pytest.fixture
def on_docker(engine: ScriptedApi) -> dict[str, Ask]:
    """Every verb, asked of one backend."""
    asked = backend_of("docker", docker_url=f"tcp://{engine.address}", image="e2e3d/sfm:1")
    handle = {"container": CONTAINER}
    return {
        "submit": lambda: asked.submit(JOB),
        "find": lambda: asked.find(JOB),
        "poll": lambda: asked.poll(handle),
        "logs": lambda: asked.logs(handle, 0),
        "cancel": lambda: asked.cancel(handle),
        "clean_up": lambda: asked.clean_up(handle, succeeded=True),
        "orphans": lambda: list(asked.orphans("s3://scenes")),
        "discard": lambda: asked.remove_orphan(Orphan(handle=handle, **LEFT)),
    }


ASKED_OF_AN_ENGINE = [
    ("find", "GET /v1.47/containers/.*/json"),
    ("find", "POST /v1.47/containers/.*/start"),
    ("poll", "GET /v1.47/containers/.*/json"),
    ("logs", "GET /v1.47/containers/.*/logs"),
    ("logs", "GET /v1.47/containers/.*/json"),
    ("cancel", "POST /v1.47/containers/.*/kill"),
    ("clean_up", "DELETE /v1.47/containers/"),
    ("orphans", "GET /v1.47/containers/json"),
    ("discard", "DELETE /v1.47/containers/"),
]
SUBMITTED_TO_AN_ENGINE = [
    ("submit", "GET /v1.47/containers/json"),
    ("submit", "GET /v1.47/containers/.*/json"),
    ("submit", "DELETE /v1.47/containers/"),
    ("submit", "GET /v1.47/images/json"),
    ("submit", "GET /v1.47/images/.*/json"),
    ("submit", "POST /v1.47/images/create"),
    ("submit", "POST /v1.47/containers/create"),
    ("submit", "POST /v1.47/containers/.*/start"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "call"), [*ASKED_OF_AN_ENGINE, *SUBMITTED_TO_AN_ENGINE])
def test_what_passes_on_an_engine_is_no_mistake(
    verb: str, call: str, engine: ScriptedApi, on_docker: dict[str, Ask]
) -> None:
    answers = [*OF_AN_ENGINE, *AT_ALL] if verb != "submit" or "containers/json" in call else OF_AN_ENGINE
    if call.endswith("start"):
        engine.usual["GET /v1.47/containers/.*/json"] = (200, CREATED)
    if call.endswith("images/create"):
        engine.usual["GET /v1.47/images/json"] = (200, [])
    assert misjudged(engine, call, answers, on_docker[verb]) == []


@pytest.mark.parametrize(
    ("call", "answer", "words"),
    [
        ("POST /v1.47/images/create", (404, "manifest for x:1 not found: manifest unknown"), "not found"),
        (
            "POST /v1.47/images/create",
            (404, "pull access denied for x, repository does not exist or may require 'docker login'"),
            "make images",
        ),
        ("POST /v1.47/images/create", (200, "failed to resolve reference x:1: not found"), "make images"),
        ("POST /v1.47/images/create", (400, "invalid reference format"), "invalid reference format"),
        ("GET /v1.47/images/.*/json", (404, "No such image: x:1"), "make images"),
        ("POST /v1.47/containers/create", (400, "Minimum memory limit allowed is 6MB"), "Minimum memory limit"),
        ("POST /v1.47/containers/create", (400, "client version 9.99 is too new"), "too new"),
        ("POST /v1.47/containers/.*/start", (404, "network no-such-network not found"), "no-such-network"),
        ("POST /v1.47/containers/.*/start", (400, 'could not select device driver "" with capabilities'), "no GPU"),
    ],
)
def test_what_an_engine_will_never_do_is_a_mistake(
    call: str, answer: tuple[int, str], words: str, engine: ScriptedApi, on_docker: dict[str, Ask]
) -> None:
    engine.usual["GET /v1.47/images/json"] = (200, [])
    status, said = answer
    engine.instead = {call: (status, {"message": said} if status >= 400 else {"error": said})}
    with pytest.raises(InvalidRequest) as told:
        on_docker["submit"]()
    assert words in f"{told.value.message} {told.value.hint}"


@pytest.mark.parametrize(
    "said",
    ["unexpected EOF", "net/http: TLS handshake timeout", "toomanyrequests: rate limit", "no space left on device"],
)
def test_a_pull_that_breaks_off_is_tried_again(said: str, engine: ScriptedApi, on_docker: dict[str, Ask]) -> None:
    engine.usual["GET /v1.47/images/json"] = (200, [])
    # Where DockerOperator goes on, it finds no image.
    engine.usual["GET /v1.47/images/.*/json"] = (404, {"message": "No such image: e2e3d/sfm:1"})
    engine.usual["POST /v1.47/images/create"] = (200, f'{{"status": "Pulling"}}{{"error": "{said}"}}'.encode())
    with pytest.raises(Infrastructure, match=said):
        on_docker["submit"]()


@pytest.mark.parametrize("answer", OF_AN_ENGINE[:1] + OF_AN_ENGINE[2:4])
def test_a_container_that_is_being_removed_has_no_log_and_is_no_failure(
    answer: Answer, engine: ScriptedApi, on_docker: dict[str, Ask]
) -> None:
    engine.instead = {"GET /v1.47/containers/.*/logs": answer}
    assert on_docker["logs"]() == ([], 0)
    engine.instead = {"(POST|DELETE) /v1.47/containers/": answer}
    on_docker["cancel"]()
    on_docker["clean_up"]()


def test_a_log_that_breaks_off_is_asked_for_again(engine: ScriptedApi, on_docker: dict[str, Ask]) -> None:
    line = b"2026-01-01T00:00:00.000000001Z hello\n"
    frame = b"\x01\0\0\0" + len(line).to_bytes(4, "big") + line
    engine.instead = {"GET /v1.47/containers/.*/logs": (200, frame + frame[:5])}
    with pytest.raises(Infrastructure, match="does not answer"):
        on_docker["logs"]()


def test_a_container_that_cannot_be_started_any_more_is_none(engine: ScriptedApi, on_docker: dict[str, Ask]) -> None:
    engine.usual["GET /v1.47/containers/.*/json"] = (200, CREATED)
    engine.instead = {"POST /v1.47/containers/.*/start": OF_AN_ENGINE[4]}
    assert on_docker["find"]() is None
    assert engine.calls[-1].startswith("DELETE")


def test_why_a_container_did_not_start_is_told_also_where_it_cannot_be_removed(
    engine: ScriptedApi, on_docker: dict[str, Ask]
) -> None:
    engine.instead = {
        "POST /v1.47/containers/.*/start": (400, {"message": "exec: no such file"}),
        "DELETE": (409, {"message": "removal is already in progress"}),
    }
    with pytest.raises(InvalidRequest, match="no such file"):
        on_docker["submit"]()


# Kubernetes

NAMESPACE = "/api/v1/namespaces/splats"
POD: dict[str, Any] = {
    "metadata": {"name": JOB.name, "namespace": "splats", "uid": "a-uid", "creationTimestamp": "2026-01-01T00:00:00Z"},
    "spec": {"nodeName": "node-1", "containers": [{"name": "base"}]},
    "status": {"phase": "Running", "containerStatuses": []},
}
POD["metadata"] |= {"labels": LABELS, "annotations": LABELS}
PULLING = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
WAITING = {
    "phase": "Pending",
    "containerStatuses": [
        {"name": "base", "state": PULLING, "image": "x", "imageID": "", "ready": False, "restartCount": 0}
    ],
}
CLUSTER: dict[str, Answer] = {
    f"GET {NAMESPACE}/pods/.*/log": (200, b""),
    f"GET {NAMESPACE}/pods/": (200, POD),
    f"GET {NAMESPACE}/pods": (200, {"metadata": {}, "items": [POD]}),
    f"GET {NAMESPACE}/events": (200, {"metadata": {}, "items": []}),
    f"POST {NAMESPACE}/pods": (201, POD),
    f"POST {NAMESPACE}/secrets": (201, {"metadata": {"name": "x"}}),
    f"DELETE {NAMESPACE}/pods/": (200, POD),
}


def refused(status: int, reason: str, message: str) -> Answer:
    """As Kubernetes' API server does."""
    return status, {"kind": "Status", "status": "Failure", "code": status, "reason": reason, "message": message}


MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"
OF_A_CLUSTER: list[Answer] = [
    refused(401, "Unauthorized", "Unauthorized"),
    refused(403, "Forbidden", 'pods "x" is forbidden: exceeded quota: compute, requested: cpu=4, used: cpu=8'),
    refused(403, "Forbidden", 'pods "x" is forbidden: status unknown for quota: compute, resources: limits.cpu'),
    refused(403, "Forbidden", 'pods "x" is forbidden: not yet ready to handle request'),
    refused(
        403,
        "Forbidden",
        'pods "x" is forbidden: unable to create new content in namespace splats because it is being terminated',
    ),
    refused(408, "Timeout", "request did not complete within the allotted timeout"),
    refused(409, "AlreadyExists", 'object is being deleted: pods "x" already exists'),
    refused(409, "Conflict", f'Operation cannot be fulfilled on resourcequotas "compute": {MODIFIED}'),
    refused(409, "Conflict", f'Operation cannot be fulfilled on pods "x": {MODIFIED}'),
    refused(409, "Conflict", "Precondition failed: UID in precondition: a-uid, UID in object meta: another-uid"),
    refused(410, "Gone", "The resourceVersion for the provided list is too old."),
    refused(410, "Expired", "The provided continue parameter is too old to display a consistent list result."),
    refused(429, "TooManyRequests", "the server has received too many requests and has asked us to try again later"),
    refused(500, "InternalError", "etcdserver: request timed out"),
    refused(500, "InternalError", "etcdserver: leader changed"),
    refused(500, "InternalError", 'Internal error occurred: failed calling webhook "x": context deadline exceeded'),
    refused(503, "ServiceUnavailable", "apiserver not ready"),
    refused(504, "Timeout", "request did not complete within requested timeout - context deadline exceeded"),
    (502, "<html>Bad Gateway</html>"),
]
# What a cluster may say of a pod that is there, but that Airflow may not ask: that has a hint of its own.
OF_A_POD: list[Answer] = [
    refused(400, "BadRequest", 'container "base" in pod "x" is waiting to start: ContainerCreating'),
    refused(404, "NotFound", 'pods "x" not found'),
    refused(405, "MethodNotAllowed", "the server does not allow this method on the requested resource"),
    refused(422, "Invalid", 'Pod "x" is invalid: metadata.uid: Invalid value: "a-uid"'),
]


@pytest.fixture
def cluster(
    api_of: Callable[[dict[str, Answer]], ScriptedApi], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ScriptedApi:
    """A cluster with one pod."""
    api = api_of(dict(CLUSTER))
    config = {
        "clusters": [{"name": "test", "cluster": {"server": f"http://{api.address}"}}],
        "users": [{"name": "test", "user": {"token": "a-token"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", "kubernetes://")
    return api


@pytest.fixture
def on_kubernetes(cluster: ScriptedApi, tmp_path: Path) -> dict[str, Ask]:
    """Every verb, asked of one backend."""
    asked = backend_of("kubernetes", config_file=str(tmp_path / "kubeconfig"), namespace="splats", image="e2e3d/sfm:1")
    handle = {"namespace": "splats", "pod": JOB.name, "uid": "a-uid"}
    return {
        "submit": lambda: asked.submit(JOB),
        "find": lambda: asked.find(JOB),
        "poll": lambda: asked.poll(handle),
        "logs": lambda: asked.logs(handle, 0),
        "cancel": lambda: asked.cancel(handle),
        "clean_up": lambda: asked.clean_up(handle, succeeded=True),
        "orphans": lambda: list(asked.orphans("s3://scenes")),
        "discard": lambda: asked.remove_orphan(Orphan(handle=handle, **LEFT)),
    }


ASKED_OF_A_CLUSTER = [
    ("find", f"GET {NAMESPACE}/pods/"),
    ("poll", f"GET {NAMESPACE}/pods/"),
    ("poll", f"GET {NAMESPACE}/events"),
    ("logs", f"GET {NAMESPACE}/pods/.*/log"),
    ("cancel", f"DELETE {NAMESPACE}/pods/"),
    ("cancel", f"(DELETE|GET) {NAMESPACE}/pods/"),
    ("clean_up", f"DELETE {NAMESPACE}/pods/"),
    ("orphans", f"GET {NAMESPACE}/pods"),
    ("discard", f"DELETE {NAMESPACE}/pods/"),
]
SUBMITTED_TO_A_CLUSTER = [
    ("submit", f"POST {NAMESPACE}/pods"),
    ("submit", f"(POST|GET) {NAMESPACE}/pods"),
    ("submit", f"POST {NAMESPACE}/secrets"),
]


@pytest.mark.parametrize(("verb", "call"), [*ASKED_OF_A_CLUSTER, *SUBMITTED_TO_A_CLUSTER])
def test_what_passes_on_a_cluster_is_no_mistake(
    verb: str, call: str, cluster: ScriptedApi, on_kubernetes: dict[str, Ask]
) -> None:
    if call.endswith("events"):
        cluster.usual[f"GET {NAMESPACE}/pods/"] = (200, {**POD, "status": WAITING})
    answers = OF_A_CLUSTER if verb == "submit" else [*OF_A_CLUSTER, *OF_A_POD]
    assert misjudged(cluster, call, answers, on_kubernetes[verb]) == []


@pytest.mark.parametrize(
    ("verb", "call", "answer", "words"),
    [
        ("submit", "POST .*/pods", refused(422, "Invalid", "Pod is invalid: spec.x: Required value"), "spec.x"),
        ("submit", "POST .*/pods", refused(404, "NotFound", 'namespaces "splats" not found'), "splats"),
        ("submit", "POST .*/pods", refused(403, "Forbidden", 'User "a" cannot create resource "pods"'), "rbac.yaml"),
        ("submit", "POST .*/secrets", refused(403, "Forbidden", 'cannot create resource "secrets"'), "rbac.yaml"),
        ("poll", "GET .*/pods", refused(403, "Forbidden", 'User "a" cannot get resource "pods"'), "rbac.yaml"),
        ("logs", "GET .*/log", refused(403, "Forbidden", 'cannot get resource "pods/log"'), "rbac.yaml"),
    ],
)
def test_what_a_cluster_will_never_do_and_what_airflow_may_not_is_a_mistake(
    verb: str, call: str, answer: Answer, words: str, cluster: ScriptedApi, on_kubernetes: dict[str, Ask]
) -> None:
    cluster.instead = {call: answer}
    with pytest.raises(InvalidRequest) as told:
        on_kubernetes[verb]()
    assert words in f"{told.value.message} {told.value.hint}"


def test_a_pod_that_another_changes_at_the_same_moment_is_asked_again_to_end_and_one_of_its_name_is_let_be(
    cluster: ScriptedApi, on_kubernetes: dict[str, Ask]
) -> None:
    cluster.instead = {"DELETE": OF_A_CLUSTER[8]}
    with pytest.raises(Infrastructure, match="modified"):
        on_kubernetes["cancel"]()
    cluster.usual[f"GET {NAMESPACE}/pods/"] = (200, {**POD, "metadata": {**POD["metadata"], "uid": "another-uid"}})
    on_kubernetes["cancel"]()


def test_a_pod_whose_secret_meets_a_busy_quota_waits_for_it(
    cluster: ScriptedApi, on_kubernetes: dict[str, Ask]
) -> None:
    cluster.instead = {"POST .*/secrets": OF_A_CLUSTER[7]}
    with pytest.raises(Infrastructure, match="resourcequotas"):
        on_kubernetes["submit"]()
    assert not any(call.startswith("DELETE") for call in cluster.calls)


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("ImagePullBackOff", "failed to authorize: unexpected status 429: unauthorized: too many requests"),
        ("ImagePullBackOff", "denied: Your authorization token has expired. Reauthenticate and try again."),
        ("ImagePullBackOff", "pull QPS exceeded, not found: i/o timeout"),
        ("CreateContainerConfigError", "failed to sync configmap cache: timed out waiting for the condition"),
        ("CreateContainerError", "context deadline exceeded"),
        ("RunContainerError", "rpc error: code = DeadlineExceeded desc = context deadline exceeded"),
    ],
)
def test_a_pod_that_waits_for_what_passes_was_no_mistake(reason: str, message: str) -> None:
    state = {"waiting": {"reason": reason, "message": message}}
    (container,) = WAITING["containerStatuses"]
    status = {"phase": "Pending", "containerStatuses": [{**container, "state": state}]}
    pod = ApiClient().deserialize(SimpleNamespace(data=json.dumps({**POD, "status": status})), "V1Pod")
    assert code_of(lambda: kubernetes_status.job_status(pod)) in (None, FailureCode.INFRASTRUCTURE)


# AWS

ROLE = "arn:aws:iam::123456789012:role/stages"
GROUP = "/aws/sagemaker/TrainingJobs"
TASK = "arn:aws:ecs:us-east-1:123456789012:task/splats/1"
RUNNING = {"taskArn": TASK, "clusterArn": "splats", "lastStatus": "RUNNING", "createdAt": 0, "containers": []}
DEFINED = {"taskDefinition": {"taskDefinitionArn": "arn:aws:ecs:us-east-1:123456789012:task-definition/x:1"}}
TRAINING = {"TrainingJobName": JOB.name, "TrainingJobStatus": "InProgress", "SecondaryStatusTransitions": []}
TRAINING |= {"SecondaryStatus": "Training"}
CREDENTIALS = "".join(
    f"<{name}>{value}</{name}>"
    for name, value in {
        "AccessKeyId": "someone",
        "SecretAccessKey": "hush",
        "SessionToken": "hush",
        "Expiration": "2100-01-01T00:00:00Z",
    }.items()
)
AWS: dict[str, Answer] = {
    "AssumeRole": (
        200,
        f"<AssumeRoleResponse><AssumeRoleResult><Credentials>{CREDENTIALS}</Credentials>"
        "</AssumeRoleResult></AssumeRoleResponse>",
    ),
    "DescribeTaskDefinition": (200, DEFINED),
    "RegisterTaskDefinition": (200, DEFINED),
    "RunTask": (200, {"tasks": [RUNNING], "failures": []}),
    "ListTasks": (200, {"taskArns": [TASK]}),
    "DescribeTasks": (200, {"tasks": [RUNNING], "failures": []}),
    "StopTask": (200, {"task": RUNNING}),
    "CreateTrainingJob": (200, {"TrainingJobArn": "arn:of:it"}),
    "DescribeTrainingJob": (200, TRAINING),
    "StopTrainingJob": (200, {}),
    "GetLogEvents": (200, {"events": [], "nextForwardToken": "f/1", "nextBackwardToken": "b/1"}),
    "DescribeLogStreams": (200, {"logStreams": [{"logStreamName": f"{JOB.name}/algo-1"}]}),
}


def error(code: str, message: str, status: int = 400) -> Answer:
    """As AWS's services answer in JSON."""
    return status, {"__type": code, "message": message}


def error_of_sts(code: str, message: str, status: int = 400) -> Answer:
    """As STS answers, in XML."""
    return status, f"<ErrorResponse><Error><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"


BUSY = [
    ("ThrottlingException", "Rate exceeded", 400),
    ("Throttling", "Rate exceeded", 400),
    ("TooManyRequestsException", "Too many requests", 429),
    ("RequestLimitExceeded", "Request limit exceeded.", 503),
    ("ServiceUnavailableException", "The service cannot complete the request.", 500),
    ("ServiceUnavailable", "Service is unable to handle request.", 503),
    ("InternalFailure", "The request processing has failed because of an unknown error.", 500),
    ("InternalServerError", "Internal server error", 500),
    ("ServerException", "Service Unavailable. Please try again later.", 500),
    ("RequestTimeout", "The request timed out.", 408),
    ("ExpiredToken", "The security token included in the request is expired", 403),
    ("ExpiredTokenException", "The security token included in the request is expired", 400),
    ("RequestExpired", "Request has expired.", 400),
    ("InvalidSignatureException", "Signature expired: 20260101T000000Z is now earlier than 20260101T000500Z", 403),
    ("SignatureDoesNotMatch", "Signature not yet current: 20260101T001000Z is still later than now", 403),
]
OF_AWS: list[Answer] = [error(*each) for each in BUSY]
OF_AWS += [error("ConflictException", "There was a conflict when you attempted to modify an entity.", 400)]
OF_STS = [
    error_of_sts("Throttling", "Rate exceeded"),
    error_of_sts("ServiceUnavailable", "Service is unable to handle request.", 503),
    error_of_sts("ExpiredToken", "The security token included in the request is expired", 403),
    error_of_sts("SignatureDoesNotMatch", "Signature not yet current: 20260101T001000Z is still later than now", 403),
    error_of_sts("IDPCommunicationError", "The identity provider could not be reached."),
    error_of_sts("InvalidIdentityToken", "Couldn't retrieve verification key from your identity provider"),
    (200, "<html>a proxy's own page"),
]
OF_A_JOB: list[Answer] = [
    error("ResourceNotFoundException", "The specified log stream does not exist."),
    error("ResourceNotFound", "Requested resource not found."),
    error("ValidationException", "Requested resource not found."),
    error("ValidationException", "The request was rejected because the training job is in status Completed."),
    error("ClusterNotFoundException", "Cluster not found."),
    error("InvalidParameterException", "The referenced task was not found."),
    error("InvalidParameterException", "The specified nextToken is invalid."),
    error("ClientException", "The referenced cluster was inactive."),
    error("ResourceInUse", "The job is being changed."),
    error("OperationAbortedException", "A conflicting operation is in progress"),
]
OF_A_TASK: list[Answer] = [
    error("ClientException", "Capacity is unavailable at this time. Please try again later"),
    error("ClientException", "Too many concurrent attempts to create a new revision of the specified family."),
    error("ClientException", "TaskDefinition is inactive"),
    error("InvalidParameterException", "TaskDefinition not found."),
    error("InvalidParameterException", "No Container Instances were found in your cluster."),
    error(
        "InvalidParameterException",
        "Unable to assume the service linked role. Please verify that the ECS service linked role exists.",
    ),
]


@pytest.fixture(scope="module")
def account() -> Iterator[ScriptedApi]:
    """AWS; its clients take long to make, so every test has the same."""
    api = ScriptedApi({})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(aws_account, "_CONFIG", Config(retries={"total_max_attempts": 1}))
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{api.address}",
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "hush",
            "AIRFLOW_CONN_BY_A_ROLE": json.dumps({"conn_type": "aws", "extra": {"role_arn": ROLE}}),
        }.items():
            patched.setenv(name, value)
        yield api
    _account.cache_clear()
    api.close()


@pytest.fixture
def aws(account: ScriptedApi) -> ScriptedApi:
    """An account in which everything is there and runs."""
    account.usual, account.instead = dict(AWS), {}
    return account


SETTINGS: dict[str, dict[str, Any]] = {
    "sagemaker": {"RoleArn": ROLE, "ResourceConfig": {"InstanceType": "ml.m5.xlarge"}},
    "ecs": {"cluster": "splats", "launchType": "EC2"},
}
HANDLES: dict[str, dict[str, Any]] = {
    "sagemaker": {"job": JOB.name},
    "ecs": {"task": TASK, "cluster": "splats", "created": "2020-01-01T00:00:00+00:00", "log": ["/e2e3d", "a/stream"]},
}


@cache
def _account(name: str, aws_conn_id: str | None) -> aws_account.Account:
    return _on_aws(name, aws_conn_id).account


def _on_aws(name: str, aws_conn_id: str | None = None) -> Any:
    """A backend that was just made."""
    values = {"image": "e2e3d/sfm:1", "region_name": "us-east-1", "metrics_namespace": "E2E3D", **SETTINGS[name]}
    return backend_of(name, aws_conn_id=aws_conn_id, **values)


def on_aws(name: str, aws_conn_id: str | None = None) -> dict[str, Ask]:
    """Every verb, asked of a backend that was just made."""

    def new() -> Backend:
        made = _on_aws(name, aws_conn_id)
        made.account = _account(name, aws_conn_id)
        return made

    handle = HANDLES[name]
    return {
        "submit": lambda: new().submit(JOB),
        "find": lambda: new().find(JOB),
        "poll": lambda: new().poll(handle),
        "logs": lambda: new().logs(handle, 0),
        "logs further on": lambda: new().logs(handle, "a/stream\nf/1" if name == "sagemaker" else "f/1"),
        "cancel": lambda: new().cancel(handle),
        "clean_up": lambda: new().clean_up(handle, succeeded=True),
        "report": lambda: new().report("train", {"psnr": 30.0}),
    }


ASKED_OF_AWS = [
    ("ecs", "find", "ListTasks"),
    ("ecs", "find", "DescribeTasks"),
    ("ecs", "poll", "DescribeTasks"),
    ("ecs", "logs", "GetLogEvents"),
    ("ecs", "logs further on", "GetLogEvents"),
    ("ecs", "cancel", "StopTask"),
    ("ecs", "clean_up", "DescribeTasks"),
    ("ecs", "clean_up", "StopTask"),
    ("sagemaker", "find", "DescribeTrainingJob"),
    ("sagemaker", "poll", "DescribeTrainingJob"),
    ("sagemaker", "logs", "DescribeLogStreams"),
    ("sagemaker", "logs", "GetLogEvents"),
    ("sagemaker", "logs further on", "GetLogEvents"),
    ("sagemaker", "cancel", "StopTrainingJob"),
    ("sagemaker", "clean_up", "DescribeTrainingJob"),
    ("sagemaker", "clean_up", "StopTrainingJob"),
]
SUBMITTED_TO_AWS = [
    ("ecs", "DescribeTaskDefinition"),
    ("ecs", "RegisterTaskDefinition"),
    ("ecs", "RunTask"),
    ("sagemaker", "CreateTrainingJob"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "verb", "call"), ASKED_OF_AWS)
def test_what_aws_says_of_a_job_is_no_mistake(name: str, verb: str, call: str, aws: ScriptedApi) -> None:
    assert misjudged(aws, call, [*OF_AWS, *OF_A_JOB, *OF_A_TASK], on_aws(name)[verb]) == []


@pytest.mark.parametrize(("name", "call"), SUBMITTED_TO_AWS)
def test_what_passes_on_aws_is_no_mistake(name: str, call: str, aws: ScriptedApi) -> None:
    answers = [*OF_AWS, *OF_A_TASK] if name == "ecs" else OF_AWS
    if call == "RegisterTaskDefinition":
        aws.usual["DescribeTaskDefinition"] = error("ClientException", "Unable to describe task definition.")
    # Nothing that an earlier request might have started.
    aws.usual["ListTasks"] = (200, {"taskArns": []})
    assert misjudged(aws, call, answers, on_aws(name)["submit"]) == []


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["submit", "poll"])
def test_what_passes_where_airflow_takes_its_role_is_no_mistake(verb: str, aws: ScriptedApi) -> None:
    assert misjudged(aws, "AssumeRole", OF_STS, on_aws("ecs", aws_conn_id="by_a_role")[verb]) == []


@pytest.mark.parametrize("name", list(SETTINGS))
def test_metrics_that_do_not_get_through_now_are_no_mistake(name: str, aws: ScriptedApi) -> None:
    report = on_aws(name)["report"]
    client = _account(name, None).hook(client_type="cloudwatch").get_conn()
    for code, message, status in BUSY:
        with Stubber(client) as stub:
            stub.add_client_error("put_metric_data", code, message, status)
            assert code_of(report) is FailureCode.INFRASTRUCTURE


@pytest.mark.parametrize(
    "trouble",
    [
        NoCredentialsError(),
        CredentialRetrievalError(provider="container-role", error_msg="read timeout"),
        MetadataRetrievalError(error_msg="received non 200 response 500"),
        ConnectTimeoutError(endpoint_url="https://ecs"),
    ],
    ids=lambda trouble: type(trouble).__name__,
)
@pytest.mark.parametrize("name", list(SETTINGS))
def test_credentials_that_are_not_to_be_had_now_are_no_mistake(
    name: str, trouble: BotoCoreError, aws: ScriptedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise trouble

    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", fail)
    verbs = on_aws(name)
    assert {verb: code_of(ask) for verb, ask in verbs.items()} == dict.fromkeys(verbs, FailureCode.INFRASTRUCTURE)


@pytest.mark.parametrize(
    ("name", "verb", "call", "answer", "words"),
    [
        ("ecs", "submit", "RunTask", error("ClusterNotFoundException", "Cluster not found."), "Cluster not found"),
        ("ecs", "submit", "RunTask", error("PlatformUnknownException", "No such platform."), "No such platform"),
        ("ecs", "submit", "RunTask", error("AccessDeniedException", "iam:PassRole"), "may not do ecs:RunTask"),
        ("ecs", "submit", "RunTask", (200, {"tasks": [], "failures": [{"reason": "ATTRIBUTE"}]}), "ATTRIBUTE"),
        ("ecs", "poll", "DescribeTasks", error("AccessDeniedException", "no"), "may not do ecs:DescribeTasks"),
        ("ecs", "logs", "GetLogEvents", error("AccessDeniedException", "no"), "may not do logs:GetLogEvents"),
        ("ecs", "poll", "DescribeTasks", error("UnrecognizedClientException", "invalid token", 403), "deploy/aws"),
        ("ecs", "poll", "DescribeTasks", error("InvalidSignatureException", "does not match", 403), "deploy/aws"),
        ("sagemaker", "submit", "CreateTrainingJob", error("ValidationException", "no image"), "no image"),
        ("sagemaker", "submit", "CreateTrainingJob", error("ResourceNotFound", "no experiment"), "no experiment"),
        (
            "sagemaker",
            "submit",
            "CreateTrainingJob",
            error("ResourceLimitExceeded", "The limit 'ml.g5.xlarge for training job usage' is 0 Instances"),
            "Service Quotas",
        ),
    ],
)
def test_what_aws_will_never_do_and_what_airflow_may_not_is_a_mistake(
    name: str, verb: str, call: str, answer: Answer, words: str, aws: ScriptedApi
) -> None:
    aws.instead = {call: answer}
    with pytest.raises(InvalidRequest) as told:
        on_aws(name)[verb]()
    assert words in f"{told.value.message} {told.value.hint}"


@pytest.mark.parametrize(
    "reason",
    [
        "CannotPullContainerError: denied: Your authorization token has expired. Reauthenticate and try again.",
        "CannotPullContainerError: toomanyrequests: access denied, too many requests",
        "ResourceInitializationError: unable to pull secrets: ThrottlingException: Rate exceeded, not authorized yet",
        "CannotPullContainerError: manifest not found: i/o timeout",
    ],
)
def test_a_task_that_did_not_begin_for_what_passes_was_no_mistake(reason: str) -> None:
    task = {"lastStatus": "STOPPED", "stoppedReason": reason, "containers": [{"name": "stage"}]}
    assert code_of(lambda: ecs_status.job_status(task)) is FailureCode.INFRASTRUCTURE


@pytest.mark.parametrize(
    "reason",
    [
        "ClientError: Data download failed: Rate exceeded",
        "ClientError: Artifact upload failed: connection reset by peer. Please try again.",
        "CapacityError: Unable to provision requested ML compute capacity.",
        "InternalServerError: We encountered an internal error. Please try again.",
    ],
)
def test_a_training_job_that_failed_for_what_passes_was_no_mistake(reason: str) -> None:
    job = {"TrainingJobStatus": "Failed", "SecondaryStatus": "Failed", "FailureReason": reason}
    assert code_of(lambda: sagemaker_status.job_status(job)) is FailureCode.INFRASTRUCTURE
