"""`make push`: tiny images, pushed by this machine's engine to a small real registry; ECR's own API is moto's."""

from __future__ import annotations

import fnmatch
import io
import json
import logging
import os
import shutil
import subprocess
import tarfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import docker
import docker.errors
import pytest
import requests

from deploy import push as program
from e2e3d_stages.contract.messages import Infrastructure, InvalidRequest
from tests.conftest import ROOT
from tests.containers.registry import Registry

pytestmark = pytest.mark.slow

ACCOUNT = "123456789012"
ECR_HOST = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com"
COMMIT, OTHER_COMMIT = "0123456789abcdef" * 2 + "01234567", "fedcba98" * 5
EXACT = f"7.8.9-{COMMIT[:12]}"
POLICY = json.loads((ROOT / "deploy/aws/ecr-push-policy.json").read_text())
# What the engine calls on ECR's side of a push and of a look at a manifest, as ECR's documentation has it.
ENGINE_ACTIONS = {
    *("ecr:BatchGetImage", "ecr:BatchCheckLayerAvailability", "ecr:InitiateLayerUpload", "ecr:UploadLayerPart"),
    *("ecr:CompleteLayerUpload", "ecr:PutImage"),
}
MakeImage = Callable[..., str]
MakeRegistry = Callable[..., Registry]


@pytest.fixture
def make_image(engine: docker.APIClient) -> Iterator[MakeImage]:
    """Makes images of one file, without a build; every name of theirs is gone afterwards."""
    made: list[str] = []

    def make(
        name: str | None = None, *, content: bytes = b"", revision: str | None = COMMIT, environment: str = ""
    ) -> str:
        tag = name or f"e2e3d-tests/push:{uuid.uuid4().hex}"
        label = f"LABEL org.opencontainers.image.revision={revision}" if revision is not None else ""
        body = content or uuid.uuid4().bytes
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as archive:
            entry = tarfile.TarInfo("data")
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))
        repository, _, version = tag.rpartition(":")
        changes = [change for change in (label, environment) if change]
        engine.import_image_from_data(layer.getvalue(), repository=repository, tag=version, changes=changes)
        made.append(engine.inspect_image(tag)["Id"])
        return tag

    yield make
    for image in made:
        engine.remove_image(image, force=True)


@pytest.fixture
def make_registry() -> Iterator[MakeRegistry]:
    made: list[Registry] = []

    def make(**behaviour: Any) -> Registry:
        made.append(Registry(**behaviour))
        return made[-1]

    yield make
    for registry in made:
        registry.close()


