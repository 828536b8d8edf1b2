"""AWS's services for tests: one endpoint over HTTP whose jobs are real containers of this machine's engine.

SageMaker's training jobs and ECS's tasks run here, each in a module of its own; every other call (logs, ECR,
CloudWatch) goes on to moto. Inputs are checked against botocore's own description of the API, and beyond what its
client checks: patterns, lengths and choices. Tests keep the API busy or away.
"""

from __future__ import annotations

import contextlib
import io
import json
import queue
import re
import tarfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import docker
import requests
from docker.errors import APIError, NotFound
from docker.types import Mount

from airflow_provider_e2e3d.backends.aws.shapes import in_python
from tests.backends.doubles import Disturbance, serve

# Containers that tests want to keep apart carry this label.
LABEL = "e2e3d-test-aws"
REGION = "us-east-1"
ACCOUNT = "123456789012"
Json = dict[str, Any]
Operation = Callable[[Json], Json]


class Refused(Exception):
    """An answer that is no success.

    :param code: AWS's name of the error.
    """

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"__type": code, "message": message}


class Aws:
    """One account in one region.

    :param engine: runs the containers.
    :param moto: where moto answers; it is also the containers' S3.
    :param folders: what containers see of this machine, at the same places.
    :param environment: what every container is told besides what its job says, as its role's credentials.
    """

    def __init__(
        self, engine: docker.APIClient, moto: str, folders: list[Path], environment: Mapping[str, str] | None = None
    ) -> None:
        self.engine = engine
        self.moto = moto
        self.folders = folders
        self.environment = dict(environment or {})
        self.mark = uuid.uuid4().hex
        # Every call as its operation's name.
        self.calls: list[str] = []
        # By the name that X-Amz-Target begins with: botocore's name of the service, and what answers its operations.
        self.services: dict[str, tuple[str, Mapping[str, Operation]]] = {}
        self._disturbance = Disturbance(0)
        self._code = ""
        self._server = _Server(self)
        serve(self._server)

    @property
    def endpoint(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def client(self, service: str) -> Any:
        """A client for a test's own questions, past what the test does to the API."""
        return _client(service, self.moto)

    def answer(self, code: str | None, *, seconds: float) -> Disturbance:
        """Answer every call so for a while, as ThrottlingException; without a code, not at all."""
        self._code, self._disturbance = code or "", Disturbance(seconds)
        return self._disturbance

    def handle(self, target: str, body: bytes) -> Json | None:
        """Answer one call; nothing, when it is moto's."""
        prefix, _, operation = target.partition(".")
        self.calls.append(operation)
        if self._disturbance.refuses():
            raise Refused(self._code, "Rate exceeded")
        service, operations = self.services.get(prefix, ("", {}))
        if operation not in operations:
            return None
        given = json.loads(body or b"{}")
        problems = list(_problems(given, _model(service).operation_model(operation).input_shape, ""))
        if problems:
            raise Refused("ValidationException", f"{len(problems)} validation error(s): {'; '.join(problems)}")
        return operations[operation](given)

    def containers(self) -> list[Json]:
        """Every container of a job, running or not."""
        found: list[Json] = self.engine.containers(all=True, filters={"label": f"{LABEL}={self.mark}"})
        return found

    def close(self) -> None:
        """End everything."""
        self._server.shutdown()
        self._server.server_close()
        for found in self.containers():
            with contextlib.suppress(APIError):
                self.engine.remove_container(found["Id"], v=True, force=True)


# Each takes a while to make, and boto3's own session is not for several threads.
@lru_cache
def _client(service: str, endpoint: str) -> Any:
    return boto3.Session().client(
        service,
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )


class Container:
    """A job's container on this machine's network, whose output goes to a stream of moto's CloudWatch Logs.

    :param restrictions: what else docker-py's `create_host_config` takes.
    """

    def __init__(
        self,
        aws: Aws,
        image: str,
        command: list[str],
        environment: Mapping[str, str],
        mounts: list[Mount] | None = None,
        user: str | None = None,
        **restrictions: Any,
    ) -> None:
        self._aws = aws
        shared = [Mount(str(folder), str(folder), type="bind") for folder in aws.folders]
        host = aws.engine.create_host_config(
            network_mode="host",
            mounts=[*shared, *(mounts or [])],
            memswap_limit=restrictions.get("mem_limit"),
            **restrictions,
        )
        made = aws.engine.create_container(
            image,
            command,
            environment={**environment, **aws.environment},
            labels={LABEL: aws.mark},
            host_config=host,
            user=user,
        )
        self.id: str = made["Id"]
        self._shipping = threading.Thread()

    def start(self, group: str | None, stream: str) -> None:
        """Start it, its output going to a stream of a group of logs."""
        self._aws.engine.start(self.id)
        if group:
            self._shipping = threading.Thread(target=self._ship, args=(group, stream), daemon=True)
            self._shipping.start()

    def wait(self) -> int:
        """Wait until it has ended and its whole output has arrived; returns the exit status."""
        with contextlib.suppress(NotFound):
            self._aws.engine.wait(self.id, timeout=3600)
        if self._shipping.ident:
            self._shipping.join()
        return int(self.state.get("ExitCode", 137))

    @property
    def state(self) -> Json:
        """As the engine tells it; empty when it is gone."""
        try:
            state: Json = self._aws.engine.inspect_container(self.id)["State"]
            return state
        except NotFound:
            return {}

    def stop(self, grace: int) -> None:
        """SIGTERM, and SIGKILL when the grace period is over; returns at its end."""
        with contextlib.suppress(NotFound):
            self._aws.engine.stop(self.id, timeout=grace)

    def kill(self) -> None:
        """SIGKILL, as when its machine goes."""
        with contextlib.suppress(APIError):
            self._aws.engine.kill(self.id)

    def read(self, path: str) -> bytes | None:
        """A file of it, running or not."""
        try:
            stream, _ = self._aws.engine.get_archive(self.id, path)
        except NotFound:
            return None
        with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
            file = archive.extractfile(archive.getmembers()[0])
            return file.read() if file else None

    def remove(self) -> None:
        """Without a trace."""
        with contextlib.suppress(APIError):
            self._aws.engine.remove_container(self.id, v=True, force=True)

    def _ship(self, group: str, stream: str) -> None:
        logs = self._aws.client("logs")
        for make in (
            lambda: logs.create_log_group(logGroupName=group),
            lambda: logs.create_log_stream(logGroupName=group, logStreamName=stream),
        ):
            with contextlib.suppress(logs.exceptions.ResourceAlreadyExistsException):
                make()
        try:
            output = self._aws.engine.logs(self.id, stream=True, follow=True)
        except APIError:
            # It was removed at once.
            return
        for lines in _batches(output):
            moment = int(time.time() * 1000)
            events = [{"timestamp": moment, "message": line} for line in lines]
            logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)


