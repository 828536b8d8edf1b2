"""Of a scene stays what the photos were taken of; what lies around it, and what floats, goes."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from e2e3d_stages.crop import stage
from e2e3d_stages.crop.finding import environment_of, subject_of
from e2e3d_stages.crop.params import Params
from e2e3d_stages.registry import STAGES
from e2e3d_stages.splats.cropping import published_box, published_scene
from e2e3d_stages.splats.gaussians import Gaussians, read_ply, write_ply

EYES = [np.array([4 * np.cos(turn), -1.5, 4 * np.sin(turn)]) for turn in np.linspace(0, 2 * np.pi, 12, endpoint=False)]


def view(eye: np.ndarray, forward: np.ndarray, number: int) -> dict[str, Any]:
    """An upright camera there; up is -y."""
    forward = forward / np.linalg.norm(forward)
    right = np.cross([0.0, 1, 0] if abs(forward[1]) < 0.9 else [0.0, 0, -1], forward)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    pose[:3, 3] = -pose[:3, :3] @ eye
    size = {"width": 400, "height": 300, "fx": 350.0, "fy": 350.0, "cx": 200.0, "cy": 150.0}
    return {"name": f"{number}.jpg", "order": number, **size, "world_to_camera": pose.tolist()}


AROUND = [view(eye, -eye, number) for number, eye in enumerate(EYES)]


def vase() -> np.ndarray:
    """A cylinder of radius 0.5 about the origin, from y = 0.5 up to y = -1."""
    random = np.random.default_rng(0)
    turn, height = random.uniform(0, 2 * np.pi, 1500), random.uniform(-1, 0.5, 1500)
    return np.stack([0.5 * np.cos(turn), height, 0.5 * np.sin(turn)], 1)


def walls() -> np.ndarray:
    """A ring of points 12 units off, behind the cameras that look across."""
    random = np.random.default_rng(1)
    turn = random.uniform(0, 2 * np.pi, 1500)
    return np.stack([12 * np.cos(turn), random.uniform(-4, 0.5, 1500), 12 * np.sin(turn)], 1)


# Five of them together, in the hollow of the vase, where nothing holds them.
FLOATER = np.array([0.0, -0.3, 0]) + np.random.default_rng(2).normal(0, 0.004, (5, 3))
SKY = np.array([[0.0, -300, 0], [200, -200, 100]])


def splats(means: np.ndarray, sigma: float) -> Gaussians:
    count = len(means)
    return Gaussians(
        means=means.astype(np.float32),
        scales=np.full((count, 3), np.log(sigma), np.float32),
        quats=np.tile(np.array([1, 0, 0, 0], np.float32), (count, 1)),
        opacities=np.full(count, 4, np.float32),
        sh=np.zeros((count, 1, 3), np.float32),
    )


def scene() -> Gaussians:
    """Vase, walls, floater and sky, in this order."""
    parts = [splats(vase(), 0.03), splats(walls(), 0.3), splats(FLOATER, 0.004), splats(SKY, 20)]
    return Gaussians(*(np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])))


def cropped(tmp_path: Path, keep: str) -> SimpleNamespace:
    """The stage's metrics, and its artifacts as those that read them see them."""
    folders = {name: tmp_path / name for name in ("sfm", "train", "crop")}
    for folder in folders.values():
        folder.mkdir()
    (folders["sfm"] / "views.json").write_text(json.dumps(AROUND))
    np.savez(folders["sfm"] / "points.npz", xyz=np.concatenate([vase()[::3], walls()[::3]]).astype(np.float32))
    write_ply(folders["train"] / "scene.ply", scene())
    inputs: Any = {name: SimpleNamespace(folder=folder) for name, folder in folders.items()}
    context: Any = SimpleNamespace(
        params=Params.model_validate({"keep": keep}),
        inputs={name: inputs[name] for name in ("sfm", "train")},
        output=folders["crop"],
        check_stop=lambda: None,
        progress=lambda *_args, **_more: None,
    )
    return SimpleNamespace(metrics=stage.run(context), inputs=inputs, folder=folders["crop"])


