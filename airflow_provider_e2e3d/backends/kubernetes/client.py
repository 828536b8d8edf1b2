"""A cluster's API: pods built by Airflow's KubernetesPodOperator, and what its answers mean.

Importing this takes seconds, so only what talks to a cluster does.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.secret import Secret
from airflow.sdk.exceptions import AirflowException
from kubernetes.client import ApiClient, ApiException, Configuration, CoreV1Api
from kubernetes.client import models as k8s
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError

from airflow_provider_e2e3d.backends.base import Handle, JobSpec, Unavailable, operator_arguments, unanswered
from airflow_provider_e2e3d.backends.kubernetes.status import MAIN
from e2e3d_stages.contract.messages import GRACE_SECONDS, Infrastructure, InvalidRequest, StageError

if TYPE_CHECKING:
    from airflow_provider_e2e3d.backends.kubernetes.settings import KubernetesSettings

SCRATCH = "/tmp"
_LABEL = "e2e3d"
_PAGE = 200
_READ_BYTES = 64 * 1024
# A longer line is cut: nobody reads it, and it must fit in memory.
_LONGEST_LINE = 1 << 20
# Answers of 4xx that tell of the cluster's state, and not of what was asked.
_OF_STATE = {408, 409, 410, 425}
# Refusals of 403 while the cluster counts, begins or clears a namespace away.
_UNSETTLED = re.compile("status unknown for quota|not yet ready to handle request|being terminated")
# Loading a kubeconfig goes through a global of the client's.
_loading = threading.Lock()


class Cluster:
    """The cluster that a profile's stage runs on.

    :param settings: the profile's.
    """

    def __init__(self, settings: KubernetesSettings) -> None:
        self._settings = settings

    # Pods

    def pod_of(self, job: JobSpec, image: str, *, secret: str | None = None) -> k8s.V1Pod:
        """The pod of a job as KubernetesPodOperator builds it, and what the profile left open.

        :param secret: a Secret, besides the profile's, whose keys become the program's environment.
        """
        given = self._arguments
        operator = self._operator(
            **given
            | {
                "name": job.name,
                "random_name_suffix": False,
                "image": image,
                "arguments": ["run", job.request_uri],
                "labels": given.get("labels", {}) | self._labels(job),
                "annotations": given.get("annotations", {}) | _annotations(job),
                "env_vars": [
                    *_env_vars(given.get("env_vars", [])),
                    *_env_vars(job.told),
                    self._threads,
                    _env("E2E3D_IMAGE", image),
                ],
                "env_from": [*given.get("env_from", []), *_from_secrets(self._settings.credentials_secret, secret)],
            }
        )
        return _completed(_built(operator))

    def create(self, pod: k8s.V1Pod) -> Handle:
        """Create a pod, or adopt the one of that name: what a dead worker started is this very job."""
        try:
            return _handle(self._call("create_namespaced_pod", pod.metadata.namespace, pod))
        except ApiException as error:
            if error.status == 409 and (found := self.find(pod)) is not None:
                return found
            raise _refusal(error, "create pods") from error

    def find(self, pod: k8s.V1Pod) -> Handle | None:
        """The pod of that name, running or not."""
        try:
            return _handle(self._call("read_namespaced_pod", pod.metadata.name, pod.metadata.namespace))
        except ApiException as error:
            if error.status == 404:
                return None
            raise _denied_or_unanswered(error, "read pods") from error

    def read(self, handle: Handle) -> k8s.V1Pod | None:
        """The pod, if it is there."""
        try:
            pod = self._call("read_namespaced_pod", handle["pod"], handle["namespace"])
        except ApiException as error:
            if error.status == 404:
                return None
            raise _denied_or_unanswered(error, "read pods") from error
        return pod if pod.metadata.uid == handle["uid"] else None

    def pods_to_delete(self) -> Iterator[tuple[Handle, k8s.V1Pod]]:
        """Every stage's pod in the profile's namespace, running or not, that is to be deleted with its job."""
        anywhere = _built(self._operator(**self._arguments | {"name": _LABEL, "image": _LABEL}))
        page = None
        while page is None or page.metadata._continue:
            try:
                page = self._call(
                    "list_namespaced_pod",
                    anywhere.metadata.namespace,
                    label_selector=f"{_LABEL}=delete_pod",
                    limit=_PAGE,
                    **({"_continue": page.metadata._continue} if page else {}),
                )
            except ApiException as error:
                raise _denied_or_unanswered(error, "list pods") from error
            yield from ((_handle(pod), pod) for pod in page.items)

    def delete(self, handle: Handle) -> None:
        """Ask for the pod's end and return at once."""
        only_this = k8s.V1DeleteOptions(preconditions=k8s.V1Preconditions(uid=handle["uid"]))
        try:
            self._call("delete_namespaced_pod", handle["pod"], handle["namespace"], body=only_this)
        except ApiException as error:
            # 409: another has its name, or somebody changed it at the same moment.
            if error.status != 404 and not (error.status == 409 and self.read(handle) is None):
                raise _denied_or_unanswered(error, "delete pods") from error

    def create_secret(self, owner: Handle, values: Mapping[str, str]) -> None:
        """Give a pod its credentials in a Secret that is removed with it; a pod without them is of no use."""
        secret = k8s.V1Secret(
            metadata=k8s.V1ObjectMeta(
                name=owner["pod"],
                labels={_LABEL: "credentials"},
                owner_references=[
                    k8s.V1OwnerReference(api_version="v1", kind="Pod", name=owner["pod"], uid=owner["uid"])
                ],
            ),
            string_data=dict(values),
            immutable=True,
        )
        try:
            self._call("create_namespaced_secret", owner["namespace"], secret)
        except ApiException as error:
            if _reason(error) != "AlreadyExists":
                refusal = _refusal(error, "create secrets")
                if not isinstance(refusal, Unavailable):
                    self.delete(owner)
                raise refusal from error

    @contextmanager
    def log_lines(self, handle: Handle, since_seconds: int | None) -> Iterator[Iterator[bytes]]:
        """The stage's log, each line after its time; read no further than it is asked for."""
        try:
            response = self._call(
                "read_namespaced_pod_log",
                handle["pod"],
                handle["namespace"],
                container=MAIN,
                timestamps=True,
                _preload_content=False,
                **({"since_seconds": since_seconds} if since_seconds else {}),
            )
        except ApiException as error:
            # 400: it has not started yet.
            if error.status not in (400, 404):
                raise _denied_or_unanswered(error, "read pods/log") from error
            yield iter(())
            return
        try:
            yield _lines(response)
        except (HTTPError, OSError) as error:
            raise Infrastructure(
                f"The pod's log broke off: {error}", hint="Check the way to the cluster's API."
            ) from error
        finally:
            # Closed, not given back: the rest of a long log would have to be read before.
            response.close()

    def last_warning(self, handle: Handle) -> str | None:
        """What the cluster last complained of about the pod."""
        try:
            events = self._call(
                "list_namespaced_event", handle["namespace"], field_selector=f"involvedObject.uid={handle['uid']}"
            ).items
        except ApiException:
            # A reason in other words is there without them.
            return None
        told = [
            (event.last_timestamp or event.event_time or event.metadata.creation_timestamp, event.message)
            for event in events
            # "Error: ErrImagePull" and "Back-off pulling image" repeat what stands in the pod itself.
            if event.type == "Warning" and not (event.message or "").startswith(("Error: ", "Back-off"))
        ]
        return max(told)[1] if told else None

    # The API

    def _call(self, verb: str, *arguments: Any, **options: Any) -> Any:
        """Call the API.

        :raises ApiException: what it refuses.
        :raises Unavailable: when it is busy or away.
        """
        try:
            return getattr(self._api, verb)(*arguments, **options)
        except ApiException as error:
            # 401: a token's time is over, and a new client gets a new one. 0: no answer at all.
            if error.status not in (0, 401, 429) and error.status < 500:
                raise
            if error.status == 401:
                self.__dict__.pop("_api", None)
            told = f"HTTP {error.status}: {_said(error)}"
        except (HTTPError, OSError) as error:
            told = str(error)
        raise Unavailable(
            f"The cluster's API does not answer: {told}",
            hint="Check that the API server is reachable from Airflow, and the credentials of the connection or "
            "kubeconfig that the profile names.",
        )

    @cached_property
    def _api(self) -> CoreV1Api:
        try:
            with _loading:
                return self._operator(**self._arguments).client
        except (AirflowException, ConfigException, OSError) as error:
            raise InvalidRequest(
                f"The profile does not lead to a cluster: {error}",
                hint="Set in_cluster, config_file (and cluster_context) or kubernetes_conn_id in the profile.",
            ) from error

    def _operator(self, **arguments: Any) -> KubernetesPodOperator:
        return KubernetesPodOperator(task_id=_LABEL, deferrable=False, **arguments)

    @cached_property
    def _arguments(self) -> dict[str, Any]:
        """What the profile says, as KubernetesPodOperator wants it."""
        values = self._settings.arguments
        kinds = operator_arguments(*self._settings.operator)
        if (file := values.get("pod_template_file")) and not Path(file).is_file():
            raise InvalidRequest(f"There is no pod_template_file {file}.", hint="Put it where Airflow's workers run.")
        if template := values.get("pod_template_dict"):
            _model(template, "V1Pod", "pod_template_dict")
        return {name: _official(name, value, kinds[name]) for name, value in values.items() if value is not None}

    @property
    def _threads(self) -> k8s.V1EnvVar:
        """How many cores the program may use: as the profile says, else as many as the container may."""
        if self._settings.threads:
            return _env("E2E3D_THREADS", str(self._settings.threads))
        source = k8s.V1ResourceFieldSelector(resource="limits.cpu")
        return k8s.V1EnvVar(name="E2E3D_THREADS", value_from=k8s.V1EnvVarSource(resource_field_ref=source))

    def _labels(self, job: JobSpec) -> dict[str, str]:
        return {
            _LABEL: self._settings.on_finish_action,
            f"{_LABEL}.stage": job.stage,
            f"{_LABEL}.key": job.key,
            f"{_LABEL}.attempt": str(job.claim.attempt),
        }


