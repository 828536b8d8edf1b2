"""PlayCanvas's own program reads what we write: the independent judge of the format."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2e3d_stages.compress import streaming
from e2e3d_stages.contract.messages import StageError
from e2e3d_stages.splats import sog, splat_transform
from e2e3d_stages.splats.gaussians import Gaussians, read_ply, write_ply

# Node's start takes longer than what it does.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    try:
        splat_transform.command()
    except StageError as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{missing.message} {missing.hint}")
        pytest.skip(f"{missing.message} {missing.hint}")


@pytest.fixture
def impostor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a program of our own in splat-transform's place."""

    def install(script: str) -> None:
        path = tmp_path / "impostor.py"
        path.write_text(f"import sys, pathlib\ntarget = pathlib.Path(sys.argv[-1])\n{script}\n")
        monkeypatch.setattr(splat_transform, "command", lambda: [sys.executable, str(path)])

    return install


@pytest.mark.parametrize(("count", "degree"), [(1, 3), (500, 0), (500, 1), (500, 2), (3000, 3)])
def test_it_reads_our_sog_as_we_do(make_gaussians: Any, tmp_path: Path, count: int, degree: int) -> None:
    sog.encode(make_gaussians(count, degree), tmp_path / "scene.sog", max_colour_error=0.02)

    splat_transform.convert(tmp_path / "scene.sog", tmp_path / "judged.ply")

    ours, theirs = sog.decode(tmp_path / "scene.sog"), read_ply(tmp_path / "judged.ply")
    np.testing.assert_allclose(theirs.means, ours.means, atol=1e-5)
    np.testing.assert_allclose(theirs.scales, ours.scales, atol=1e-6)
    np.testing.assert_allclose(theirs.opacities, ours.opacities, atol=1e-3)
    np.testing.assert_allclose(theirs.sh, ours.sh, atol=1e-6)
    assert np.abs(np.sum(theirs.quats * ours.quats, axis=1)).min() > 1 - 1e-4


def test_it_reads_a_file_of_a_level_as_we_do(make_gaussians: Any, tmp_path: Path) -> None:
    def encode(some: Gaussians, path: Path, parts: Any) -> None:
        sog.encode(some, path, parts=parts)

    streaming.write_levels(make_gaussians(1200, 1), tmp_path / "streamed", encode, chunk=400, coarsest=100)
    for name in ("0_2.sog", "1_1.sog", "3_0.sog"):
        splat_transform.convert(tmp_path / "streamed" / name, tmp_path / "judged.ply")

        ours, theirs = sog.decode(tmp_path / "streamed" / name), read_ply(tmp_path / "judged.ply")
        np.testing.assert_allclose(theirs.means, ours.means, atol=1e-5)
        np.testing.assert_allclose(theirs.sh, ours.sh, atol=1e-6)


def test_its_spz_holds_the_scene_in_the_same_frame_and_order(make_gaussians: Any, tmp_path: Path) -> None:
    given = make_gaussians(500, 3)
    write_ply(tmp_path / "scene.ply", given)

    splat_transform.convert(tmp_path / "scene.ply", tmp_path / "scene.spz")
    splat_transform.convert(tmp_path / "scene.spz", tmp_path / "back.ply")

    back = read_ply(tmp_path / "back.ply")
    np.testing.assert_allclose(back.means, given.means, atol=1 / 4096)
    np.testing.assert_allclose(back.scales, given.scales, atol=1 / 16)
    assert np.abs(np.sum(back.quats * given.quats, axis=1)).min() > 0.9999


def test_an_empty_file_is_refused_though_it_says_success(tmp_path: Path, impostor: Any) -> None:
    impostor("target.touch()")

    with pytest.raises(StageError, match="0 bytes") as failure:
        splat_transform.convert(tmp_path / "scene.ply", tmp_path / "scene.spz")

    assert "compress_spz" in failure.value.hint
    assert list(tmp_path.glob("*.spz")) == []


def test_a_half_written_file_is_refused_with_its_last_words(tmp_path: Path, impostor: Any) -> None:
    impostor("target.write_text('half'); sys.exit('out of luck')")

    with pytest.raises(StageError, match="exit status 1") as failure:
        splat_transform.convert(tmp_path / "scene.ply", tmp_path / "scene.spz")

    assert "out of luck" in failure.value.details["output"]
    assert list(tmp_path.glob("*.spz")) == []


def test_a_conversion_that_takes_too_long_leaves_nothing_running(tmp_path: Path, impostor: Any) -> None:
    # As PyPI's `node` does, the program starts another; that one would hold its end of the pipe open for 30 s.
    impostor("import subprocess; subprocess.run([sys.executable, '-c', 'import time; time.sleep(30)'])")
    start = time.monotonic()

    with pytest.raises(subprocess.TimeoutExpired):
        splat_transform.convert(tmp_path / "scene.ply", tmp_path / "scene.spz", timeout=1)

    assert time.monotonic() - start < 20


def test_a_missing_program_is_named_with_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(StageError, match="splat-transform and node cannot be found") as failure:
        splat_transform.command()

    assert "npm ci --prefix containers/compressor" in failure.value.hint
