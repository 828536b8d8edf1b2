"""A Docker engine: containers that DockerOperator makes and does not wait for, and what the engine's answers mean."""

from __future__ import annotations

import datetime as dt
import inspect
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk.exceptions import AirflowException
from docker import APIClient
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import DeviceRequest, Mount, Ulimit
from requests import RequestException
from urllib3.exceptions import HTTPError

from airflow_provider_e2e3d.backends.base import TRANSIENT, ImageSettings, JobSpec, Unavailable, nanoseconds, unanswered
from e2e3d_stages.contract.messages import Infrastructure, InvalidRequest, StageError

if TYPE_CHECKING:
    from airflow_provider_e2e3d.backends.docker.settings import DockerSettings

SCRATCH = "/tmp"
_LABEL = "e2e3d"
# An ended container that nobody came back for in this time belongs to nobody.
_FORGOTTEN = dt.timedelta(hours=1)
# Answers of 4xx that tell of the container's or the network's state, and not of what was asked.
_OF_STATE = {408, 409, 425, 429}
_IN_STATE = re.compile("No such container|already exists in network")
# Pulls that end the same way each time.
_NO_SUCH_IMAGE = re.compile("not found|manifest unknown|denied|unauthorized|no basic auth", re.IGNORECASE)


class Engine:
    """The engine that a profile's stage runs on.

    :param settings: the profile's.
    """

    def __init__(self, settings: DockerSettings) -> None:
        self._settings = settings

    def start(self, job: JobSpec, image: str, environment: Mapping[str, str]) -> str:
        """Create and start a job's container, or adopt the one of its name; returns the container's id."""
        with self._errors(partial(_refusal, image=image)):
            try:
                return self._operator(job, image, environment).start()
            except APIError as error:
                # The name is taken: what a dead worker started is this very job.
                if error.status_code != 409 or (found := self.find(job.name)) is None:
                    raise
                return found

    def find(self, name: str) -> str | None:
        """The id of the container of a name, running or not; one that was only created is started.

        One that cannot be started is as good as none: its job is submitted anew, and then told why.
        """
        with self._errors():
            try:
                container = self._client.inspect_container(name)
            except NotFound:
                return None
            if container["State"]["Status"] == "created":
                try:
                    _start(self._client, container["Id"])
                except APIError:
                    return None
            return str(container["Id"])

    def state(self, container: str) -> dict[str, Any] | None:
        """How a container is, if it is there."""
        with self._errors(), suppress(NotFound):
            state: dict[str, Any] = self._client.inspect_container(container)["State"]
            return state
        return None

    @contextmanager
    def log_lines(self, container: str, since: float | None) -> Iterator[Iterator[bytes]]:
        """A container's log, each line after its time; read no further than it is asked for."""
        with self._errors():
            try:
                stream = self._client.logs(container, stream=True, follow=False, timestamps=True, since=since)
            except APIError as error:
                # 404 and 409: it is gone or about to go, and its log with it.
                if error.status_code not in (404, 409):
                    raise
                yield iter(())
                return
            with closing(stream):
                yield stream

    def terminate(self, container: str) -> None:
        """Send SIGTERM."""
        with self._errors():
            try:
                self._client.kill(container, "SIGTERM")
            except APIError as error:
                # 404 and 409: it is gone or has ended.
                if error.status_code not in (404, 409):
                    raise

    def remove(self, container: str) -> None:
        """Remove a container, running or not."""
        with self._errors():
            try:
                self._client.remove_container(container, v=True, force=True)
            except APIError as error:
                # 404 and 409: somebody else has removed it or is about to.
                if error.status_code not in (404, 409):
                    raise

    def containers_to_remove(self) -> list[dict[str, Any]]:
        """Every stage's container, running or not, that is to be removed with its job, as the engine lists them."""
        with self._errors():
            return list(self._client.containers(all=True, filters={"label": f"{_LABEL}=force"}))

    def remove_forgotten(self) -> None:
        """Remove ended containers that no task came back for: their run was deleted, or its workers all died."""
        filters = {"label": f"{_LABEL}=force", "status": ["created", "exited", "dead"]}
        with self._errors():
            for container in self._client.containers(all=True, filters=filters):
                with suppress(NotFound):
                    found = self._client.inspect_container(container["Id"])
                    last = max(nanoseconds(found["State"]["FinishedAt"]), nanoseconds(found["Created"])) / 1e9
                    if dt.datetime.now().timestamp() - last > _FORGOTTEN.total_seconds():
                        self.remove(container["Id"])

    @property
    def connection(self) -> dict[str, Any]:
        """What another process needs to speak to the same engine; paths, no secrets."""
        given = self._settings.arguments
        operator = _DetachedContainer(task_id=_LABEL, image=_LABEL, **self._arguments)
        connection: dict[str, Any] = {"base_url": operator.docker_url, "version": operator.api_version}
        if "tls_ca_cert" in given:
            connection["tls"] = {
                "ca_cert": given["tls_ca_cert"],
                "client_cert": [given["tls_client_cert"], given["tls_client_key"]],
                "verify": given.get("tls_verify", True),
            }
        return connection

    @cached_property
    def _client(self) -> APIClient:
        return _DetachedContainer(task_id=_LABEL, image=_LABEL, **self._arguments).hook.api_client

    @property
    def _arguments(self) -> dict[str, Any]:
        """What the profile says, as DockerOperator wants it."""
        values = self._settings.model_dump(exclude=set(ImageSettings.model_fields), exclude_none=True)
        for name, kind in (("device_requests", DeviceRequest), ("mounts", Mount), ("ulimits", Ulimit)):
            try:
                values[name] = [kind(**item) for item in values.get(name, [])]
            except TypeError as error:
                raise InvalidRequest(
                    f"The profile's {name} cannot work: {error}",
                    hint=f"Its entries are what docker.types.{kind.__name__} takes.",
                ) from None
        return {**values, "auto_remove": "never", "mount_tmp_dir": False}

    @contextmanager
    def _errors(self, refusal: Callable[[APIError], StageError] | None = None) -> Iterator[None]:
        """Say what is wrong with the engine, the image or the profile, and whether trying again can help.

        :param refusal: what the engine's refusal means; that it is to be asked again where nothing new is asked for.
        """
        try:
            yield
        except APIError as error:
            raise (refusal(error) if refusal else unanswered("The Docker engine", _said(error))) from error
        # The last two: an answer that broke off.
        except (AirflowException, DockerException, RequestException, HTTPError, struct.error) as error:
            raise Unavailable(
                f"The Docker engine at {self.connection['base_url']} does not answer: {error}",
                hint="Start it (systemctl start docker); if it runs, the worker's user needs access: make it a member "
                "of the socket's group, or correct docker_url in the profile.",
            ) from error

    def _operator(self, job: JobSpec, image: str, environment: Mapping[str, str]) -> _DetachedContainer:
        arguments = self._arguments
        given = arguments.pop("labels", {})
        labels = given if isinstance(given, dict) else dict.fromkeys(given, "")
        own_user = {"user": f"{os.getuid()}:{os.getgid()}"} if _is_folder(job.request_uri) else {}
        return _DetachedContainer(
            task_id=_LABEL,
            image=image,
            container_name=job.name,
            command=["run", job.request_uri],
            private_environment={**arguments.pop("private_environment", {}), **environment},
            mounts=_mounts(job, arguments.pop("mounts")),
            labels={**labels, **self._labels(job)},
            **{**own_user, **arguments},
        )

    def _labels(self, job: JobSpec) -> dict[str, str]:
        return {
            _LABEL: self._settings.auto_remove,
            f"{_LABEL}.stage": job.stage,
            f"{_LABEL}.key": job.key,
            f"{_LABEL}.attempt": str(job.claim.attempt),
            f"{_LABEL}.owner": job.claim.owner,
            f"{_LABEL}.request": job.request_uri,
        }