def _built(operator: KubernetesPodOperator) -> k8s.V1Pod:
    try:
        return operator.build_pod_request_obj(dry_run=True)
    except (AirflowException, ValueError, TypeError, AttributeError) as error:
        raise InvalidRequest(
            f"KubernetesPodOperator cannot build a pod of the profile: {error}",
            hint="Correct the stage's settings in the profile.",
        ) from error


def _annotations(job: JobSpec) -> dict[str, str]:
    """What is too long for a label."""
    return {f"{_LABEL}.owner": job.claim.owner, f"{_LABEL}.request": job.request_uri}


def _env(name: str, value: str) -> k8s.V1EnvVar:
    return k8s.V1EnvVar(name=name, value=value)


def _env_vars(given: Any) -> list[k8s.V1EnvVar]:
    return [_env(name, str(value)) for name, value in given.items()] if isinstance(given, Mapping) else given


def _from_secrets(*names: str | None) -> list[k8s.V1EnvFromSource]:
    return [k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name=name)) for name in names if name]


def _handle(pod: k8s.V1Pod) -> Handle:
    return {"namespace": pod.metadata.namespace, "pod": pod.metadata.name, "uid": pod.metadata.uid}


# Kubernetes' objects


def _official(name: str, value: Any, annotation: str) -> Any:
    """A value of the profile's YAML as the operator's annotation asks for it."""
    if annotation.startswith("list[Secret]"):
        try:
            return [Secret(**item) for item in value]
        except (TypeError, AirflowException) as error:
            raise InvalidRequest(
                f"The profile's {name} cannot work: {error}", hint="Its entries are what Airflow's Secret takes."
            ) from None
    kind = re.search(r"k8s\.(V1\w+)", annotation)
    if kind is None:
        return value
    if isinstance(value, list):
        return [_model(item, kind[1], f"{name}[{number}]") for number, item in enumerate(value)]
    # env_vars may also be a mapping of names to values.
    return value if annotation.startswith("list[") else _model(value, kind[1], name)