@pytest.fixture
def release(make_image: MakeImage, engine: docker.APIClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A version whose four images are there, as after `make images`; docker's own configuration is empty."""
    version = f"7.8.{uuid.uuid4().int % 10**9}"
    monkeypatch.setattr(program, "__version__", version)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    image = make_image()
    for name in program.IMAGES:
        engine.tag(image, f"e2e3d/{name}", version)
    return version


@pytest.fixture
def ecr(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """ECR's API, without repositories."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    client = boto3.client("ecr", region_name="us-east-1")
    yield client
    for repository in client.describe_repositories()["repositories"]:
        client.delete_repository(repositoryName=repository["repositoryName"], force=True)


@pytest.fixture
def aws_calls(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Every operation that boto3 is asked for, as IAM names it."""
    calls: set[str] = set()
    session = boto3.Session()
    session.events.register(
        "before-call", lambda model, **_: calls.add(f"{model.service_model.signing_name}:{model.name}")
    )
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", session)
    return calls


# Tags


def test_four_images_get_the_tags_of_their_version_and_their_commit_and_no_other(
    make_registry: MakeRegistry, release: str, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = make_registry(immutable=True)
    assert program.main([registry.host]) == 0
    names = ["e2e3d/sfm", "e2e3d/3dgs", "e2e3d/compressor", "e2e3d/airflow"]
    assert set(registry.tags) == {(name, tag) for name in names for tag in (release, f"{release}-{COMMIT[:12]}")}
    for name in names:
        assert registry.tags[name, release] == registry.tags[name, f"{release}-{COMMIT[:12]}"]
        assert registry.config(name, release)["config"]["Labels"]["org.opencontainers.image.revision"] == COMMIT
    said = capsys.readouterr().out
    for name in names:
        assert f"{registry.host}/{name}:{release}@{registry.tags[name, release]}" in said
    assert said.endswith(f"    image: {registry.host}/e2e3d/{{container}}:{{version}}\n")


def test_a_folder_of_a_registry_stands_before_the_names(make_registry: MakeRegistry, release: str) -> None:
    registry = make_registry()
    assert program.main([f"{registry.host}/team/splats/"]) == 0
    assert ("team/splats/e2e3d/3dgs", release) in registry.tags


def test_pushing_again_sends_nothing_and_says_so(
    make_registry: MakeRegistry, release: str, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = make_registry(immutable=True)
    program.main([registry.host])
    registry.calls.clear()
    capsys.readouterr()
    assert program.main([registry.host]) == 0
    assert {method for method, _ in registry.calls} <= {"GET", "HEAD"}
    assert capsys.readouterr().out.count("is there already, nothing to do") == 4


def test_a_release_that_is_there_from_another_build_stays_and_the_commit_is_pushed(
    engine: docker.APIClient, make_image: MakeImage, make_registry: MakeRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = make_registry(immutable=True)
    older = {"e2e3d/sfm": make_image(revision=OTHER_COMMIT)}
    assert program.push(engine, older, registry.host, "7.8.9", OTHER_COMMIT) == "7.8.9"
    released = registry.tags["e2e3d/sfm", "7.8.9"]
    newer = {"e2e3d/sfm": make_image(), "e2e3d/3dgs": make_image()}
    assert program.push(engine, newer, registry.host, "7.8.9", COMMIT) == EXACT
    assert registry.tags["e2e3d/sfm", "7.8.9"] == released
    assert {("e2e3d/sfm", EXACT), ("e2e3d/3dgs", EXACT)} <= set(registry.tags)
    # No release is half of one build and half of another.
    assert ("e2e3d/3dgs", "7.8.9") not in registry.tags
    said = capsys.readouterr().out
    assert "Version 7.8.9 of e2e3d/sfm is there from another build and stays" in said
    assert "raise __version__" in said


def test_a_profile_is_told_the_commit_where_the_release_is_another_build(
    engine: docker.APIClient,
    make_image: MakeImage,
    make_registry: MakeRegistry,
    release: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    registry = make_registry()
    program.push(engine, {"e2e3d/sfm": make_image(revision=OTHER_COMMIT)}, registry.host, release, OTHER_COMMIT)
    assert program.main([registry.host]) == 0
    said = capsys.readouterr().out
    assert said.endswith(f"    image: {registry.host}/e2e3d/{{container}}:{{version}}-{COMMIT[:12]}\n")


def test_another_build_of_the_same_commit_is_not_replaced_even_where_tags_can_be_moved(
    engine: docker.APIClient, make_image: MakeImage, make_registry: MakeRegistry
) -> None:
    registry = make_registry(immutable=False)
    program.push(engine, {"e2e3d/sfm": make_image()}, registry.host, "7.8.9", COMMIT)
    before = dict(registry.tags)
    with pytest.raises(InvalidRequest, match="is another build of this commit") as refusal:
        program.push(engine, {"e2e3d/sfm": make_image()}, registry.host, "7.8.9", COMMIT)
    assert "delete the tag" in refusal.value.hint
    assert registry.tags == before


def test_a_push_that_was_cut_off_goes_on(
    engine: docker.APIClient, make_image: MakeImage, make_registry: MakeRegistry
) -> None:
    registry = make_registry(immutable=True)
    images = {"e2e3d/sfm": make_image(), "e2e3d/3dgs": make_image()}
    registry.refuse = lambda method, path: (403, "DENIED", "not now") if "3dgs" in path and method == "POST" else None
    with pytest.raises(InvalidRequest, match="not now"):
        program.push(engine, images, registry.host, "7.8.9", COMMIT)
    registry.refuse = lambda method, path: None
    assert program.push(engine, images, registry.host, "7.8.9", COMMIT) == "7.8.9"
    assert {tag for name, tag in registry.tags if name == "e2e3d/3dgs"} == {"7.8.9", EXACT}


def test_a_tag_that_somebody_pushes_meanwhile_is_not_moved_and_that_is_said(
    engine: docker.APIClient, make_image: MakeImage, make_registry: MakeRegistry
) -> None:
    registry = make_registry(immutable=True)

    def meanwhile(method: str, path: str) -> None:
        if method == "PUT" and "/manifests/" in path:
            registry.tags["e2e3d/sfm", EXACT] = "sha256:another"

    registry.refuse = meanwhile
    with pytest.raises(InvalidRequest, match="cannot be overwritten because the repository is immutable") as refusal:
        program.push(engine, {"e2e3d/sfm": make_image()}, registry.host, "7.8.9", COMMIT)
    assert "push again" in refusal.value.hint
    assert registry.tags == {("e2e3d/sfm", EXACT): "sha256:another"}


def test_a_manifest_that_sagemaker_may_refuse_is_told(
    engine: docker.APIClient, make_image: MakeImage, make_registry: MakeRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = make_registry(immutable=True)
    images = {"e2e3d/sfm": make_image()}
    program.push(engine, images, registry.host, "7.8.9", COMMIT)
    assert "OCI" not in capsys.readouterr().out
    # What an engine with containerd's store would have pushed; this engine knows it as its own once it has pulled it.
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = json.loads(registry.manifests[registry.tags["e2e3d/sfm", EXACT]][1]) | {"mediaType": kind}
    manifest["config"]["mediaType"] = "application/vnd.oci.image.config.v1+json"
    for layer in manifest["layers"]:
        layer["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip"
    digest = registry.put_manifest("e2e3d/sfm", EXACT, kind, json.dumps(manifest).encode())
    registry.tags["e2e3d/sfm", "7.8.9"] = digest
    engine.pull(f"{registry.host}/e2e3d/sfm", tag=EXACT)
    assert program.push(engine, images, registry.host, "7.8.9", COMMIT) == "7.8.9"
    assert "warning: its manifest is OCI's; SageMaker may refuse it" in capsys.readouterr().out


# Where the images come from


@pytest.mark.parametrize("revision", [f"{COMMIT}-dirty", "", None])
def test_images_of_a_changed_tree_are_not_pushed(
    engine: docker.APIClient, make_image: MakeImage, revision: str | None
) -> None:
    with pytest.raises(InvalidRequest, match="was not built of a commit") as refusal:
        program.commit_of(engine, [make_image(), make_image(revision=revision)])
    assert "git status" in refusal.value.hint


def test_images_of_different_commits_are_not_pushed(engine: docker.APIClient, make_image: MakeImage) -> None:
    with pytest.raises(InvalidRequest, match=f"{COMMIT[:12]}, .* of {OTHER_COMMIT[:12]}"):
        program.commit_of(engine, [make_image(), make_image(revision=OTHER_COMMIT)])


def test_an_image_that_is_not_there_has_to_be_built(engine: docker.APIClient) -> None:
    with pytest.raises(InvalidRequest, match=r"no image e2e3d/sfm:0.0.0-never") as refusal:
        program.commit_of(engine, ["e2e3d/sfm:0.0.0-never"])
    assert "make images" in refusal.value.hint


def test_an_image_for_cpus_only_is_pushed_with_a_warning(
    make_image: MakeImage, make_registry: MakeRegistry, release: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_image(f"e2e3d/3dgs:{release}", environment="ENV CUDA_VISIBLE_DEVICES=")
    assert program.main([make_registry().host]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "for CPUs only" in line] == [
        f"e2e3d/3dgs:{release}: warning: it is for CPUs only; docs/images.md says how to build for GPUs"
    ]


def test_an_engine_that_does_not_answer_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    assert program.main(["registry.example.org"]) == 1
    assert "Start it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("registry", "parts"),
    [
        (ECR_HOST, (ECR_HOST, "")),
        ("127.0.0.1:5000", ("127.0.0.1:5000", "")),
        ("localhost/a", ("localhost", "a/")),
        ("registry.example.org/team/a_b-c/", ("registry.example.org", "team/a_b-c/")),
    ],
)
def test_a_registry_is_a_host_and_perhaps_a_folder(registry: str, parts: tuple[str, str]) -> None:
    assert program.address(registry) == parts


@pytest.mark.parametrize("registry", ["", "https://a.example.org", "somebody", "a.org/Team", "a.org//b", "a.org:x"])
def test_what_is_no_registry_is_refused_with_examples(
    registry: str, engine: docker.APIClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main([registry]) == 1
    assert "make push REGISTRY=" in capsys.readouterr().err


# Progress


def test_a_long_push_is_told_now_and_then(
    engine: docker.APIClient,
    make_image: MakeImage,
    make_registry: MakeRegistry,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(program, "QUIET_SECONDS", 0.2)
    registry = make_registry(pause=0.02)
    program.push(engine, {"e2e3d/sfm": make_image(content=os.urandom(3_000_000))}, registry.host, "7.8.9", COMMIT)
    lines = [line for line in capsys.readouterr().out.splitlines() if "MB/s" in line]
    assert 1 <= len(lines) <= 8
    assert " of 3.0 MB, " in lines[0]
    assert lines[0].endswith(" left")


def test_a_line_of_progress_tells_the_rate_and_the_end() -> None:
    assert program._progress(412_000_000, 1_680_000_000, 0, 50) == "412 MB of 1.7 GB, 8.2 MB/s, about 2 min 34 s left"
    assert program._progress(1_000_000, 2_000_000, 3, 1) == "1.0 MB of 2.0 MB, 1.0 MB/s, layers that wait: 3"


def test_the_lines_follow_what_the_engine_tells(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "QUIET_SECONDS", -1)
    engine_says: list[dict[str, Any]] = [
        {"status": "Preparing", "progressDetail": {}, "id": "base"},
        {"status": "Preparing", "progressDetail": {}, "id": "code"},
        {"status": "Layer already exists", "progressDetail": {}, "id": "base"},
        {"status": "Retrying in 5 seconds", "progressDetail": {}, "id": "code"},
        {"status": "Waiting", "progressDetail": {}, "id": "more"},
        {"status": "Pushing", "progressDetail": {"current": 4_000_000, "total": 8_000_000}, "id": "code"},
        {"status": "Pushing", "progressDetail": {"current": 1_000_000, "total": 1_000_000}, "id": "more"},
        {"status": "Pushed", "progressDetail": {}, "id": "code"},
        {"progressDetail": {}, "aux": {"Tag": "7.8.9", "Digest": "sha256:0", "Size": 1}},
    ]
    assert program._follow(engine_says, "e2e3d/sfm:7.8.9") == 9_000_000
    said = [line.removeprefix("e2e3d/sfm:7.8.9: ") for line in capsys.readouterr().out.splitlines()]
    assert said[2:4] == ["Layer already exists", "Retrying in 5 seconds"]
    assert said[5].startswith("4.0 MB of 8.0 MB, ")
    assert said[5].endswith("layers that wait: 1")
    assert said[6].startswith("5.0 MB of 9.0 MB, ")
    assert said[6].endswith(" left")
    assert said[7].endswith("about 0.0 s left")


# Refusals


def test_without_credentials_one_is_told_to_log_in(
    make_registry: MakeRegistry, release: str, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = make_registry(credentials=("someone", "secret"))
    assert program.main([registry.host]) == 1
    assert f"docker login {registry.host}" in capsys.readouterr().err


def test_what_docker_login_stored_opens_another_registry(
    make_registry: MakeRegistry, release: str, tmp_path: Path
) -> None:
    registry = make_registry(credentials=("someone", "secret"))
    (tmp_path / "docker").mkdir()
    stored = {"auths": {registry.host: {"auth": "c29tZW9uZTpzZWNyZXQ="}}}
    (tmp_path / "docker/config.json").write_text(json.dumps(stored))
    assert program.main([registry.host]) == 0
    assert ("e2e3d/sfm", release) in registry.tags


@pytest.mark.parametrize(
    ("refusal", "hint"),
    [
        ((403, "DENIED", "somebody is not authorized to perform: ecr:InitiateLayerUpload"), "docker login"),
        ((404, "NAME_UNKNOWN", "The repository with name 'e2e3d/sfm' does not exist"), "Make the repository"),
    ],
)
def test_a_registrys_refusal_is_told_in_its_words_with_what_to_do(
    engine: docker.APIClient,
    make_image: MakeImage,
    make_registry: MakeRegistry,
    refusal: tuple[int, str, str],
    hint: str,
) -> None:
    registry = make_registry()
    registry.refuse = lambda method, path: refusal if method == "POST" else None
    with pytest.raises(InvalidRequest) as told:
        program.push(engine, {"e2e3d/sfm": make_image()}, registry.host, "7.8.9", COMMIT)
    assert refusal[2] in told.value.message
    assert hint in told.value.hint


def test_a_registry_out_of_reach_is_the_networks_fault(engine: docker.APIClient, make_image: MakeImage) -> None:
    with pytest.raises(Infrastructure, match="connection refused") as told:
        program.push(engine, {"e2e3d/sfm": make_image()}, "127.0.0.1:1", "7.8.9", COMMIT)
    assert "reaches the registry" in told.value.hint


# Amazon ECR


def test_missing_repositories_are_made_with_scans_and_immutable_tags(
    ecr: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    program.log_in(ECR_HOST, ["e2e3d/sfm", "e2e3d/3dgs"])
    made = {found["repositoryName"]: found for found in ecr.describe_repositories()["repositories"]}
    assert set(made) == {"e2e3d/sfm", "e2e3d/3dgs"}
    for repository in made.values():
        assert repository["imageTagMutability"] == "IMMUTABLE"
        assert repository["imageScanningConfiguration"] == {"scanOnPush": True}
    capsys.readouterr()
    program.log_in(ECR_HOST, ["e2e3d/sfm", "e2e3d/3dgs"])
    assert capsys.readouterr().out == ""


def test_a_repository_that_is_there_stays_as_it_is_with_a_warning(ecr: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ecr.create_repository(repositoryName="e2e3d/sfm")
    before = ecr.describe_repositories()["repositories"]
    program.log_in(ECR_HOST, ["e2e3d/sfm"])
    assert ecr.describe_repositories()["repositories"] == before
    said = capsys.readouterr().out
    assert "its tags are mutable" in said
    assert "does not scan" in said


def test_ecrs_password_opens_the_registry_and_is_seen_nowhere(
    ecr: Any,
    engine: docker.APIClient,
    make_image: MakeImage,
    make_registry: MakeRegistry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    caplog.set_level(logging.INFO)
    password = f"{ACCOUNT}-auth-token"
    registry = make_registry(credentials=("AWS", password), repositories={"e2e3d/sfm"}, immutable=True)
    credentials = program.log_in(ECR_HOST, ["e2e3d/sfm"])
    images = {"e2e3d/sfm": make_image()}
    assert program.push(engine, images, registry.host, "7.8.9", COMMIT, credentials) == "7.8.9"
    registry.refuse = lambda method, path: (403, "DENIED", "not authorized") if method == "PUT" else None
    with pytest.raises(InvalidRequest, match="not authorized") as refusal:
        program.push(engine, images, registry.host, "7.9.0", COMMIT, credentials)
    written = "".join(capfd.readouterr()) + caplog.text + str(refusal.value) + refusal.value.hint
    assert password not in written
    assert not (tmp_path / "docker").exists()


def test_other_registries_have_nothing_to_do_with_aws(monkeypatch: pytest.MonkeyPatch, aws_calls: set[str]) -> None:
    assert program.log_in("registry.example.org", ["e2e3d/sfm"]) is None
    assert not aws_calls


def test_without_aws_credentials_one_is_told_to_log_in(
    monkeypatch: pytest.MonkeyPatch, ecr: Any, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(InvalidRequest, match="no AWS credentials") as refusal:
        program.log_in(ECR_HOST, ["e2e3d/sfm"])
    assert "AWS_PROFILE" in refusal.value.hint


def test_aws_out_of_reach_is_the_networks_fault(monkeypatch: pytest.MonkeyPatch, ecr: Any) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(Infrastructure, match="ECR does not answer"):
        program.log_in(ECR_HOST, ["e2e3d/sfm"])


# What whoever pushes may do


@pytest.fixture
def somebody(ecr: Any, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Makes everything after it be asked by a user with one policy, which AWS holds them to."""
    name = f"pusher-{uuid.uuid4().hex}"

    def become(policy: dict[str, Any]) -> None:
        iam = boto3.client("iam")
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="push", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
        requests.post(f"{s3_endpoint}/moto-api/reset-auth", data=b"0", timeout=10).raise_for_status()

    yield become
    requests.post(f"{s3_endpoint}/moto-api/reset-auth", data=b"inf", timeout=10).raise_for_status()


def actions() -> set[str]:
    listed = [statement["Action"] for statement in POLICY["Statement"]]
    return {action for each in listed for action in (each if isinstance(each, list) else [each])}


def test_the_policy_names_what_is_called_and_nothing_else(ecr: Any, aws_calls: set[str]) -> None:
    program.log_in(ECR_HOST, ["e2e3d/sfm"])
    assert aws_calls | ENGINE_ACTIONS == actions()


def test_the_policy_reaches_the_four_repositories_and_no_other() -> None:
    for statement in POLICY["Statement"]:
        assert statement["Effect"] == "Allow"
        if statement["Action"] == "ecr:GetAuthorizationToken":
            # IAM knows no narrower one for it.
            assert statement["Resource"] == "*"
            continue
        for name in program.IMAGES:
            arn = f"arn:aws:ecr:eu-central-1:{ACCOUNT}:repository/e2e3d/{name}"
            assert fnmatch.fnmatchcase(arn, statement["Resource"])
        assert not fnmatch.fnmatchcase(f"arn:aws:ecr:eu-central-1:{ACCOUNT}:repository/payroll", statement["Resource"])


def test_the_policy_is_enough(ecr: Any, somebody: Callable[[dict[str, Any]], None]) -> None:
    # Moto holds a user to the actions, not to the resources.
    somebody({**POLICY, "Statement": [{**statement, "Resource": "*"} for statement in POLICY["Statement"]]})
    credentials = program.log_in(ECR_HOST, ["e2e3d/sfm"])
    assert credentials is not None
    assert credentials["username"] == "AWS"


@pytest.mark.parametrize("missing", ["ecr:GetAuthorizationToken", "ecr:CreateRepository", "ecr:DescribeRepositories"])
def test_a_missing_right_is_named_with_the_policy_that_gives_it(
    ecr: Any,
    somebody: Callable[[dict[str, Any]], None],
    missing: str,
    release: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rest = {"Effect": "Allow", "Action": sorted(actions() - {missing}), "Resource": "*"}
    somebody({"Version": "2012-10-17", "Statement": [rest]})
    assert program.main([ECR_HOST]) == 1
    said = capsys.readouterr().err
    assert missing in said
    assert "deploy/aws/ecr-push-policy.json" in said


# make


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with the Makefile and nothing else."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    who = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    for words in (["init", "--quiet"], ["add", "."], [*who, "commit", "--quiet", "--message", "begin"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *words], cwd=folder, capture_output=True, text=True, check=False)


def test_make_push_needs_a_registry(checkout: Path) -> None:
    done = make(checkout, "pushable", "REGISTRY=")
    assert done.returncode != 0
    assert "make push REGISTRY=" in done.stdout


@pytest.mark.parametrize("change", ["Makefile", "new"])
def test_make_push_refuses_a_changed_tree_and_shows_it(checkout: Path, change: str) -> None:
    assert make(checkout, "pushable", "REGISTRY=a.org").returncode == 0
    with (checkout / change).open("a") as file:
        file.write("# changed\n")
    done = make(checkout, "pushable", "REGISTRY=a.org")
    assert done.returncode != 0
    assert change in done.stdout
    assert "Commit or put away" in done.stdout


def test_make_push_asks_before_it_builds_and_builds_before_it_pushes() -> None:
    steps = make(ROOT, "--dry-run", "push", "REGISTRY=a.org").stdout
    asked, built, pushed = (steps.index(what) for what in ("git status", "docker build", "deploy/push.py"))
    assert asked < built < pushed
    # What a workflow has built and scanned is pushed as it is.
    steps = make(ROOT, "--dry-run", "--assume-old=images", "push", "REGISTRY=a.org").stdout
    assert "docker build" not in steps
    assert "deploy/push.py" in steps
