"""GitHub's workflows, read as GitHub reads them: what a release rests on."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.push import IMAGES
from e2e3d_stages import __version__
from tests.conftest import ROOT

FOLDER = ROOT / ".github/workflows"
FILES = sorted(FOLDER.glob("*.yml"))
Json = dict[str, Any]


def read(name: str) -> Json:
    content: Json = yaml.safe_load((FOLDER / name).read_text())
    # YAML 1.1 reads `on` as true.
    return {"on" if name is True else name: value for name, value in content.items()}


def steps(workflow: Json) -> Iterator[Json]:
    for job in workflow["jobs"].values():
        yield from job.get("steps", [])


def place(job: Json, what: str) -> int:
    """Where a job first does something."""
    return next(number for number, step in enumerate(job["steps"]) if what in step.get("run", step.get("uses", "")))


def test_a_release_begins_with_a_tag_and_with_nothing_else() -> None:
    assert read("release.yml")["on"] == {"push": {"tags": ["v*"]}}


def test_tests_run_for_pushes_and_pull_requests_and_when_a_release_calls() -> None:
    assert read("tests.yml")["on"] == {"push": {"branches": ["main"]}, "pull_request": None, "workflow_call": None}


def test_a_release_is_tested_before_it_is_built_scanned_and_pushed() -> None:
    jobs = read("release.yml")["jobs"]
    assert jobs["tests"]["uses"] == "./.github/workflows/tests.yml"
    assert jobs["tests"]["needs"] == "version"
    assert set(jobs["images"]["needs"]) == {"version", "tests"}
    order = [place(jobs["images"], what) for what in ("make images", "trivy --", "configure-aws", " push REGISTRY=")]
    assert order == sorted(order)
    # No step goes on after a failure.
    assert not [step for step in steps(read("release.yml")) if "if" in step or "continue-on-error" in step]


def test_what_is_pushed_is_what_was_scanned() -> None:
    job = read("release.yml")["jobs"]["images"]
    pushing = job["steps"][place(job, " push REGISTRY=")]
    assert "--assume-old=images" in pushing["run"]


def test_every_image_is_scanned_and_a_critical_hole_stops_the_release() -> None:
    job = read("release.yml")["jobs"]["images"]
    scan = job["steps"][place(job, "trivy --")]["run"]
    assert f"for name in {' '.join(IMAGES)}; do" in scan
    assert {"--severity CRITICAL", "--exit-code 1"} <= set(re.findall(r"--[\w-]+ \w+", scan))
    # Each image's finding counts, also when the last one is clean.
    for failing in IMAGES:
        trivy = f'trivy() {{ case "$*" in *e2e3d/{failing}:*) return 1;; esac; }}\n'
        assert subprocess.run(["bash", "-e", "-c", trivy + scan], env={"VERSION": "1", "RUNNER_TEMP": "/"}).returncode
    assert not subprocess.run(["bash", "-e", "-c", "trivy() { :; }\n" + scan], env={"VERSION": "1"}).returncode


@pytest.mark.parametrize(("tag", "status"), [(f"v{__version__}", 0), (__version__, 1), ("v99.0.0", 1)])
def test_a_tag_that_is_not_the_version_stops_the_release(tag: str, status: int, tmp_path: Path) -> None:
    job = read("release.yml")["jobs"]["version"]
    (tmp_path / "output").touch()
    environment = {"GITHUB_REF_NAME": tag, "GITHUB_OUTPUT": str(tmp_path / "output")}
    script = job["steps"][place(job, "GITHUB_REF_NAME")]["run"]
    done = subprocess.run(["bash", "-e", "-c", script], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert done.returncode == status
    assert (tmp_path / "output").read_text() == ("" if status else f"version={__version__}\n")
    assert ("::error::" in done.stdout) == bool(status)


def test_images_are_built_for_linux_amd64_with_kernels_for_every_gpu_of_aws() -> None:
    job = read("release.yml")["jobs"]["images"]
    assert job["env"]["DOCKER_DEFAULT_PLATFORM"] == "linux/amd64"
    recipe = (ROOT / "containers/3dgs/Dockerfile").read_text()
    assert f'ARG CUDA_ARCHITECTURES="{job["env"]["CUDA_ARCHITECTURES"]}"\n' in recipe


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_workflow_may_do_little_and_does_not_run_for_ever(file: Path) -> None:
    workflow = read(file.name)
    assert workflow["permissions"] == {"contents": "read"}
    assert "group" in workflow["concurrency"]
    for job in workflow["jobs"].values():
        assert "uses" in job or job["timeout-minutes"] <= 360
        assert job.get("runs-on", "ubuntu-24.04") == "ubuntu-24.04"


def test_only_the_job_that_pushes_may_become_a_role_of_aws() -> None:
    rights = {name: job.get("permissions") for name, job in read("release.yml")["jobs"].items()}
    assert rights == {"version": None, "tests": None, "images": {"contents": "read", "id-token": "write"}}
    assert "secrets." not in "".join(file.read_text() for file in FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_others_actions_are_pinned_to_a_commit(file: Path) -> None:
    for line in re.findall(r"uses: (?!\./)(.*)", file.read_text()):
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_checkout_leaves_no_token_behind(file: Path) -> None:
    checkouts = [step for step in steps(read(file.name)) if step.get("uses", "").startswith("actions/checkout@")]
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_a_workflow_makes_is_in_the_makefile(file: Path) -> None:
    lines = [line for step in steps(read(file.name)) for line in step.get("run", "").splitlines()]
    asked = [line.split("make ", 1)[1].split() for line in lines if re.match(r"make\b", line)]
    assert asked
    targets = {word for words in asked for word in words if not word.startswith("-") and "=" not in word}
    assert targets <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("name", ["Makefile", "deploy/push.py", *(f".github/workflows/{file.name}" for file in FILES)])
def test_nothing_is_named_latest(name: str) -> None:
    assert "latest" not in (ROOT / name).read_text()


def test_every_variable_of_the_repository_is_explained() -> None:
    used = {name for file in FILES for name in re.findall(r"vars\.(\w+)", file.read_text())}
    explained = set(re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "docs/images.md").read_text(), re.M))
    assert used == explained
