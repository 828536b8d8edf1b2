"""Stages as pods: what only Kubernetes knows; what every backend does alike is in test_conformance.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from kubernetes.client import ApiClient

from airflow_provider_e2e3d.backends.base import JobStatus, Unavailable, nanoseconds
from airflow_provider_e2e3d.backends.kubernetes import client as kubernetes_cluster
from airflow_provider_e2e3d.backends.kubernetes import status as kubernetes_status
from airflow_provider_e2e3d.backends.kubernetes.backend import KubernetesBackend
from airflow_provider_e2e3d.backends.kubernetes.settings import KubernetesSettings
from airflow_provider_e2e3d.jobs import attempt
from e2e3d_stages.contract.messages import FailureCode, Infrastructure, InvalidRequest, StageError
from e2e3d_stages.store.opening import open_storage
from tests.airflow_runs import Outcome
from tests.backends.kubernetes_api import Pod, moment
from tests.backends.places import KEY, KubernetesPlace, follow
from tests.conftest import until

pytestmark = pytest.mark.slow

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "hush-hush-secret-key"}
Run = Callable[..., Outcome]


@pytest.fixture
def place(make_place: Callable[[str], KubernetesPlace]) -> KubernetesPlace:
    """A cluster of the test's own."""
    return make_place("kubernetes")


def pod_of(place: KubernetesPlace, **settings: Any) -> dict[str, Any]:
    """The pod of a job that was just submitted, as the cluster has it; it need not run."""
    place.cluster.cordoned = True
    place.attempt(**settings)
    return place.cluster.only_pod().object


def ended(place: KubernetesPlace, **settings: Any) -> JobStatus:
    """How a job ends that its cluster cannot run."""
    made = place.attempt(**settings)
    until(lambda: not made.follow(print).running)
    status = made.backend.poll(made.state.handle)
    made.clean_up(succeeded=False)
    until(lambda: not place.left())
    return status


# The pod


def test_a_pod_says_whose_it_is(place: KubernetesPlace) -> None:
    metadata = pod_of(place)["metadata"]
    assert metadata["name"] == place.job().name
    assert metadata["namespace"] == "splats"
    assert {**metadata["labels"], "airflow_version": ""} == {
        "airflow_version": "",
        "e2e3d": "delete_pod",
        "e2e3d.stage": "ingest",
        "e2e3d.key": KEY,
        "e2e3d.attempt": "1",
    }
    assert metadata["annotations"] == {"e2e3d.owner": "test", "e2e3d.request": place.job().request_uri}


def test_a_pod_can_do_little_and_write_nowhere_but_its_scratch(place: KubernetesPlace) -> None:
    place.settings.pop("security_context")
    spec = pod_of(place)["spec"]
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert (spec["restartPolicy"], spec["terminationGracePeriodSeconds"]) == ("Never", 120)
    assert container["volumeMounts"][-1] == {"name": "e2e3d-scratch", "mountPath": "/tmp"}
    assert spec["volumes"][-1] == {"name": "e2e3d-scratch", "emptyDir": {}}
    assert [container["name"], container["args"]] == ["base", ["run", place.job().request_uri]]
    assert not container["command"]


