"""The shipped images: what is in them, what is not, and that their stages run however the container is locked up."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from e2e3d_stages import __version__
from e2e3d_stages.contract.messages import Input, Request, StageName
from e2e3d_stages.registry import STAGES
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.captures import list_capture_files
from e2e3d_stages.store.opening import open_storage
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("images")]

SERVED = {
    container: [stage.name for stage in STAGES.values() if stage.container == container]
    for container in ("sfm", "3dgs", "compressor")
}
LOCKED = ["--read-only", "--tmpfs", "/tmp", "--user", "54321:54321", "--cap-drop", "ALL", "--network", "none"]
KEY = "0123456789abcdef" * 2
QUICK: dict[str, dict[str, Any]] = {"ingest": {"max_size": 400}, "train": {"iterations": 10}}


def docker(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Docker's command line; what it printed on both streams is in `stdout`."""
    command = ["docker", *map(str, words)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def tag(container: str, version: str = __version__) -> str:
    return f"e2e3d/{container}:{version}"


def shell(container: str, script: str) -> str:
    """What a script prints inside, with every right to look around."""
    return docker("run", "--rm", "--user", "0", "--entrypoint", "sh", tag(container), "-c", script).stdout


def inspect(image: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(docker("image", "inspect", image).stdout)[0]
    return facts


@lru_cache
def checked(container: str) -> subprocess.CompletedProcess[str]:
    """What an image says of all its stages where it may do little, with what numba says of its cache."""
    return docker("run", "--rm", *LOCKED, "--env", "NUMBA_DEBUG_CACHE=1", tag(container), "check", *SERVED[container])


@pytest.mark.parametrize("container", SERVED)
def test_an_image_runs_its_stages_as_anybody_with_nothing_writable_but_tmp(container: str) -> None:
    done = checked(container)
    assert done.returncode == 0, done.stdout
    lines = [line for line in done.stdout.splitlines() if not line.startswith("[cache]")]
    assert [line.partition(":")[0] for line in lines] == SERVED[container]


@pytest.mark.parametrize(
    ("container", "path", "broken", "sound"),
    [
        ("sfm", "pycolmap.py", "sfm", "ingest"),
        ("3dgs", "numba.py", "train", None),
        ("compressor", "faiss.py", "compress", "publish"),
    ],
)
def test_an_image_with_a_broken_library_fails_its_check(
    container: str, path: str, broken: str, sound: str | None, tmp_path: Path
) -> None:
    (tmp_path / path).write_text("raise ImportError('it is broken')")
    overlaid = ["--volume", f"{tmp_path / path}:/opt/e2e3d/{path}:ro"]
    done = docker("run", "--rm", *overlaid, tag(container), "check", *filter(None, [broken, sound]))
    assert done.returncode == 1
    assert f"{broken} cannot run here: ImportError: it is broken" in done.stdout
    if sound is not None:
        assert f"{sound}: " in done.stdout


@pytest.mark.parametrize("container", SERVED)
def test_an_image_is_labelled_and_its_user_is_not_root(container: str) -> None:
    config = inspect(tag(container))["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["python", "-m", "e2e3d_stages"]
    labels = {name.rpartition(".")[2]: value for name, value in config["Labels"].items()}
    assert labels["title"] == f"e2e3d/{container}"
    assert (labels["version"], labels["licenses"]) == (__version__, "Apache-2.0")
    assert {"revision", "source", "description"} <= labels.keys()


@pytest.mark.parametrize("container", SERVED)
def test_an_image_holds_no_compiler_no_package_manager_of_node_and_no_cache(container: str) -> None:
    tools = "gcc g++ cc c++ ld make nvcc npm npx"
    left = "/root/.cache /root/.npm /tmp /var/tmp /var/lib/apt/lists /var/cache/apt/archives"
    found = shell(container, f"for tool in {tools}; do command -v $tool; done; find {left} -type f -size +0 2>&-")
    assert found == ""


def test_the_kernels_for_the_cpu_are_compiled_when_the_image_is_built() -> None:
    traced = checked("3dgs").stdout
    assert "data loaded" in traced
    assert "data saved" not in traced


@pytest.mark.parametrize("container", SERVED)
def test_a_build_after_a_change_of_code_reuses_what_was_installed(container: str, tmp_path: Path) -> None:
    for name in (".dockerignore", "Makefile", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "containers", tmp_path / "containers", ignore=shutil.ignore_patterns("node_modules"))
    # A check that tries nothing is a change of code as good as any, and spares minutes.
    (tmp_path / "containers/e2e3d_stages/check.py").write_text("def check(stages):\n    return 0\n")
    try:
        subprocess.run(["make", f"image-{container}", "VERSION=changed"], cwd=tmp_path, check=True, capture_output=True)
        before, after = (inspect(tag(container, version))["RootFS"]["Layers"] for version in (__version__, "changed"))
    finally:
        docker("image", "rm", tag(container, "changed"))
    # The code and what its check leaves are the last two.
    assert before[:-2] == after[:-2]
    assert before[-2:] != after[-2:]


def test_an_image_names_the_one_that_serves_the_stage_it_was_asked_for(tmp_path: Path) -> None:
    store = ArtifactStore.open((tmp_path / "store").as_uri())
    params = STAGES["train"].resolve("draft", {}).model_dump(mode="json")
    request = Request(stage="train", stage_version=STAGES["train"].version, key=KEY, attempt=1, params=params)
    store.write_request(request)
    asked = run_stage(request, store, tmp_path, image=tag("compressor"))
    assert asked.returncode == 2
    assert ", which train needs, is not installed where it runs." in asked.stdout
    failure = store.failure("train", KEY, 1)
    assert failure is not None
    assert "e2e3d/3dgs" in failure.hint


def test_training_uses_the_kernels_that_its_image_brought(sample: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for photo in sorted(sample.iterdir())[:6]:
        shutil.copy(photo, photos)
    store = ArtifactStore.open((tmp_path / "store").as_uri())
    for name in ("ingest", "sfm", "train"):
        stage = STAGES[name]
        request = Request(
            stage=stage.name,
            stage_version=stage.version,
            key=KEY,
            attempt=1,
            params=stage.resolve("draft", QUICK.get(name, {})).model_dump(mode="json"),
            inputs={before: Input(key=KEY, digest=digest(store, before)) for before in stage.inputs},
            capture=photos.as_uri() if name == "ingest" else None,
            listing=list_capture_files(open_storage(photos.as_uri())) if name == "ingest" else None,
        )
        store.write_request(request)
        started = run_stage(request, store, tmp_path)
        assert started.returncode == 0, started.stdout
    assert "data loaded" in started.stdout
    assert "data saved" not in started.stdout


def digest(store: ArtifactStore, stage: StageName) -> str:
    reference = store.reference(stage, KEY)
    assert reference is not None
    return reference.digest


def run_stage(
    request: Request, store: ArtifactStore, folder: Path, *, image: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a request as the local engine would, or as SageMaker would for training."""
    uri = store.request_uri(request.stage, request.key, request.attempt)
    words = ["run", uri]
    mounts = ["--volume", f"{folder}:{folder}"]
    if request.stage == "train":
        (folder / "hyperparameters.json").write_text(json.dumps({"request_uri": json.dumps(uri)}))
        mounts += ["--volume", f"{folder}/hyperparameters.json:/opt/ml/input/config/hyperparameters.json:ro"]
        words = ["train"]
    user = ["--user", f"{os.getuid()}:{os.getgid()}", "--env", "NUMBA_DEBUG_CACHE=1"]
    image = image or tag(STAGES[request.stage].container)
    return docker("run", "--rm", "--read-only", "--tmpfs", "/tmp", *user, *mounts, image, *words)