def _model(value: Any, kind: str, place: str) -> Any:
    """A mapping as Kubernetes' object of a kind; what the object does not know is refused and not dropped."""
    api = ApiClient(configuration=Configuration())
    try:
        model = api.deserialize(SimpleNamespace(data=json.dumps(value)), kind)
        lost = list(_lost(value, api.sanitize_for_serialization(model), place))
    except (AttributeError, TypeError, ValueError) as error:
        raise InvalidRequest(
            f"The profile's {place} is no {kind}: {error}", hint="Write it as Kubernetes' API reference has it."
        ) from None
    if lost:
        raise InvalidRequest(
            f"Kubernetes' {kind} has no {', '.join(lost)}.", hint="Write names as in Kubernetes' YAML: nodeAffinity."
        )
    return model


def _lost(given: Any, kept: Any, place: str) -> Iterator[str]:
    """Names that did not survive."""
    if isinstance(given, dict):
        for name, value in given.items():
            if not isinstance(kept, dict) or name not in kept:
                if value is not None:
                    yield f"{place}.{name}"
            else:
                yield from _lost(value, kept[name], f"{place}.{name}")
    elif isinstance(given, list) and isinstance(kept, list):
        for number, (value, other) in enumerate(zip(given, kept, strict=True)):
            yield from _lost(value, other, f"{place}[{number}]")