def test_every_argument_of_the_operator_reaches_the_pod_as_in_kubernetes_own_yaml(place: KubernetesPlace) -> None:
    settings = yaml.safe_load("""
        node_selector: {gpu: l4}
        tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
        affinity:
          nodeAffinity:
            requiredDuringSchedulingIgnoredDuringExecution:
              nodeSelectorTerms: [{matchExpressions: [{key: zone, operator: In, values: [a]}]}]
        container_resources: {requests: {cpu: 500m}, limits: {cpu: 2, memory: 16Gi, nvidia.com/gpu: 1}}
        runtime_class_name: nvidia
        service_account_name: stages
        automount_service_account_token: false
        image_pull_secrets: [{name: registry}]
        image_pull_policy: IfNotPresent
        annotations: {sidecar.istio.io/inject: "false"}
        labels: {team: scans}
        env_from: [{configMapRef: {name: settings}}]
        secrets: [{deploy_type: env, deploy_target: TOKEN, secret: tokens, key: token}]
        configmaps: [more-settings]
        priority_class_name: low
        active_deadline_seconds: 86400
        termination_grace_period: 300
        host_aliases: [{ip: 10.0.0.9, hostnames: [nas]}]
        dns_config: {nameservers: [10.0.0.1]}
        init_containers: [{name: warm, image: busybox, command: [sleep, "1"]}]
    """)
    pod = pod_of(place, **settings)
    spec = pod["spec"]
    (container,) = spec["containers"]
    assert spec["nodeSelector"] == {"gpu": "l4"}
    assert spec["tolerations"] == settings["tolerations"]
    assert spec["affinity"] == settings["affinity"]
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "16Gi", "nvidia.com/gpu": "1"}
    assert (spec["runtimeClassName"], spec["serviceAccountName"]) == ("nvidia", "stages")
    assert spec["automountServiceAccountToken"] is False
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert container["imagePullPolicy"] == "IfNotPresent"
    assert pod["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"
    assert pod["metadata"]["labels"]["team"] == "scans"
    assert container["envFrom"] == [{"configMapRef": {"name": name}} for name in ("settings", "more-settings")]
    env = {each["name"]: each for each in container["env"]}
    assert env["TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "tokens", "key": "token"}
    assert env["E2E3D_THREADS"]["valueFrom"]["resourceFieldRef"] == {"resource": "limits.cpu"}
    assert env["E2E3D_IMAGE"]["value"] == place.settings["image"]
    assert (spec["priorityClassName"], spec["activeDeadlineSeconds"]) == ("low", 86400)
    assert spec["terminationGracePeriodSeconds"] == 300
    assert spec["hostAliases"] == settings["host_aliases"]
    assert spec["dnsConfig"] == settings["dns_config"]
    assert spec["initContainers"][0]["name"] == "warm"


TEMPLATE = {
    "metadata": {"labels": {"from": "template"}},
    "spec": {
        "terminationGracePeriodSeconds": 200,
        "securityContext": {"fsGroup": 5},
        "containers": [
            {
                "name": "base",
                "securityContext": {"readOnlyRootFilesystem": False},
                "volumeMounts": [{"name": "fast", "mountPath": "/tmp"}],
            },
            {"name": "beside", "image": "busybox"},
        ],
        "volumes": [{"name": "fast", "emptyDir": {"sizeLimit": "200Gi"}}],
    },
}


@pytest.mark.parametrize("way", ["pod_template_dict", "pod_template_file", "full_pod_spec"])
def test_a_pod_template_is_the_base_and_wins_over_what_the_profile_leaves_open(
    place: KubernetesPlace, tmp_path: Path, way: str
) -> None:
    file = tmp_path / "template.yaml"
    file.write_text(yaml.safe_dump(TEMPLATE))
    place.settings.pop("security_context")
    pod = pod_of(place, **{way: str(file) if way == "pod_template_file" else TEMPLATE})
    spec, container = pod["spec"], pod["spec"]["containers"][0]
    assert pod["metadata"]["labels"]["from"] == "template"
    assert spec["terminationGracePeriodSeconds"] == 200
    assert (spec["securityContext"]["fsGroup"], spec["securityContext"]["runAsNonRoot"]) == (5, True)
    assert container["securityContext"]["readOnlyRootFilesystem"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert [each["mountPath"] for each in container["volumeMounts"]].count("/tmp") == 1
    assert [each["name"] for each in spec["containers"]] == ["base", "beside"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tolerations": [{"key": "a", "efect": "x"}]}, "V1Toleration has no tolerations[0].efect"),
        ({"affinity": {"node_affinity": {}}}, "V1Affinity has no affinity.node_affinity"),
        ({"volumes": ["fast"]}, "volumes[0]"),
        ({"secrets": [{"name": "x"}]}, "secrets"),
        ({"pod_template_dict": {"specs": {}}}, "pod_template_dict.specs"),
        ({"pod_template_file": "/no/such/file"}, "no pod_template_file /no/such/file"),
        (
            {"full_pod_spec": {"spec": {"containers": [{"name": "base", "command": ["sh"]}]}}},
            "gives the first container a command",
        ),
        ({"config_file": "/no/kubeconfig"}, "does not lead to a cluster"),
        ({"labels": {"team": "a team"}}, "Invalid value"),
        ({"namespace": "forbidden"}, "may not create pods"),
    ],
)
def test_what_cannot_work_is_told_and_leaves_nothing(
    place: KubernetesPlace, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequest) as told:
        place.attempt(**settings)
    assert words in told.value.message
    assert place.left() == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"node_selecter": {}}, "KubernetesPodOperator has no 'node_selecter'; did you mean node_selector"),
        ({"credential_secret": "x"}, "did you mean credentials_secret"),
        ({"cmds": ["sh"]}, "'cmds' is the stage's own"),
        ({"arguments": ["sh"]}, "the stage's own"),
        ({"do_xcom_push": True}, "the stage's own"),
        ({"skip_on_exit_code": 2}, "the stage's own"),
        ({"get_logs": False}, "the stage's own"),
        ({"retries": 3}, "has no 'retries'"),
        ({"on_finish_action": "delete"}, "on_finish_action"),
        ({"startup_timeout_seconds": 0}, "startup_timeout_seconds"),
    ],
)
def test_a_profile_that_cannot_work_is_refused_when_it_is_read(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        KubernetesSettings.model_validate({"backend": "kubernetes", **settings})


def test_the_image_is_this_release_s_for_the_stage_unless_the_profile_names_one(place: KubernetesPlace) -> None:
    made = KubernetesBackend(KubernetesSettings(backend="kubernetes"))
    assert made.settings.image_of(place.job()).startswith("e2e3d/sfm:")
    assert pod_of(place)["spec"]["containers"][0]["image"] == place.settings["image"]


def test_a_stage_has_as_many_threads_as_its_limit_of_cores_or_the_profile_says(place: KubernetesPlace) -> None:
    made = place.attempt(container_resources={"limits": {"cpu": "1500m"}})
    lines: list[str] = []
    assert follow(made, lines) == 0
    pod = place.cluster.only_pod()
    assert pod._environment()["E2E3D_THREADS"] == "2"
    made.clean_up(succeeded=True)
    until(lambda: not place.left())
    assert {"name": "E2E3D_THREADS", "value": "3"} in pod_of(place, threads=3)["spec"]["containers"][0]["env"]


# Credentials and folders


def test_credentials_are_in_a_secret_that_the_pod_takes_along_and_nowhere_else(
    place: KubernetesPlace, run: Run, s3_root: str, minio: dict[str, str], airflow_home: Path
) -> None:
    secret = minio["AWS_SECRET_ACCESS_KEY"]
    storage = open_storage(s3_root, minio)
    storage.write("captures/statue/1.jpg", b"a photo")
    place.profile |= {"store": f"{s3_root}/store", "store_conn_id": "minio", "captures": [f"{s3_root}/captures"]}
    place.settings |= {"hostnetwork": True, "on_finish_action": "keep_pod"}
    place.settings.pop("security_context")
    outcome = run(last="sfm", capture=f"{s3_root}/captures/statue")
    assert outcome.state == "success", outcome.log
    pods = [pod.object for pod in place.cluster.pods.values()]
    assert len(pods) == len(place.cluster.secrets) == 2
    assert secret not in json.dumps(pods)
    assert secret not in outcome.log
    assert secret not in str(outcome.results)
    for pod in list(place.cluster.pods.values()):
        assert pod.container is not None
        assert secret.encode() not in place.cluster.engine.logs(pod.container)
        assert pod._environment()["AWS_SECRET_ACCESS_KEY"] == secret
        pod.vanish()
    assert place.cluster.secrets == {}
    assert not any(secret.encode() in storage.read(entry.path) for entry in storage.list())
    assert not any(secret.encode() in file.read_bytes() for file in airflow_home.rglob("*") if file.is_file())


def test_a_secret_that_the_profile_names_stands_for_the_connection_s_credentials(place: KubernetesPlace) -> None:
    place.cluster.secrets["splats", "store"] = {"metadata": {"name": "store"}, "data": {}}
    made = place.attempt(environment=CREDENTIALS, credentials_secret="store")
    assert list(place.cluster.secrets) == [("splats", "store")]
    (container,) = place.cluster.only_pod().spec["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "store"}}]
    assert follow(made) == 0


def test_a_secret_that_is_not_there_is_told(place: KubernetesPlace) -> None:
    failure = ended(place, credentials_secret="stoer").failure
    assert failure is not None
    assert failure.code is FailureCode.INVALID_REQUEST
    assert 'secret "stoer" not found' in failure.message


def test_a_pod_that_cannot_be_given_its_credentials_is_removed(place: KubernetesPlace) -> None:
    with pytest.raises(InvalidRequest, match="may not create secrets"):
        place.attempt(environment=CREDENTIALS, namespace="secretless")
    until(lambda: not place.left())


def test_a_worker_that_dies_between_pod_and_secret_costs_one_more_try(
    place: KubernetesPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(kubernetes_cluster.Cluster, "create_secret", die)
        with pytest.raises(KeyboardInterrupt):
            place.attempt(environment=CREDENTIALS)
    found = place.backend().find(place.job())
    assert found is not None
    until(lambda: place.cluster.only_pod().object["status"].get("containerStatuses"))
    assert place.backend().poll(found).running
    monkeypatch.setattr(kubernetes_status, "_PATIENCE", 0)
    until(lambda: not place.backend().poll(found).running)
    failure = place.backend().poll(found).failure
    assert failure is not None
    assert failure.code is FailureCode.INFRASTRUCTURE
    assert "before it gave the pod its credentials" in failure.message


@pytest.mark.parametrize("what", ["store", "capture"])
def test_a_folder_that_no_volume_brings_to_the_pod_is_refused_before_anything_is_made(
    place: KubernetesPlace, what: str
) -> None:
    if what == "store":
        place.settings["volume_mounts"] = [
            mount for mount in place.settings["volume_mounts"] if mount["name"] != "store"
        ]
    backend = place.backend()
    with pytest.raises(InvalidRequest, match="mounts no volume there") as told:
        backend.submit(place.job(capture="file:///elsewhere/photos" if what == "capture" else None))
    assert "volume_mounts" in told.value.hint
    assert place.cluster.calls == []


# What a cluster does to pods


@pytest.mark.parametrize(
    ("image", "code", "words"),
    [
        ("registry.example.org/no/such:1", FailureCode.INVALID_REQUEST, "not found"),
        ("registry.example.org/UPPER", FailureCode.INVALID_REQUEST, "InvalidImageName"),
        ("unreachable.example.org/e2e3d:1", FailureCode.INFRASTRUCTURE, "i/o timeout"),
    ],
)
def test_an_image_that_cannot_be_pulled_is_told_with_the_node_s_words_and_the_pod_removed(
    place: KubernetesPlace, image: str, code: FailureCode, words: str
) -> None:
    # Also a pod that would be kept: it would begin when the image comes.
    failure = ended(place, image=image, on_finish_action="keep_pod").failure
    assert failure is not None
    assert failure.code is code
    assert words in failure.message
    assert failure.hint


def test_a_pod_that_no_node_can_take_is_given_up_in_time_with_the_scheduler_s_words(place: KubernetesPlace) -> None:
    settings = {"container_resources": {"limits": {"nvidia.com/gpu": 1}}, "node_selector": {"gpu": "l4"}}
    made = place.attempt(**settings, schedule_timeout_seconds=100)
    until(lambda: place.cluster.events)
    assert made.backend.poll(made.state.handle).running
    place.cluster.only_pod().object["metadata"]["creationTimestamp"] = moment(-110)
    failure = made.backend.poll(made.state.handle).failure
    assert failure is not None
    assert failure.code is FailureCode.INFRASTRUCTURE
    assert "1 Insufficient nvidia.com/gpu, 1 node(s) didn't match Pod's node affinity/selector" in failure.message
    assert "schedule_timeout_seconds" in failure.hint


def test_a_pod_that_runs_as_root_although_it_may_not_is_told(place: KubernetesPlace) -> None:
    failure = ended(place, security_context={"runAsUser": 0}).failure
    assert failure is not None
    assert failure.code is FailureCode.INVALID_REQUEST
    assert "runAsNonRoot" in failure.message


@pytest.mark.parametrize("fate", [Pod.evict, Pod.preempt])
def test_a_pod_that_the_cluster_takes_away_was_interrupted(place: KubernetesPlace, fate: Callable[[Pod], None]) -> None:
    place.script["ingest"] = ["wait"]
    made = place.attempt()
    until(lambda: place.script.calls)
    fate(place.cluster.only_pod())
    until(lambda: not made.follow(print).running)
    status = made.backend.poll(made.state.handle)
    assert made.failure(status).code is FailureCode.INTERRUPTED
    # Also where its program had no time to say so.
    assert status.failure is not None
    assert status.failure.code is FailureCode.INTERRUPTED


def test_a_pod_whose_node_is_lost_was_interrupted_and_the_next_runs_on_another(place: KubernetesPlace) -> None:
    place.script["ingest"] = ["wait", "succeed"]
    lost = place.attempt()
    until(lambda: place.script.calls)
    place.cluster.only_pod().lose_node()
    until(lambda: not lost.follow(print).running)
    failure = lost.failure(lost.backend.poll(lost.state.handle))
    assert failure.code is FailureCode.INTERRUPTED
    assert "does not answer any more" in failure.message
    lost.clean_up(succeeded=False)
    assert follow(place.attempt()) == 0


def test_a_mesh_s_sidecar_that_goes_on_keeps_nobody_waiting(place: KubernetesPlace) -> None:
    place.cluster.mesh = True
    made = place.attempt()
    assert follow(made) == 0
    assert place.cluster.only_pod().object["status"]["phase"] == "Running"
    made.clean_up(succeeded=True)
    until(lambda: not place.left())


def test_a_full_disk_is_told_as_such(place: KubernetesPlace) -> None:
    place.script["ingest"] = ["fill the disk"]
    place.settings["volumes"] += [{"name": "small", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]
    place.settings["volume_mounts"] += [{"name": "small", "mountPath": "/tmp"}]
    made = place.attempt()
    follow(made)
    assert "disk is full" in made.failure(made.backend.poll(made.state.handle)).message


@pytest.mark.parametrize(
    ("word", "kept_by", "removed_by"),
    [
        ("succeed", ["keep_pod"], "delete_succeeded_pod"),
        ("crash", ["keep_pod", "delete_succeeded_pod"], "delete_pod"),
    ],
)
def test_ended_pods_are_kept_or_removed_as_the_profile_says(
    place: KubernetesPlace, word: str, kept_by: list[str], removed_by: str
) -> None:
    place.script["ingest"] = [word]
    made = place.attempt()
    succeeded = follow(made) == 0
    assert succeeded is (word == "succeed")
    for policy in kept_by:
        place.backend(on_finish_action=policy).clean_up(made.state.handle, succeeded=succeeded)
        assert place.backend().find(place.job()) == made.state.handle
    # An ended pod is adopted, too: its exit status is still to be read.
    assert place.backend().submit(place.job()) == made.state.handle
    assert place.script.calls == ["ingest"]
    place.backend(on_finish_action=removed_by).clean_up(made.state.handle, succeeded=succeeded)
    until(lambda: not place.left())


def test_another_pod_of_the_same_name_is_not_taken_for_this_one(place: KubernetesPlace) -> None:
    place.cluster.cordoned = True
    made = place.attempt()
    place.remove(made)
    again = made.backend.submit(place.job())
    status = made.backend.poll(made.state.handle)
    assert status.failure is not None
    assert "is gone from the cluster" in status.failure.message
    made.cancel()
    assert made.backend.find(place.job()) == again


def of(**status: Any) -> Any:
    """A pod of a status, as the client reads it."""
    about = {"name": "a-pod", "creationTimestamp": moment(-100)}
    spec = {"containers": [{"name": "base"}], "nodeName": "node-1"}
    pod = {"metadata": about, "spec": spec, "status": status}
    return ApiClient().deserialize(SimpleNamespace(data=json.dumps(pod)), "V1Pod")


def container(name: str = "base", **state: Any) -> dict[str, Any]:
    """The status of a container."""
    return {"name": name, "state": state, "image": "", "imageID": "", "ready": False, "restartCount": 0}


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        ({"reason": "DeadlineExceeded", "message": "Pod was active too long"}, "interrupted", "active too long"),
        ({"reason": "NodeLost", "phase": "Unknown"}, "interrupted", "NodeLost"),
        ({"reason": "Terminated", "message": "imminent node shutdown"}, "interrupted", "imminent node shutdown"),
        (
            {"containerStatuses": [container(terminated={"exitCode": 137, "reason": "OOMKilled"})]},
            "out_of_memory",
            "memory",
        ),
        (
            {"containerStatuses": [container(terminated={"exitCode": 137, "reason": "ContainerStatusUnknown"})]},
            "interrupted",
            "lost the container",
        ),
        (
            {"containerStatuses": [container(terminated={"exitCode": 128, "reason": "StartError", "message": "nvml"})]},
            "infrastructure",
            "nvml",
        ),
        (
            {
                "initContainerStatuses": [container("warm", terminated={"exitCode": 3})],
                "containerStatuses": [container(waiting={"reason": "PodInitializing"})],
            },
            "infrastructure",
            "warm ended with exit status 3",
        ),
    ],
)
def test_a_pod_s_status_tells_what_a_retry_can_do(status: dict[str, Any], code: str, words: str) -> None:
    told = kubernetes_status.job_status(of(**{"phase": "Failed", **status}))
    assert not told.running
    assert told.failure is not None
    assert told.failure.code == code
    assert words in told.failure.message


def test_a_pod_that_takes_too_long_to_start_on_its_node_is_given_up() -> None:
    pod = of(
        phase="Pending",
        startTime=moment(-100),
        conditions=[{"type": "PodScheduled", "status": "True"}],
        containerStatuses=[container(waiting={"reason": "ContainerCreating"})],
    )
    assert kubernetes_status.job_status(pod, startup_seconds=200).running
    told = kubernetes_status.job_status(pod, startup_seconds=50, last_warning=lambda: "MountVolume.SetUp failed")
    assert told.failure is not None
    assert told.failure.code is FailureCode.INFRASTRUCTURE
    assert "did not start within 50 s: MountVolume.SetUp failed" in told.failure.message


def test_times_of_log_lines_are_wholenanoseconds() -> None:
    assert nanoseconds("1970-01-01T00:00:01.000000001Z") == 10**9 + 1
    assert nanoseconds("1970-01-01T01:00:00.5+01:00") == 5 * 10**8
    assert nanoseconds("1970-01-01T00:00:02Z") == 2 * 10**9


# The API


def test_an_api_that_stays_away_is_told(place: KubernetesPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    place.cluster.cordoned = True
    made = place.attempt()
    disturbance = place.cluster.answer(503, seconds=60)
    assert made.follow(print).running
    monkeypatch.setattr(attempt, "FOLLOW_PATIENCE_SECONDS", 0)
    with pytest.raises(Infrastructure, match="does not answer: HTTP 503") as told:
        made.follow(print)
    assert told.value.hint
    assert disturbance.refused
    place.cluster.answer(200, seconds=0)


def test_an_expired_token_is_renewed(place: KubernetesPlace) -> None:
    file = Path(place.settings["config_file"])
    good = file.read_text()
    file.write_text(good.replace("a-token", "an-old-token"))
    backend = place.backend()
    with pytest.raises(Unavailable):
        backend.find(place.job())
    file.write_text(good)
    assert backend.find(place.job()) is None


def test_a_quota_that_is_used_up_is_tried_again_later(place: KubernetesPlace) -> None:
    place.cluster.quota_message = "exceeded quota: stages, requested: pods=1, used: pods=10, limited: pods=10"
    with pytest.raises(StageError) as told:
        place.attempt()
    assert told.value.code is FailureCode.INFRASTRUCTURE
    assert "used: pods=10" in told.value.message