def _batches(stream: Iterator[bytes]) -> Iterator[list[str]]:
    """Whole lines, as many as there are at a time: a call for each would take too long."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        rest = b""
        with contextlib.suppress(APIError, requests.RequestException):
            for piece in stream:
                *whole, rest = (rest + piece).split(b"\n")
                for line in whole:
                    lines.put(line.decode(errors="replace"))
        if rest:
            lines.put(rest.decode(errors="replace"))
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while (line := lines.get()) is not None:
        batch = [line]
        with contextlib.suppress(queue.Empty):
            while len(batch) < 5_000 and (line := lines.get_nowait()) is not None:
                batch.append(line)
        # CloudWatch takes no empty lines.
        yield [line for line in batch if line] or ["-"]
        if line is None:
            return


# What AWS accepts


@lru_cache
def _model(service: str) -> Any:
    return botocore.session.get_session().get_service_model(service)


def _problems(value: Any, shape: Any, place: str) -> Iterator[str]:
    """What botocore's description of the API does not allow, whether or not botocore's client checks it."""
    if shape.type_name == "structure":
        yield from (f"{place}.{name} is missing" for name in set(shape.required_members) - set(value))
        yield from (f"{place}.{name} is unknown" for name in set(value) - set(shape.members))
        parts = [(shape.members[name], item, name) for name, item in value.items() if name in shape.members]
    elif shape.type_name == "map":
        parts = [(kind, item, name) for name in value for kind, item in ((shape.key, name), (shape.value, value[name]))]
    else:
        parts = (
            [(shape.member, item, str(number)) for number, item in enumerate(value)]
            if shape.type_name == "list"
            else []
        )
    for kind, item, name in parts:
        yield from _problems(item, kind, f"{place}.{name}")
    yield from _limits(value, shape, place)


def _limits(value: Any, shape: Any, place: str) -> Iterator[str]:
    limits = shape.metadata
    if shape.type_name == "string":
        if shape.enum and value not in shape.enum:
            yield f"{place} must be one of {', '.join(shape.enum)}"
        if (pattern := limits.get("pattern")) and not re.fullmatch(in_python(pattern), value):
            yield f"{place} must satisfy the pattern {pattern}"
    size = value if shape.type_name in ("integer", "long", "float", "double") else None
    size = len(value) if shape.type_name in ("string", "list", "map") else size
    if size is not None and not limits.get("min", size) <= size <= limits.get("max", size):
        yield f"{place} must be between {limits.get('min')} and {limits.get('max')}, not {size}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, aws: Aws) -> None:
        self.aws = aws
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            answer = self.server.aws.handle(self.headers.get("X-Amz-Target", ""), body)
        except Refused as refused:
            if refused.body["__type"]:
                self._send(refused.status, json.dumps(refused.body).encode(), "application/x-amz-json-1.1")
            self.close_connection = True
            return
        if answer is not None:
            self._send(200, json.dumps(answer, default=str).encode(), "application/x-amz-json-1.1")
            return
        headers = {
            name: value for name, value in self.headers.items() if name.lower() not in ("host", "content-length")
        }
        told = requests.post(self.server.aws.moto + self.path, data=body, headers=headers, timeout=60)
        self._send(told.status_code, told.content, told.headers.get("Content-Type", ""))

    def _send(self, status: int, body: bytes, kind: str) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
