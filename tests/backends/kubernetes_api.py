"""A small Kubernetes cluster for tests: an API server over HTTP and one node, which runs real containers.

What Kubernetes' own client needs for pods, their logs, events and secrets. A pod's container named `base` is started
by the Docker engine with what its specification says; phases, reasons, grace periods and messages are as a kubelet
of 1.33 gives them. Tests evict pods, lose the node, keep the API busy or away, and inject a service mesh's sidecar.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import docker
import kubernetes_validate
import yaml
from docker.errors import APIError, ImageNotFound, NotFound
from docker.types import Mount

from tests.backends.doubles import Disturbance, serve

VERSION = "1.33"
# Containers that tests want to keep apart carry this label.
LABEL = "e2e3d-test-cluster"
_TICK = 0.05
Json = dict[str, Any]


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        self.body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
        self.body |= {"reason": reason, "message": message}
        self.code = code


def moment(shift: float = 0) -> str:
    """Now, as Kubernetes writes it."""
    return (dt.datetime.now(dt.timezone.utc) + dt.timedelta(seconds=shift)).strftime("%Y-%m-%dT%H:%M:%SZ")


class Cluster:
    """One namespace-blind cluster with one node.

    :param engine: runs the containers.
    :param labels: of the node.
    :param gpus: of the node.
    """

    def __init__(self, engine: docker.APIClient, labels: dict[str, str] | None = None, gpus: int = 0) -> None:
        self.engine = engine
        self.mark = uuid.uuid4().hex
        self.labels = {"kubernetes.io/os": "linux", **(labels or {})}
        self.gpus = gpus
        self.pods: dict[tuple[str, str], Pod] = {}
        self.secrets: dict[tuple[str, str], Json] = {}
        self.events: list[Json] = []
        # Every call as (verb, path).
        self.calls: list[tuple[str, str]] = []
        # Names of pods in the order in which they were created.
        self.created: list[str] = []
        self.mesh = False
        # Then pods are kept as they were asked for, and nothing runs.
        self.cordoned = False
        self.quota_message: str | None = None
        self._disturbance = Disturbance(0)
        self._code = 0
        self._server = _Server(self)
        serve(self._server)

    def kubeconfig(self, file: Path) -> Path:
        """Write how to reach this cluster."""
        server = f"http://127.0.0.1:{self._server.server_address[1]}"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": server}}],
            "users": [{"name": "test", "user": {"token": "a-token"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "splats"}}],
            "current-context": "test",
        }
        file.write_text(yaml.safe_dump(content))
        return file

    def close(self) -> None:
        """End everything."""
        self._server.shutdown()
        self._server.server_close()
        for pod in list(self.pods.values()):
            pod.gone.set()
        for found in self.engine.containers(all=True, filters={"label": f"{LABEL}={self.mark}"}):
            with contextlib.suppress(APIError):
                self.engine.remove_container(found["Id"], v=True, force=True)

    # What tests demand

    def answer(self, code: int | None, *, seconds: float) -> Disturbance:
        """Answer every call so for a while; without a code, not at all."""
        self._code, self._disturbance = code or 0, Disturbance(seconds)
        return self._disturbance

    def only_pod(self) -> Pod:
        """The one pod there is."""
        (pod,) = self.pods.values()
        return pod

    # The API

    def handle(self, verb: str, url: str, body: Json | None) -> Json | Iterator[bytes]:
        """Answer one call."""
        parts = urlsplit(url)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.calls.append((verb, parts.path))
        if self._disturbance.refuses():
            told = "the server has received too many requests, try again later"
            raise Refused(self._code, "TooManyRequests", told)
        match = re.fullmatch(r"/api/v1/namespaces/([^/]+)/(pods|secrets|events)(?:/([^/]+))?(/log)?", parts.path)
        if match is None:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        namespace, kind, name, log = match.groups()
        what = f"{'log_of' if log else {'GET': 'read' if name else 'list'}.get(verb, verb.lower())}_{kind}"
        method: Callable[..., Any] | None = getattr(self, what, None)
        if method is None:
            raise Refused(405, "MethodNotAllowed", f"{verb} {parts.path}")
        return method(namespace, name, query, body)  # type: ignore[no-any-return]

    def post_pods(self, namespace: str, _name: None, _query: Json, body: Json) -> Json:
        if self.quota_message:
            raise Refused(403, "Forbidden", f'pods "{body["metadata"]["name"]}" is forbidden: {self.quota_message}')
        if namespace.startswith("forbidden"):
            told = f'pods is forbidden: User "test" cannot create resource "pods" in the namespace "{namespace}"'
            raise Refused(403, "Forbidden", told)
        try:
            kubernetes_validate.validate(body, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            raise Refused(
                422, "Invalid", f"Pod is invalid: {'.'.join(map(str, error.path))}: {error.message}"
            ) from None
        name = body["metadata"]["name"]
        for labelled in body["metadata"].get("labels", {}).values():
            if not re.fullmatch(r"(?=.{0,63}$)([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?", labelled):
                raise Refused(422, "Invalid", f'Pod "{name}" is invalid: metadata.labels: Invalid value: "{labelled}"')
        if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", name):
            raise Refused(422, "Invalid", f'Pod "{name}" is invalid: metadata.name')
        if (namespace, name) in self.pods:
            raise Refused(409, "AlreadyExists", f'pods "{name}" already exists')
        pod = Pod(self, namespace, body)
        self.pods[namespace, name] = pod
        self.created.append(name)
        threading.Thread(target=pod.live, daemon=True).start()
        return pod.object

    def read_pods(self, namespace: str, name: str, _query: Json, _body: None) -> Json:
        return self._pod(namespace, name).object

    def list_pods(self, namespace: str, _name: None, query: Json, _body: None) -> Json:
        wanted = dict(each.split("=", 1) for each in query.get("labelSelector", "").split(",") if each)
        found = [
            pod.object
            for (place, _), pod in list(self.pods.items())
            if place == namespace and wanted.items() <= pod.object["metadata"].get("labels", {}).items()
        ]
        return {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": found}

    def delete_pods(self, namespace: str, name: str, query: Json, body: Json | None) -> Json:
        pod = self._pod(namespace, name)
        options = body or {}
        uid = options.get("preconditions", {}).get("uid")
        if uid and uid != pod.object["metadata"]["uid"]:
            raise Refused(409, "Conflict", f"Precondition failed: UID in precondition: {uid}")
        grace = options.get("gracePeriodSeconds", query.get("gracePeriodSeconds"))
        pod.delete(pod.spec["terminationGracePeriodSeconds"] if grace is None else int(grace))
        return pod.object

    def log_of_pods(self, namespace: str, name: str, query: Json, _body: None) -> Iterator[bytes]:
        pod = self._pod(namespace, name)
        if pod.container is None:
            told = f'container "base" in pod "{name}" is waiting to start: ContainerCreating'
            raise Refused(400, "BadRequest", told)
        since = int(time.time()) - int(query["sinceSeconds"]) if "sinceSeconds" in query else None
        stamps = query.get("timestamps", "").lower() == "true"
        try:
            log = self.engine.logs(pod.container, stream=True, follow=False, timestamps=stamps, since=since)
        except APIError:
            # The container goes a moment before its pod.
            raise Refused(404, "NotFound", f'pods "{name}" not found') from None
        return _joined(log)

    def list_events(self, namespace: str, _name: None, query: Json, _body: None) -> Json:
        uid = query.get("fieldSelector", "").partition("involvedObject.uid=")[2]
        found = [event for event in self.events if event["involvedObject"]["uid"] == uid]
        return {"kind": "EventList", "apiVersion": "v1", "metadata": {}, "items": found}

    def post_secrets(self, namespace: str, _name: None, _query: Json, body: Json) -> Json:
        if namespace.startswith("secretless"):
            raise Refused(403, "Forbidden", 'secrets is forbidden: User "test" cannot create resource "secrets"')
        name = body["metadata"]["name"]
        if (namespace, name) in self.secrets:
            raise Refused(409, "AlreadyExists", f'secrets "{name}" already exists')
        data = {key: base64.b64encode(value.encode()).decode() for key, value in body.pop("stringData", {}).items()}
        secret = {"kind": "Secret", "apiVersion": "v1", **body, "data": {**body.get("data", {}), **data}}
        self.secrets[namespace, name] = secret
        return secret

    def forget(self, pod: Pod) -> None:
        """A pod is gone, and what it owned with it."""
        self.pods.pop((pod.namespace, pod.name), None)
        for place, secret in list(self.secrets.items()):
            if pod.object["metadata"]["uid"] in [
                owner["uid"] for owner in secret["metadata"].get("ownerReferences", [])
            ]:
                del self.secrets[place]

    def _pod(self, namespace: str, name: str) -> Pod:
        if (namespace, name) not in self.pods:
            raise Refused(404, "NotFound", f'pods "{name}" not found')
        return self.pods[namespace, name]


class Pod:
    """A pod and what its node does for it."""

    def __init__(self, cluster: Cluster, namespace: str, body: Json) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.name: str = body["metadata"]["name"]
        metadata = {**body["metadata"], "namespace": namespace, "uid": str(uuid.uuid4())}
        metadata["creationTimestamp"] = moment()
        self.spec: Json = {"terminationGracePeriodSeconds": 30, **body["spec"]}
        self.object: Json = {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": self.spec}
        self.object["status"] = {"phase": "Pending"}
        self.base: Json = next(each for each in self.spec["containers"] if each["name"] == "base")
        self.container: str | None = None
        self.gone = threading.Event()
        self._deleting = threading.Event()
        self._taken: Json | None = None

    # What tests demand

    def evict(self) -> None:
        """The node runs out of memory for all."""
        self._take(reason="Evicted", message="The node was low on resource: memory.")
        self._stop(2)

    def preempt(self) -> None:
        """A pod of higher priority needs the place."""
        told = "pod-a: preempting to accommodate a higher priority pod"
        condition = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": told}
        self._take(conditions=[condition])
        self._stop(2)

    def lose_node(self) -> None:
        """The node is gone with its containers; the API still shows what it last heard."""
        self.gone.set()
        self.object["metadata"]["deletionTimestamp"] = moment(-300)
        if self.container:
            self.cluster.engine.kill(self.container)

    def vanish(self) -> None:
        """Somebody deletes it with force: its program has no time to say so."""
        if self.container:
            with contextlib.suppress(APIError):
                self.cluster.engine.kill(self.container)
        self.delete(0)
        self.gone.wait(30)

    def _take(self, **status: Any) -> None:
        self._taken = {"phase": "Failed", **status}

    # What the API demands

    def delete(self, grace: int) -> None:
        """Ask for its end."""
        if not self._deleting.is_set():
            self.object["metadata"] |= {"deletionTimestamp": moment(grace), "deletionGracePeriodSeconds": grace}
        self._deleting.set()
        threading.Thread(target=self._end, args=(grace,), daemon=True).start()

    def _end(self, grace: int) -> None:
        if not self.gone.is_set():
            self._stop(grace)
            # A moment in which the end can be seen, as there is one on a cluster.
            time.sleep(_TICK)
        self.gone.set()
        self.cluster.forget(self)
        if self.container:
            with contextlib.suppress(APIError):
                self.cluster.engine.remove_container(self.container, v=True, force=True)

    def _stop(self, grace: int) -> None:
        if self.container:
            with contextlib.suppress(NotFound):
                self.cluster.engine.stop(self.container, timeout=grace)

    # What the node does

    def live(self) -> None:
        """From nothing to the end."""
        for step in (self._schedule, self._pull, self._configure):
            while not step():
                if self.gone.is_set() or self._deleting.wait(_TICK):
                    return
        if self._run():
            while not self.gone.is_set() and not self._look():
                time.sleep(_TICK)

    def _schedule(self) -> bool:
        limits = self.base.get("resources", {}).get("limits", {})
        told = []
        if int(limits.get("nvidia.com/gpu", 0)) > self.cluster.gpus:
            told.append("1 Insufficient nvidia.com/gpu")
        if not self.spec.get("nodeSelector", {}).items() <= self.cluster.labels.items():
            told.append("1 node(s) didn't match Pod's node affinity/selector")
        if self.cluster.cordoned:
            told.append("1 node(s) were unschedulable")
        condition: Json = {"type": "PodScheduled", "status": "True"}
        if told:
            message = f"0/1 nodes are available: {', '.join(told)}."
            condition |= {"status": "False", "reason": "Unschedulable", "message": message}
            self._event("FailedScheduling", message)
        else:
            self.spec["nodeName"] = "node-1"
            self._status(startTime=moment())
        self._status(conditions=[condition])
        return not told

    def _pull(self) -> bool:
        image = self.base["image"]
        self._waiting("ContainerCreating")
        if not re.fullmatch(r"[a-z0-9./_:@-]+", image):
            self._waiting("InvalidImageName", f'Failed to apply default image tag "{image}": invalid reference format')
            return False
        try:
            self.cluster.engine.inspect_image(image)
            return True
        except ImageNotFound:
            why = "i/o timeout" if "unreachable" in image else "not found"
            told = f'Failed to pull image "{image}": rpc error: failed to resolve reference "{image}": {why}'
        self._event("Failed", told)
        self._event("Failed", "Error: ErrImagePull")
        self._waiting("ErrImagePull", told.partition(": ")[2])
        if self._deleting.wait(3 * _TICK):
            return False
        self._event("BackOff", f'Back-off pulling image "{image}"')
        self._waiting("ImagePullBackOff", f'Back-off pulling image "{image}"')
        self._deleting.wait(10 * _TICK)
        return False

    def _configure(self) -> bool:
        told = self._refusal()
        if told:
            self._event("Failed", f"Error: {told}")
            self._waiting("CreateContainerConfigError", told)
            self._deleting.wait(3 * _TICK)
        return not told

    def _refusal(self) -> str | None:
        """What keeps the container from being made."""
        for source in self.base.get("envFrom", []):
            name = source["secretRef"]["name"]
            if (self.namespace, name) not in self.cluster.secrets:
                return f'secret "{name}" not found'
        user = self._security("runAsUser")
        default = self.cluster.engine.inspect_image(self.base["image"])["Config"]["User"].partition(":")[0] or "0"
        if self._security("runAsNonRoot") and str(default if user is None else user) == "0":
            return "container has runAsNonRoot and image will run as root"
        return None

    def _run(self) -> bool:
        limits = self.base.get("resources", {}).get("limits", {})
        memory = _bytes(limits["memory"]) if "memory" in limits else None
        own = self.base.get("securityContext", {})
        host = self.cluster.engine.create_host_config(
            read_only=own.get("readOnlyRootFilesystem", False),
            cap_drop=own.get("capabilities", {}).get("drop"),
            security_opt=[] if own.get("allowPrivilegeEscalation", True) else ["no-new-privileges"],
            mem_limit=memory,
            memswap_limit=memory,
            nano_cpus=int(_cores(limits["cpu"]) * 1e9) if "cpu" in limits else None,
            network_mode="host" if self.spec.get("hostNetwork") else "bridge",
            mounts=list(self._mounts()),
        )
        user, group = self._security("runAsUser"), self._security("runAsGroup")
        made = self.cluster.engine.create_container(
            image=self.base["image"],
            entrypoint=self.base.get("command") or None,
            command=self.base.get("args") or None,
            environment=self._environment(),
            user=f"{user}:{group if group is not None else 0}" if user is not None else None,
            labels={LABEL: self.cluster.mark},
            host_config=host,
        )
        self.container = made["Id"]
        try:
            self.cluster.engine.start(self.container)
        except APIError as error:
            ended = {"exitCode": 128, "reason": "StartError", "message": str(error.explanation)}
            self._status(phase="Failed", containerStatuses=[_container(self.base, {"terminated": ended})])
            return False
        return True

    def _look(self) -> bool:
        """Say how the container is; returns whether it has ended."""
        assert self.container is not None
        try:
            state = self.cluster.engine.inspect_container(self.container)["State"]
        except NotFound:
            return True
        sidecar = _container({"name": "istio-proxy", "image": "istio/proxyv2"}, {"running": {"startedAt": moment()}})
        others = [sidecar] if self.cluster.mesh else []
        if state["Running"]:
            now = {"running": {"startedAt": state["StartedAt"]}}
            self._status(phase="Running", containerStatuses=[_container(self.base, now), *others])
            return False
        reason = "OOMKilled" if state["OOMKilled"] else "Error" if state["ExitCode"] else "Completed"
        ended = {"exitCode": state["ExitCode"], "reason": reason, "finishedAt": state["FinishedAt"]}
        phase = "Running" if others else "Failed" if state["ExitCode"] else "Succeeded"
        self._status(phase=phase, containerStatuses=[_container(self.base, {"terminated": ended}), *others])
        if self._taken:
            self._status(**self._taken)
        return True

    def _status(self, **changes: Any) -> None:
        # Replaced, so that a reader never sees half a change.
        self.object = {**self.object, "spec": self.spec, "status": {**self.object["status"], **changes}}

    def _waiting(self, reason: str, message: str | None = None) -> None:
        state = {"waiting": {"reason": reason, **({"message": message} if message else {})}}
        self._status(containerStatuses=[_container(self.base, state)])

    def _event(self, reason: str, message: str) -> None:
        event: Json = {"metadata": {"name": uuid.uuid4().hex}, "type": "Warning", "reason": reason, "message": message}
        event |= {"involvedObject": {"uid": self.object["metadata"]["uid"]}, "lastTimestamp": moment()}
        self.cluster.events.append(event)

    def _security(self, name: str) -> Any:
        return self.base.get("securityContext", {}).get(name, self.spec.get("securityContext", {}).get(name))

    def _mounts(self) -> Iterator[Mount]:
        volumes = {each["name"]: each for each in self.spec.get("volumes", [])}
        for each in self.base.get("volumeMounts", []):
            volume = volumes[each["name"]]
            if "hostPath" in volume:
                folder = volume["hostPath"]["path"]
                yield Mount(each["mountPath"], folder, type="bind", read_only=each.get("readOnly", False))
            elif volume["emptyDir"].get("medium") == "Memory":
                yield Mount(each["mountPath"], None, type="tmpfs", tmpfs_size=_bytes(volume["emptyDir"]["sizeLimit"]))
            else:
                yield Mount(each["mountPath"], None, type="volume")

    def _environment(self) -> dict[str, str]:
        values: dict[str, str] = {}
        for source in self.base.get("envFrom", []):
            data = self.cluster.secrets[self.namespace, source["secretRef"]["name"]]["data"]
            values |= {name: base64.b64decode(value).decode() for name, value in data.items()}
        for each in self.base.get("env", []):
            field = each.get("valueFrom", {}).get("resourceFieldRef")
            if field:
                assert field["resource"] == "limits.cpu"
                cores = self.base.get("resources", {}).get("limits", {}).get("cpu")
                # Rounded up; without a limit all that the node has.
                values[each["name"]] = (
                    str(-int(-_cores(cores) // 1)) if cores else str(self.cluster.engine.info()["NCPU"])
                )
            else:
                values[each["name"]] = each.get("value", "")
        return values


def _joined(frames: Iterator[bytes]) -> Iterator[bytes]:
    """Pieces as large as a server sends them."""
    waiting: list[bytes] = []
    for number, frame in enumerate(frames, 1):
        waiting.append(frame)
        if number % 200 == 0:
            yield b"".join(waiting)
            waiting = []
    yield b"".join(waiting)


def _container(spec: Json, state: Json) -> Json:
    return {
        "name": spec["name"],
        "image": spec["image"],
        "imageID": "",
        "ready": "running" in state,
        "state": state,
    } | {"restartCount": 0}


def _bytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([KMG]i)?", str(quantity)).groups()  # type: ignore[union-attr]
    return int(number) << {None: 0, "Ki": 10, "Mi": 20, "Gi": 30}[unit]


def _cores(quantity: str) -> float:
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        code = 201 if self.command == "POST" else 200
        try:
            if self.headers.get("Authorization") != "Bearer a-token":
                raise Refused(401, "Unauthorized", "Unauthorized")
            answer = self.server.cluster.handle(self.command, self.path, body)
        except Refused as refused:
            if refused.code == 0:
                self.close_connection = True
                return
            code, answer = refused.code, refused.body
        if isinstance(answer, dict):
            self._send(code, json.dumps(answer).encode())
        else:
            self._stream(answer)

    def _send(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, pieces: Iterator[bytes]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                if piece:
                    self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST = do_DELETE = _answer


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.cluster = cluster