def test_of_a_walk_around_a_thing_the_thing_stays_whole_and_nothing_else(tmp_path: Path) -> None:
    made = cropped(tmp_path, "subject")
    kept = read_ply(published_scene(made.inputs))
    assert np.array_equal(kept.means, vase().astype(np.float32))
    assert made.metrics["gaussians_in"] == len(scene())
    assert made.metrics["gaussians"] == 1500
    assert made.metrics["removed_floating"] == len(FLOATER)
    assert made.metrics["removed_outside"] == 1500 + len(SKY)
    assert made.metrics["removed_share"] == pytest.approx(1 - 1500 / len(scene()), abs=1e-4)
    assert made.metrics["sides"] == pytest.approx([1.15, 1.65, 1.15], abs=0.1)
    # Later stages know which those are of what was trained, and where there is something.
    assert np.flatnonzero(np.load(made.folder / "kept.npy")).tolist() == list(range(1500))
    assert published_box(made.inputs).holds(np.array([[0, 0, 0], [3, 0, 0]])).tolist() == [True, False]


def test_the_environment_has_its_walls_but_no_sky_and_nothing_that_floats(tmp_path: Path) -> None:
    made = cropped(tmp_path, "environment")
    means = read_ply(published_scene(made.inputs)).means
    assert np.abs(means).max() < 20
    assert len(means) > 2950
    assert made.metrics["removed_outside"] == len(SKY)
    assert made.metrics["removed_floating"] >= len(FLOATER)


def test_whoever_took_the_photos_stood_in_the_environment() -> None:
    assert environment_of(AROUND, 0.1 * vase()).holds(np.array(EYES)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("compress", {"spz": False}),
        ("evaluate", {}),
        ("mesh", {"voxels": 64}),
        ("render", {"film": True}),
        ("export", {"points": True}),
    ],
)
def test_whatever_shows_the_scene_shows_what_stayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, asked: dict[str, Any]
) -> None:
    made = cropped(tmp_path, "subject")
    (made.inputs["train"].folder / "training.json").write_text('{"holdout": [], "training": []}')
    program = import_module(f"e2e3d_stages.{name}.stage")
    read: list[Path] = []

    def noted(path: Path) -> Gaussians:
        read.append(path)
        raise InterruptedError

    monkeypatch.setattr(program, "read_ply", noted)
    nothing = lambda *_args, **_more: None  # noqa: E731
    context: Any = SimpleNamespace(
        params=STAGES[name].resolve("draft", asked),
        inputs=made.inputs,
        threads=1,
        output=tmp_path,
        **dict.fromkeys(("check_stop", "progress", "warn"), nothing),
    )
    with pytest.raises(InterruptedError):
        program.run(context)
    assert read == [made.folder / "cropped.ply"]


def test_the_top_of_a_thing_that_no_photo_has_whole_stays() -> None:
    tower = np.stack([np.zeros(400), np.linspace(0, -6, 400), np.zeros(400)], 1)
    box = subject_of([view(eye / 2, -eye, number) for number, eye in enumerate(EYES)], tower)
    assert box.low[1] < -5.9


def test_over_a_field_it_is_what_was_flown_over_most() -> None:
    east, north = (each.ravel() for each in np.meshgrid(np.linspace(-50, 50, 60), np.linspace(-50, 50, 60)))
    ground = np.stack([east, np.zeros(3600), north], 1)
    flown = [view(np.array([x, -20.0, z]), np.array([0.0, 1, 0]), 0) for x in range(-20, 21, 5) for z in (-8, 0, 8)]
    box = subject_of(flown, ground)
    assert -30 < box.low[0] < -8
    assert 8 < box.high[0] < 30


def test_without_a_crop_people_get_what_was_trained() -> None:
    inputs: Any = {"train": SimpleNamespace(folder=Path("train"))}
    assert published_scene(inputs) == Path("train/scene.ply")
    assert published_box(inputs).holds(np.array([[1e9, -1e9, 0]])).all()
    assert not Params().wanted
    assert Params(keep="subject").wanted
