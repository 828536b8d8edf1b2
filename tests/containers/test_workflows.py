"""GitHub's workflows, read as GitHub reads them: what a release rests on."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from deploy.push import IMAGES
from e2e3d_stages import __version__
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

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
    assert set(jobs["build"]["needs"]) == {"version", "tests"}
    assert set(jobs["push"]["needs"]) == {"version", "build"}
    for name, does in {
        "build": ("imagetools", "make images", "--severity CRITICAL", "cyclonedx", "docker save", "upload-artifact"),
        "push": ("download-artifact", "docker load", "configure-aws", " push REGISTRY=", "cosign sign", "provenance"),
    }.items():
        order = [place(jobs[name], what) for what in does]
        assert order == sorted(order)
    # No step goes on after a failure.
    assert not [step for step in steps(read("release.yml")) if "if" in step or "continue-on-error" in step]


def test_what_is_pushed_is_what_was_scanned(tmp_path: Path) -> None:
    job = read("release.yml")["jobs"]["push"]
    pushing = job["steps"][place(job, " push REGISTRY=")]
    assert "--assume-old=images" in pushing["run"]
    taking = job["steps"][place(job, "docker load")]["run"]
    engine = 'zstd() { :; }\ndocker() { [ "$1" = load ] || printf "%s\\n" one two three four; }\n'
    for scanned, status in {"one two three four ": 0, "one two three other ": 1, "": 1}.items():
        told = {"IMAGES": scanned, "RUNNER_TEMP": str(tmp_path), "VERSION": "1"}
        assert subprocess.run(["bash", "-e", "-c", engine + taking], env=told).returncode == status


def test_base_images_are_those_of_the_recipes_by_their_digests_and_are_recorded(tmp_path: Path) -> None:
    job = read("release.yml")["jobs"]["build"]
    resolving = job["steps"][place(job, "imagetools")]["run"]
    (tmp_path / "containers").symlink_to(ROOT / "containers")
    told = {name: str(tmp_path / name) for name in ("GITHUB_ENV", "GITHUB_STEP_SUMMARY")}
    script = "docker() { [ $4 != broken ] && echo sha256:0123; }\n" + resolving
    subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, env={**os.environ, **told}, check=True)
    resolved = (tmp_path / "GITHUB_ENV").read_text()
    assert (
        resolved == (tmp_path / "release/base-images.txt").read_text() == (tmp_path / "GITHUB_STEP_SUMMARY").read_text()
    )
    bases = {line.partition("=")[0]: line.partition("=")[2] for line in resolved.splitlines()}
    for recipe in (ROOT / "containers").glob("*/Dockerfile"):
        text = recipe.read_text()
        stages = set(re.findall(r"^FROM \S+ AS (\w+)", text, re.M))
        assert set(re.findall(r"^FROM (\S+)", text, re.M)) - stages <= {f"${{{name}}}" for name in bases}
        for name, image in re.findall(r"^ARG (\w+_IMAGE)=(.*)", text, re.M):
            assert bases[name] == f"{image}@sha256:0123"
            # What the environment says is what `make images` builds from.
            said = subprocess.run(
                ["make", "--dry-run", f"image-{recipe.parent.name}", f"{name}={bases[name]}"],
                cwd=ROOT, capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
            assert f"--build-arg {name}={bases[name]}" in said
    failing = subprocess.run(
        ["bash", "-e", "-c", "docker() { false; }\n" + resolving], cwd=tmp_path, env=os.environ | told
    )
    assert failing.returncode


def test_every_image_is_signed_by_digest_with_its_list_and_its_provenance(tmp_path: Path) -> None:
    jobs = read("release.yml")["jobs"]
    listing = jobs["build"]["steps"][place(jobs["build"], "cyclonedx")]["run"]
    signing = jobs["push"]["steps"][place(jobs["push"], "cosign sign")]["run"]
    doubles = """
        trivy() { while [ "$1" != --output ]; do shift; done; echo "list of $2" >&3; }
        aws() { :; }
        docker() {
            name=${5#e2e3d/}
            printf "%s\\n" elsewhere/e2e3d/x@sha256:9 "r.example/team/e2e3d/${name%:*}@sha256:${#name}"
        }
        cosign() { echo "cosign $*" >&3; }
    """
    done = subprocess.run(
        ["bash", "-e", "-c", f"exec 3>&1\n{doubles}\n{listing}\n{signing}"],
        env={"VERSION": "1", "REGISTRY": "r.example/team", "RUNNER_TEMP": str(tmp_path), "PATH": os.environ["PATH"]}
        | {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary")},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in IMAGES:
        image = f"r.example/team/e2e3d/{name}@sha256:{len(name) + 2}"
        assert f"list of release/{name}.cdx.json" in done
        assert f"cosign sign --yes {image}" in done
        list_of_it = f"{tmp_path}/release/{name}.cdx.json"
        assert f"cosign attest --yes --type cyclonedx --predicate {list_of_it} {image}" in done
    provenance = jobs["push"]["steps"][place(jobs["push"], "attest-build-provenance")]
    assert provenance["with"]["subject-checksums"] == "${{ runner.temp }}/pushed.txt"
    pushed = (tmp_path / "pushed.txt").read_text().splitlines()
    assert pushed == [f"{len(name) + 2}  r.example/team/e2e3d/{name}" for name in IMAGES]


def test_every_image_is_scanned_and_a_critical_hole_stops_the_release() -> None:
    job = read("release.yml")["jobs"]["build"]
    scan = job["steps"][place(job, "--severity CRITICAL")]["run"]
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
    job = read("release.yml")["jobs"]["build"]
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


def test_only_the_job_that_pushes_may_become_a_role_of_aws_and_sign() -> None:
    rights = {name: job.get("permissions") for name, job in read("release.yml")["jobs"].items()}
    assert rights == {
        "version": None,
        "tests": None,
        # It runs what is being built.
        "build": {"contents": "read"},
        "push": {"contents": "read", "id-token": "write", "attestations": "write"},
    }
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


OWN = {("airflow", "locked"), ("3dgs", "locked-nvcc")}
LOCKS = sorted((ROOT / "containers").glob("*/locked*.txt"))


def locked(file: Path) -> dict[str, str]:
    """The versions in a lock, by name; each has a hash."""
    entries = re.split(r"\n(?=\S)", file.read_text())
    for entry in entries:
        assert re.fullmatch(r"[\w.-]+==\S+( \\\n    --hash=sha256:[0-9a-f]{64})+\s*", entry), entry
    return dict(entry.split()[0].split("==") for entry in entries)


@pytest.mark.parametrize("file", LOCKS, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_what_images_install_is_what_the_constraints_name_and_has_hashes(file: Path) -> None:
    constraints = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"]
    pins = {
        each.name: str(each.specifier).removeprefix("==")
        for each in constraints
        if each.marker is None or each.marker.evaluate({"python_version": "3.11", "python_full_version": "3.11.9"})
    }
    # Airflow's own image and CUDA's compiler are nobody's dependencies.
    assert set(locked(file)) <= set(pins) or (file.parent.name, file.stem) in OWN
    others = {name: version for name, version in locked(file).items() if pins.get(name, version) != version}
    assert not others


@pytest.mark.parametrize("container", ["sfm", "3dgs", "compressor", "airflow"])
def test_a_lock_has_what_its_container_asks_for(container: str) -> None:
    folder = ROOT / "containers" / container
    asked = [line for line in (folder / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    has = locked(folder / "locked.txt")
    for each in map(Requirement, asked):
        assert each.specifier.contains(has[each.name]), f"{each}: make constraints"


@pytest.mark.parametrize(
    "recipe", sorted((ROOT / "containers").glob("*/Dockerfile")), ids=lambda file: file.parent.name
)
def test_pip_installs_into_images_by_hash(recipe: Path) -> None:
    command = recipe.read_text().replace("\\\n", " ")
    installs = re.findall(r"(?:pip [^&;]*install|\$install)\b[^&;]*", command.replace('install="pip', "install=pip"))
    assert installs
    others = [each for each in installs if "--require-hashes" not in each and "install=pip" not in each]
    # Our own wheel, built a step before; and PyTorch for CPUs, which no release has.
    allowed = {"airflow": ["--no-index /tmp/wheels/*.whl"], "3dgs": ["$install -c /build/constraints.txt torch"]}
    assert [
        each.strip().endswith(end) for each, end in zip(others, allowed.get(recipe.parent.name, []), strict=True)
    ] == [True] * len(others)


def test_renovate_updates_what_is_pinned_and_leaves_locks_to_make_constraints() -> None:
    settings = json.loads((ROOT / "renovate.json").read_text())
    assert set(settings["enabledManagers"]) == {
        "github-actions", "dockerfile", "docker-compose", "npm", "pip_requirements"
    }  # fmt: skip
    seen = {
        manager: {
            name
            for pattern in settings[manager]["managerFilePatterns"]
            for name in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).split()
            if re.search(pattern.strip("/"), name)
        }
        for manager in ("docker-compose", "pip_requirements")
    }
    assert seen["pip_requirements"] == {"constraints.txt"}
    with_images = {
        str(file.relative_to(ROOT))
        for file in [ROOT / "docker-compose.yml", *(ROOT / "deploy/compose").glob("*.yaml")]
        if "image:" in file.read_text()
    }
    assert with_images <= seen["docker-compose"]
    assert settings["postUpgradeTasks"]["commands"] == ["make constraints"]
