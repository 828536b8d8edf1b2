"""`make push`: this machine's images into a registry, tagged by version and by the commit that they were built of.

    python deploy/push.py REGISTRY

Every image gets the tag `<version>-<commit>`; all of them get `<version>` too, unless that release is there already.
A tag that is there is never moved. For Amazon ECR, logging in and making repositories is part of it; for any other
registry the credentials are those of `docker login`.
"""

from __future__ import annotations

import base64
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import boto3
import docker
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError
from botocore.exceptions import ConnectionError as NoConnection
from docker.errors import APIError, DockerException, ImageNotFound
from requests import RequestException

from e2e3d_stages import __version__
from e2e3d_stages.contract.formatting import as_duration, as_size
from e2e3d_stages.contract.messages import Infrastructure, InvalidRequest, StageError

IMAGES = ("sfm", "3dgs", "compressor", "airflow")
COMMIT_DIGITS = 12
# Between two lines about an image that is on its way.
QUIET_SECONDS = 10.0
# An engine is silent for as long as a registry takes to store a layer.
ENGINE_SECONDS = 900

_ECR = re.compile(r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")
# A host is told from a path by its dot or port, as the engine does.
_REGISTRY = re.compile(
    r"(?P<host>(?:localhost|[a-z0-9-]+(?:\.[a-z0-9-]+)+|[a-z0-9-]+(?=:))(?::\d+)?)"
    r"(?:/(?P<folder>[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*))?"
)
_ECR_HINT = "Give whoever pushes the policy deploy/aws/ecr-push-policy.json; AWS_PROFILE chooses who that is."
Credentials = dict[str, str]


def main(arguments: list[str]) -> int:
    """Push this release's images; returns the exit status."""
    try:
        host, folder = address(arguments[0] if arguments else "")
        engine = connect()
        images = {f"{folder}e2e3d/{name}": f"e2e3d/{name}:{__version__}" for name in IMAGES}
        commit = commit_of(engine, images.values())
        for image in images.values():
            if not sees_gpus(engine, image):
                print(f"{image}: warning: it is for CPUs only; docs/images.md says how to build for GPUs", flush=True)
        credentials = log_in(host, images)
        tag = push(engine, images, host, __version__, commit, credentials)
    except StageError as error:
        print(f"make push: {error.message}\n{error.hint}".rstrip(), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("make push: interrupted. What a registry has of a layer is used when you push again.", file=sys.stderr)
        return 130
    print(f"In a profile:\n    image: {host}/{folder}e2e3d/{{container}}:{tag.replace(__version__, '{version}', 1)}")
    return 0


def address(registry: str) -> tuple[str, str]:
    """A registry's host, and the folder within it: empty, or with a slash at its end.

    :raises InvalidRequest: when it is neither.
    """
    found = _REGISTRY.fullmatch(registry.rstrip("/"))
    if found is None:
        raise InvalidRequest(
            f"{registry!r} is no registry." if registry else "No registry is named.",
            hint="Write its host and, where it has one, a folder in it, without https://:\n"
            "    make push REGISTRY=123456789012.dkr.ecr.eu-central-1.amazonaws.com\n"
            "    make push REGISTRY=registry.example.org/team",
        )
    return found["host"], f"{found['folder']}/" if found["folder"] else ""


# This machine's engine


def connect() -> docker.APIClient:
    """The engine that DOCKER_HOST names, else this machine's.

    :raises Infrastructure: when it does not answer.
    """
    with _engine_errors():
        engine = docker.from_env(timeout=ENGINE_SECONDS).api
        engine.ping()
        return engine


def commit_of(engine: docker.APIClient, images: Iterable[str]) -> str:
    """The commit that all of them say they were built of: `make images` writes it into their labels.

    :raises InvalidRequest: when one is missing, or there is no such commit.
    """
    commits = {image: _revision(engine, image) for image in images}
    for image, commit in commits.items():
        if not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise InvalidRequest(
                f"{image} was not built of a commit ({commit or 'it names none'}): a tag would lie about its source.",
                hint="Commit or put away what `git status` shows; `make push` then builds and pushes.",
            )
    if len(set(commits.values())) > 1:
        told = ", ".join(f"{image} of {commit[:COMMIT_DIGITS]}" for image, commit in commits.items())
        raise InvalidRequest(f"The images were built of different commits: {told}.", hint="Build all: make images.")
    return commits.popitem()[1]


def _revision(engine: docker.APIClient, image: str) -> str:
    labels = _config(engine, image)["Labels"] or {}
    return str(labels.get("org.opencontainers.image.revision", ""))


def sees_gpus(engine: docker.APIClient, image: str) -> bool:
    """Whether an image may use GPUs: one that was built without kernels for them hides them from its program."""
    return "CUDA_VISIBLE_DEVICES=" not in (_config(engine, image)["Env"] or [])


def _config(engine: docker.APIClient, image: str) -> dict[str, Any]:
    with _engine_errors():
        try:
            config: dict[str, Any] = engine.inspect_image(image)["Config"]
        except ImageNotFound:
            raise InvalidRequest(f"The engine has no image {image}.", hint="Build it: make images.") from None
    return config


@contextmanager
def _engine_errors() -> Iterator[None]:
    try:
        yield
    except (DockerException, RequestException) as error:
        raise Infrastructure(
            f"The Docker engine does not do its part: {error}",
            hint="Start it (systemctl start docker), or let this user speak to it: add them to the socket's group.",
        ) from error


# Amazon ECR


def log_in(host: str, repositories: Iterable[str]) -> Credentials | None:
    """What the engine shows the registry; nothing where it is what `docker login` left.

    In ECR the repositories are there afterwards. The password is valid for 12 hours; it goes to the engine with each
    push and nowhere else.

    :raises InvalidRequest: when there are no AWS credentials, or they may not do it.
    :raises Infrastructure: when AWS does not answer.
    """
    ecr = _ECR.fullmatch(host)
    if ecr is None:
        return None
    client = boto3.client("ecr", region_name=ecr["region"])
    with _aws_errors():
        for repository in repositories:
            _make_repository(client, ecr["account"], repository)
        token = client.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    user, _, password = base64.b64decode(token).decode().partition(":")
    return {"username": user, "password": password}


def _make_repository(client: Any, account: str, name: str) -> None:
    """Make it where it is missing; say what is wrong with one that is there, and leave it."""
    try:
        found = client.describe_repositories(registryId=account, repositoryNames=[name])["repositories"][0]
    except client.exceptions.RepositoryNotFoundException:
        client.create_repository(
            registryId=account,
            repositoryName=name,
            imageTagMutability="IMMUTABLE",
            imageScanningConfiguration={"scanOnPush": True},
        )
        print(f"{name}: made, with immutable tags and a scan of what is pushed", flush=True)
        return
    if not found["imageTagMutability"].startswith("IMMUTABLE"):
        print(f"{name}: warning: its tags are mutable, so a release can be replaced by anyone who pushes", flush=True)
    if not found.get("imageScanningConfiguration", {}).get("scanOnPush"):
        print(f"{name}: warning: it does not scan what is pushed, unless the whole registry's settings do", flush=True)


@contextmanager
def _aws_errors() -> Iterator[None]:
    try:
        yield
    except NoCredentialsError as error:
        raise InvalidRequest(
            "There are no AWS credentials.", hint="Log in (aws sso login), or set AWS_PROFILE or AWS_ACCESS_KEY_ID."
        ) from error
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
            raise Infrastructure(f"ECR is busy: {error}", hint="Push again later.") from error
        # AWS's words name the action that is missing.
        raise InvalidRequest(f"ECR refused: {error}", hint=_ECR_HINT) from error
    except (NoConnection, HTTPClientError) as error:
        raise Infrastructure(
            f"ECR does not answer: {error}", hint="Check the network, and the region in REGISTRY."
        ) from error
    except BotoCoreError as error:
        raise InvalidRequest(f"AWS cannot be asked: {error}", hint="Correct AWS's configuration here.") from error


# Any registry


def push(
    engine: docker.APIClient,
    images: Mapping[str, str],
    host: str,
    version: str,
    commit: str,
    credentials: Credentials | None = None,
) -> str:
    """Push images, first as `<version>-<commit>`, then as `<version>` unless that release is another build.

    :param images: the engine's images by the repository that each goes to.
    :returns: the tag under which all of them are there: `<version>` if it can be.
    :raises InvalidRequest: when the registry refuses, or has another build of this commit.
    :raises Infrastructure: when the registry does not answer.
    """
    exact = f"{version}-{commit[:COMMIT_DIGITS]}"
    for repository, image in images.items():
        target = f"{host}/{repository}:{exact}"
        there = _manifest(engine, target, credentials)
        if there is None:
            _push(engine, image, target, credentials)
        elif there.digest in _digests(engine, image):
            print(f"{target}: is there already, nothing to do", flush=True)
        else:
            raise InvalidRequest(
                f"{target} is another build of this commit ({there.digest}), and a tag is never moved.",
                hint="Use that one, or delete the tag in the registry and push again.",
            )
    tag = version if _release(engine, images, host, version, credentials) else exact
    for repository in images:
        target = f"{host}/{repository}:{tag}"
        there = _manifest(engine, target, credentials)
        print(f"{target}@{there.digest}" if there else target, flush=True)
        if there and ".oci." in there.kind:
            print(f"{target}: warning: its manifest is OCI's; SageMaker may refuse it: docs/images.md", flush=True)
    return tag


def _release(
    engine: docker.APIClient, images: Mapping[str, str], host: str, version: str, credentials: Credentials | None
) -> bool:
    """Push images as `<version>`: all of them, or none where one is there from another build."""
    missing, taken = [], []
    for repository, image in images.items():
        there = _manifest(engine, f"{host}/{repository}:{version}", credentials)
        if there is None:
            missing.append(repository)
        elif there.digest not in _digests(engine, image):
            taken.append(repository)
    if taken:
        print(
            f"Version {version} of {', '.join(taken)} is there from another build and stays: only the commit's tags "
            "were pushed.\nTo release this build, raise __version__ in containers/e2e3d_stages/__init__.py.",
            flush=True,
        )
        return False
    for repository in missing:
        _push(engine, images[repository], f"{host}/{repository}:{version}", credentials)
    return True


class Manifest(NamedTuple):
    """What a tag stands for in its registry."""

    digest: str
    kind: str


def _manifest(engine: docker.APIClient, target: str, credentials: Credentials | None) -> Manifest | None:
    """A tag's manifest; nothing where there is no such tag."""
    try:
        found = engine.inspect_distribution(target, auth_config=credentials)["Descriptor"]
    except APIError as error:
        # Some registries deny a repository that only a push makes; whether one may push, the push tells.
        if error.status_code in (401, 403, 404):
            return None
        raise _refusal(target, str(error.explanation or error)) from error
    except (DockerException, RequestException) as error:
        raise _refusal(target, str(error)) from error
    return Manifest(found["digest"], found["mediaType"])


def _digests(engine: docker.APIClient, image: str) -> set[str]:
    """Digests of manifests that this very image has in the registries that the engine knows of."""
    with _engine_errors():
        return {name.partition("@")[2] for name in engine.inspect_image(image)["RepoDigests"] or []}


def _push(engine: docker.APIClient, image: str, target: str, credentials: Credentials | None) -> None:
    """Send what the registry lacks of an image, and tell how far it is."""
    print(f"{target}: pushing", flush=True)
    with _engine_errors():
        size = engine.inspect_image(image)["Size"]
        repository, _, tag = target.rpartition(":")
        engine.tag(image, repository, tag)
    started = time.monotonic()
    try:
        sent = _follow(engine.push(repository, tag, stream=True, decode=True, auth_config=credentials), target)
    except (DockerException, RequestException) as error:
        raise _refusal(target, str(getattr(error, "explanation", None) or error)) from error
    seconds = time.monotonic() - started
    # What is sent are archives, a little larger than the files in them.
    told = f"{as_size(min(sent, size))} of {as_size(size)} were sent in {as_duration(seconds)}"
    print(f"{target}: done; {told}", flush=True)


def _follow(events: Iterable[dict[str, Any]], target: str) -> int:
    """Tell a push's progress now and then; returns the bytes that were sent, before compression."""
    started = told = time.monotonic()
    done: dict[str, int] = {}
    sizes: dict[str, int] = {}
    waiting: set[str] = set()
    for event in events:
        if "error" in event:
            raise _refusal(target, event["error"])
        layer, status = event.get("id", ""), event.get("status", "")
        (waiting.add if status in ("Preparing", "Waiting") else waiting.discard)(layer)
        if status == "Pushing" and (figures := event.get("progressDetail")):
            done[layer] = figures.get("current", 0)
            # The engine knows a layer's size only by and by.
            sizes[layer] = max(figures.get("total", 0), done[layer])
        elif status == "Pushed":
            done[layer] = sizes.get(layer, 0)
        now = time.monotonic()
        if now - told > QUIET_SECONDS and status:
            told, sent = now, sum(done.values())
            # A registry that fails is tried again by the engine, which counts the seconds.
            on_its_way = sent and not status.startswith("Retrying")
            line = _progress(sent, sum(sizes.values()), len(waiting), now - started) if on_its_way else status
            print(f"{target}: {line}", flush=True)
    return sum(done.values())


def _progress(sent: int, size: int, waiting: int, seconds: float) -> str:
    """One line: the layers that are on their way, and when they have arrived."""
    rate = sent / seconds
    told = f"{as_size(sent)} of {as_size(size)}, {as_size(rate)}/s"
    if waiting:
        return f"{told}, layers that wait: {waiting}"
    return f"{told}, about {as_duration((size - sent) / rate)} left"


def _refusal(target: str, said: str) -> StageError:
    """What a registry's answer, in the engine's words, asks a person to do."""
    host = target.partition("/")[0]
    words = said.lower()
    told = f"{target} could not be pushed: {said}"
    if "immutable" in words:
        return InvalidRequest(told, hint="Somebody pushed this tag meanwhile: push again to see whose it is.")
    if any(word in words for word in ("denied", "unauthorized", "no basic auth", "authentication", "authorized")):
        return InvalidRequest(told, hint=_ECR_HINT if _ECR.fullmatch(host) else f"Log in: docker login {host}")
    if "name unknown" in words or "does not exist" in words or "not found" in words:
        return InvalidRequest(told, hint="Make the repository there, or correct the folder in REGISTRY.")
    return Infrastructure(told, hint="Check that the engine reaches the registry, and push again: it goes on there.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