def _completed(pod: k8s.V1Pod) -> k8s.V1Pod:
    """Restrict the pod, and give it a scratch folder and time to save, wherever the profile does not say otherwise."""
    spec = pod.spec
    (main,) = (container for container in spec.containers if container.name == MAIN)
    if main.command:
        raise InvalidRequest(
            "The profile's pod template gives the first container a command.",
            hint="Take it out: the program is the image's own.",
        )
    # Above what the program takes at most after SIGTERM.
    spec.termination_grace_period_seconds = spec.termination_grace_period_seconds or int(GRACE_SECONDS) + 20
    spec.security_context = _filled(
        spec.security_context or k8s.V1PodSecurityContext(),
        run_as_non_root=True,
        seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
    )
    main.security_context = _filled(
        main.security_context or k8s.V1SecurityContext(),
        read_only_root_filesystem=True,
        allow_privilege_escalation=False,
        capabilities=k8s.V1Capabilities(drop=["ALL"]),
    )
    if not any(mount.mount_path.rstrip("/") == SCRATCH for mount in main.volume_mounts or []):
        scratch = f"{_LABEL}-scratch"
        main.volume_mounts = [*(main.volume_mounts or []), k8s.V1VolumeMount(name=scratch, mount_path=SCRATCH)]
        spec.volumes = [*(spec.volumes or []), k8s.V1Volume(name=scratch, empty_dir=k8s.V1EmptyDirVolumeSource())]
    return pod


def _filled(model: Any, **defaults: Any) -> Any:
    for name, value in defaults.items():
        if getattr(model, name) is None:
            setattr(model, name, value)
    return model


# Answers


def _lines(response: Any) -> Iterator[bytes]:
    """Whole lines; one without its end is still being written."""
    rest = b""
    for piece in response.stream(_READ_BYTES):
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
        rest = rest[:_LONGEST_LINE]


def _said(error: ApiException) -> str:
    """The API's own words."""
    return _told(error, "message") or str(error.reason)


def _reason(error: ApiException) -> str:
    """The API's name of what is wrong, as AlreadyExists."""
    return _told(error, "reason")


def _told(error: ApiException, name: str) -> str:
    try:
        return str(json.loads(error.body)[name])
    except (KeyError, TypeError, ValueError):
        return ""


def _passes(error: ApiException) -> bool:
    return error.status in _OF_STATE or (error.status == 403 and bool(_UNSETTLED.search(_said(error))))


def _denied_or_unanswered(error: ApiException, what: str) -> StageError:
    """What it means that the API does not tell of a pod, or end it."""
    if error.status == 403 and not _passes(error):
        return _refusal(error, what)
    return unanswered("The cluster's API", _said(error))


def _refusal(error: ApiException, what: str) -> StageError:
    """What the API's refusal of a pod or of its Secret means."""
    said = _said(error)
    if _passes(error):
        return unanswered("The cluster's API", said)
    if "exceeded quota" in said:
        return Infrastructure(
            f"The namespace's quota leaves no room for the pod: {said}",
            hint="Wait for other stages to end, limit them with an Airflow pool, or raise the ResourceQuota.",
        )
    if error.status == 403:
        return InvalidRequest(
            f"Airflow may not {what} there: {said}",
            hint="Give its service account the role of deploy/kubernetes/rbac.yaml.",
        )
    return InvalidRequest(f"The cluster refused to {what}: {said}", hint="Correct the stage's settings in the profile.")
