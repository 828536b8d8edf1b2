from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2e3d_stages.compress import stage
from e2e3d_stages.compress.params import PRESETS, Params
from e2e3d_stages.compress.spec import SPEC
from e2e3d_stages.contract.messages import Interrupted, StageError
from e2e3d_stages.contract.spec import Workload
from e2e3d_stages.splats import sog, splat_transform
from e2e3d_stages.splats.gaussians import Gaussians, write_ply


@dataclass
class Train:
    folder: Path


@dataclass
class FakeJob:
    """The part of runtime.StageContext that the stage uses."""

    params: Params
    inputs: dict[str, Train]
    output: Path
    scratch: Path
    threads: int = 2
    warnings: list[str] = field(default_factory=list)
    steps: list[tuple[str, float, float]] = field(default_factory=list)
    stopped: bool = False

    def progress(self, done: float, total: float, unit: str, *, phase: str = "") -> None:
        self.steps.append((phase, done, total))

    def warn(self, code: str, message: str, advice: str = "") -> None:
        self.warnings.append(code)

    def check_stop(self) -> None:
        if self.stopped:
            raise Interrupted("stopped")


MakeJob = Callable[..., FakeJob]


@pytest.fixture
def make_job(tmp_path: Path) -> MakeJob:
    def make(gaussians: Gaussians, name: str = "job", **params: Any) -> FakeJob:
        folders = [tmp_path / name / part for part in ("train", "output", "scratch")]
        for folder in folders:
            folder.mkdir(parents=True)
        write_ply(folders[0] / "scene.ply", gaussians)
        return FakeJob(Params(**{"spz": False, **params}), {"train": Train(folders[0])}, folders[1], folders[2])

    return make


def opaque(gaussians: Gaussians) -> Gaussians:
    return replace(gaussians, opacities=np.full(len(gaussians), 2, dtype=np.float32))


def test_a_scene_becomes_sog_and_a_report_whose_figures_match_the_files(make_gaussians: Any, make_job: MakeJob) -> None:
    context = make_job(opaque(make_gaussians(2000, 1)), max_colour_error=0.02)

    metrics = stage.run(context)

    report = json.loads((context.output / "compression.json").read_text())
    sog_bytes = (context.output / "scene.sog").stat().st_size
    assert {path.name for path in context.output.iterdir()} == {"scene.sog", "compression.json"}
    assert (metrics["gaussians_in"], metrics["gaussians"], metrics["sog_bytes"]) == (2000, 2000, sog_bytes)
    assert metrics["ratio"] == pytest.approx(metrics["ply_bytes"] / sog_bytes, abs=0.01)
    assert metrics["ratio"] > 3.5
    assert 0 < metrics["position_error_median"] <= metrics["position_error_max"] < 1e-4
    assert 0 < metrics["palette_size"] < 2000
    assert {name: report[name] for name in metrics} == metrics
    assert [removal["count"] for removal in report["removals"]] == [0, 0, 0]
    assert context.warnings == []
    assert context.steps[-1] == ("SOG", 7, 7)
    assert context.steps[0] == ("cleaning", 0, 1)
    assert context.steps[1:] == sorted(context.steps[1:])


@pytest.mark.slow
def test_spz_is_written_beside_sog(make_gaussians: Any, make_job: MakeJob) -> None:
    try:
        splat_transform.command()
    except StageError as missing:
        pytest.skip(missing.message)  # test_splat_transform.py fails in CI
    context = make_job(opaque(make_gaussians(300, 1)), spz=True)

    metrics = stage.run(context)

    assert metrics["spz_bytes"] == (context.output / "scene.spz").stat().st_size > 0