# Processes and threads together: many times what a stage starts on the largest machine.
PIDS = 4096


class _DetachedContainer(DockerOperator):
    """DockerOperator that creates and starts its container and returns: its own method also waits for the end."""

    def start(self) -> str:
        """Pull where needed, create and start; returns the container's id."""
        # Past the wrapper, which warns of operators that run inside another one.
        inspect.unwrap(DockerOperator.execute)(self, {})
        return str(self.container["Id"])

    @cached_property
    def cli(self) -> Any:
        """The engine's client, as DockerOperator uses it."""
        return _DetachingClient(self.hook.api_client)


class _DetachingClient:
    """Creates containers with what DockerOperator's arguments cannot say, and does not wait for them."""

    def __init__(self, client: APIClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def create_host_config(self, **settings: Any) -> Any:
        """Add the restrictions; memory and swap together are limited, since swap would hide that memory ran out."""
        return self._client.create_host_config(
            **settings,
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            memswap_limit=settings["mem_limit"],
            pids_limit=PIDS,
        )

    def create_container(self, *, image: str, environment: dict[str, str], **settings: Any) -> Any:
        """Tell the program which image it is, for its manifest."""
        digest = self._client.inspect_image(image)["Id"]
        told = {**environment, "E2E3D_IMAGE": f"{image}@{digest}"}
        return self._client.create_container(image=image, environment=told, **settings)

    def pull(self, image: str, **options: Any) -> Iterator[Any]:
        """Pass on how far it is; what breaks it off stands between, and DockerOperator does not read it."""
        for told in self._client.pull(image, **options):
            if isinstance(told, dict) and "error" in told:
                said = str(told["error"])
                raise (ImageNotFound if _NO_SUCH_IMAGE.search(said) else APIError)(said, explanation=said)
            yield told

    def start(self, container: str) -> None:
        """Start it, or leave nothing behind."""
        _start(self._client, container)

    def attach(self, **_: Any) -> list[bytes]:
        """No stream: the log is followed from outside."""
        return []

    def wait(self, _container: str) -> dict[str, int]:
        """No waiting."""
        return {"StatusCode": 0}


def _start(client: APIClient, container: str) -> None:
    """Start a container, or leave nothing behind."""
    try:
        client.start(container)
    except APIError:
        # Why it did not start says more than why it stays.
        with suppress(APIError):
            client.remove_container(container, v=True, force=True)
        raise


def _mounts(job: JobSpec, given: list[Mount]) -> list[Mount]:
    """The profile's mounts, and what they leave open: scratch, and folders that hold the store and the capture."""
    places = {mount["Target"].rstrip("/"): mount for mount in given}
    lasting = [f"{place}/" for place, mount in places.items() if place != SCRATCH and mount["Type"] != "tmpfs"]
    places.setdefault(SCRATCH, Mount(SCRATCH, None, type="volume"))
    for uri, read_only in ((job.store_uri, False), (job.capture, True)):
        path = unquote(urlsplit(uri).path) if uri and _is_folder(uri) else ""
        if path and not f"{path}/".startswith(tuple(lasting)):
            places.setdefault(path, Mount(path, path, type="bind", read_only=read_only))
    return list(places.values())


def _is_folder(uri: str) -> bool:
    return urlsplit(uri).scheme == "file"


def _said(error: APIError) -> str:
    """The engine's own words."""
    return str(error.explanation or error)


def _refusal(error: APIError, image: str) -> StageError:
    """What the engine's refusal of a job means."""
    said = _said(error)
    if isinstance(error, ImageNotFound) and not TRANSIENT.search(said):
        return InvalidRequest(
            f"The Docker engine has no image {image} and could not pull it.",
            hint="Build it with `make images`, or name in the profile one that can be pulled.",
        )
    if "could not select device driver" in said:
        return InvalidRequest(
            "The Docker engine offers no GPU.",
            hint="Install NVIDIA's container toolkit beside the engine, or take device_requests out of the profile.",
        )
    if "bind source path does not exist" in said:
        return InvalidRequest(
            f"The Docker engine does not see the store's or the capture's folder: {said}.",
            hint="The engine runs on another machine or Airflow in a container: mount the same folder there with "
            "`mounts` in the profile, or use an s3:// store.",
        )
    if "no space left on device" in said:
        return Infrastructure(
            f"The Docker engine's disk is full: {said}.", hint="Free space there: docker system prune."
        )
    if error.status_code in _OF_STATE or _IN_STATE.search(said):
        return unanswered("The Docker engine", said)
    if error.is_client_error() and not TRANSIENT.search(said):
        return InvalidRequest(
            f"The Docker engine refused the container: {said}.", hint="Correct the stage's settings in the profile."
        )
    kind = Unavailable if error.status_code == 503 else Infrastructure
    return kind(
        f"The Docker engine failed ({image}): {said}.",
        hint="If it could not pull the image, build it with `make images` or check the engine's network and login.",
    )