def test_spz_without_its_program_fails_before_the_work(
    make_gaussians: Any, make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    context = make_job(make_gaussians(30, 0), spz=True)

    with pytest.raises(StageError, match="splat-transform"):
        stage.run(context)

    assert list(context.output.iterdir()) == []


def test_a_scene_too_wide_for_spz_says_so_and_keeps_its_sog(
    make_gaussians: Any, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splat_transform, "command", lambda: ["never started"])
    given = opaque(make_gaussians(300, 0))
    context = make_job(replace(given, means=given.means * 1000), spz=True)

    metrics = stage.run(context)

    assert context.warnings == ["spz_range"]
    assert metrics["spz_bytes"] == 0
    assert (context.output / "scene.sog").exists()


def test_broken_and_floating_gaussians_are_removed_and_said(make_gaussians: Any, make_job: MakeJob) -> None:
    given = opaque(make_gaussians(1000, 0))
    given.means[0] = np.nan
    given.means[1:4] = 1e6

    context = make_job(given)
    metrics = stage.run(context)

    assert (metrics["gaussians"], metrics["removed_not_finite"], metrics["removed_floating"]) == (996, 1, 3)
    assert context.warnings == ["broken_gaussians", "floating_gaussians"]
    assert np.abs(sog.decode(context.output / "scene.sog").means).max() < 100


@pytest.mark.parametrize(
    ("params", "figure"),
    [
        ({"sh_degree": 1}, "sh_degree"),
        ({"max_colour_error": 0.02}, "palette_size"),
        ({"min_opacity": 0.9}, "removed_invisible"),
        ({"floater_distance": 5.0, "max_floaters": 1.0}, "removed_floating"),
    ],
)
def test_each_parameter_changes_what_is_written(
    make_gaussians: Any, make_job: MakeJob, params: dict[str, Any], figure: str
) -> None:
    given = make_gaussians(600, 2)
    given.means[:3] *= 30

    usual, changed = make_job(given, "usual"), make_job(given, "changed", **params)

    assert stage.run(usual)[figure] != stage.run(changed)[figure]
    assert (usual.output / "scene.sog").read_bytes() != (changed.output / "scene.sog").read_bytes()


def test_a_scene_above_the_limit_gets_levels_and_one_at_the_limit_stays_as_it_was(
    make_gaussians: Any, make_job: MakeJob
) -> None:
    given = opaque(make_gaussians(300, 1))
    usual, at, above = make_job(given), make_job(given, "at", stream_above=300), make_job(given, "up", stream_above=299)
    metrics = [stage.run(context) for context in (usual, at, above)]

    assert metrics[0] == metrics[1] == {name: metrics[2][name] for name in metrics[0]}
    assert {path.name for path in at.output.iterdir()} == {path.name for path in usual.output.iterdir()}
    streamed = above.output / "streamed"
    assert {path.name for path in streamed.iterdir()} == {"lod-meta.json", "0_0.sog"}
    assert metrics[2]["level_gaussians"] == [300]
    assert metrics[2]["level_bytes"] == sum(path.stat().st_size for path in streamed.iterdir())
    assert above.steps[-1] == ("levels", 1, 1)


def test_levels_take_their_time_in_an_estimate() -> None:
    def seconds(above: int, gaussians: int) -> float:
        asked = {"stream_above": above}
        return SPEC.rough_seconds(Workload(asked, photos=10, long_side=1000, gaussians=gaussians, gpu=False))

    assert seconds(0, 2000) == seconds(2000, 2000) > 0
    assert seconds(1999, 2000) == pytest.approx(3 * seconds(0, 2000))


def test_streaming_that_nobody_asked_for_changes_no_artifact_key() -> None:
    assert "stream_above" not in Params(**PRESETS["draft"]).keyed() | Params(**PRESETS["standard"]).keyed()
    assert Params(stream_above=5).keyed()["stream_above"] == 5


def test_the_seed_changes_the_palette(make_gaussians: Any, make_job: MakeJob) -> None:
    given = opaque(make_gaussians(2000, 1))
    files = []
    for seed in (0, 0, 1):
        context = make_job(given, f"job{len(files)}", seed=seed, max_colour_error=0.02)
        stage.run(context)
        files.append((context.output / "scene.sog").read_bytes())

    assert files[0] == files[1] != files[2]


def test_an_invisible_scene_fails_with_advice(make_gaussians: Any, make_job: MakeJob) -> None:
    given = replace(make_gaussians(20, 0), opacities=np.full(20, -20, dtype=np.float32))

    with pytest.raises(StageError, match="None of the scene's 20 Gaussians") as failure:
        stage.run(make_job(given))

    assert "sharper photos" in failure.value.hint


def test_a_stop_is_heeded_between_files(make_gaussians: Any, make_job: MakeJob) -> None:
    context = make_job(opaque(make_gaussians(100, 0)))
    context.stopped = True

    with pytest.raises(Interrupted):
        stage.run(context)


@pytest.mark.parametrize("name", ["draft", "standard", "high"])
def test_presets_are_valid_parameters(name: str) -> None:
    Params(**PRESETS[name])
