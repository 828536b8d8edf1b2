"""The light of each photo: measured, learned beside the scene, and left out of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from light import chosen, errors, plant
from synthetic import FakeJob, before_noise

from e2e3d_stages.contract.messages import Interrupted
from e2e3d_stages.splats import cpu
from e2e3d_stages.splats.gaussians import read_ply
from e2e3d_stages.splats.quality import colour_corrected, psnr
from e2e3d_stages.splats.rasterizer import Renderer
from e2e3d_stages.train import stage
from e2e3d_stages.train.light import Light, developed, torch_developed
from e2e3d_stages.train.scene import load_photo, load_scene

MakeJob = Callable[..., FakeJob]
CPU = torch.device("cpu")
UNSEEN = 4


@pytest.fixture(scope="module")
def planted(sfm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[float, float]]]:
    """The small scene, all but the held-out photo an EV brighter or darker and warmer or colder; and by how much."""
    names = [view["name"] for view in json.loads((sfm / "views.json").read_text())]
    light = chosen(names[:UNSEEN] + names[UNSEEN + 1 :])
    return plant(sfm, tmp_path_factory.mktemp("planted") / "sfm", light), light


def of(sfm: Path, wanted: str) -> Light | None:
    return Light.of(load_scene(sfm, 64, 8), wanted, CPU)


@pytest.mark.slow
def test_light_is_learned_by_itself_only_where_photos_of_the_same_points_differ(sfm: Path, planted) -> None:
    assert of(sfm, "auto") is None
    assert of(planted[0], "auto") is not None
    assert of(planted[0], "off") is None
    assert of(sfm, "on") is not None


def test_exposure_and_white_balance_are_measured_before_the_first_step(sfm: Path, planted) -> None:
    before, after = of(sfm, "on"), of(planted[0], "on")
    wrong = errors(after.told(list(planted[1])), before.told(list(planted[1])), planted[1])
    assert np.abs(wrong).max() < 0.1


def test_a_photo_that_shows_nothing_of_the_others_is_taken_to_be_like_them(sfm: Path) -> None:
    scene = load_scene(sfm, 64, 0)
    scene.points.seen_by[0] = scene.points.seen_by[0][:0]
    light = Light.of(scene, "on", CPU)
    assert abs(light.told([view.name for view in scene.views])[0]["ev"]) < 0.05


def test_the_mean_of_all_photos_stays_as_it_is_after_every_step() -> None:
    random = torch.Generator().manual_seed(0)
    light = Light(torch.eye(3, 4) * torch.tensor([0.5, 1.5, 1.0])[:, None, None], torch.full((3,), 0.4), CPU)
    picture = torch.rand(8, 8, 3, generator=random)
    for step in range(50):
        light.applied(picture, step % 3).square().mean().backward()
        light.step(step / 50)
        mean = torch.stack([light.applied(picture, view) for view in range(3)]).mean(0)
        assert torch.allclose(mean, picture, atol=1e-6)


@pytest.mark.slow
def test_what_is_too_bright_for_a_photo_is_white_in_it_and_nothing_else() -> None:
    light = Light(torch.eye(3, 4)[None] * 2, torch.full((3,), 0.4), CPU)
    photo = torch.tensor([1.0, 1.0, 0.5]).expand(1, 3, 3).clone()
    scene = torch.tensor([0.8, 0.4, 0.8]).expand(1, 3, 3).clone().requires_grad_()
    developed = light.developed(scene, 0, photo)
    assert developed[0, 0].tolist() == pytest.approx([1.0, 0.8, 1.6])
    developed.sum().backward()
    assert scene.grad[0, 0].tolist() == [0, 2, 2]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_pictures_are_developed_on_the_cpu_as_torch_does_it_by_any_number_of_threads(threads: int) -> None:
    random = torch.Generator().manual_seed(3)
    image, photo, weight = (torch.rand(41, 57, 3, generator=random) for _ in range(3))
    photo[:20] = 1
    light = torch.eye(3, 4) * 1.4 + torch.randn(3, 4, generator=random) / 10
    found = []
    cpu.use_threads(threads)
    for how in (developed, torch_developed):
        leaves = [image.clone().requires_grad_(), light.clone().requires_grad_()]
        picture = how(*leaves, photo)
        (picture * weight).sum().backward()
        found.append((picture.detach(), *(leaf.grad for leaf in leaves)))
    assert (found[0][0][:20] == 1).any()
    for ours, truth in zip(*found, strict=True):
        assert torch.allclose(ours, truth, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_scene_of_photos_in_other_light_is_as_good_and_what_was_planted_is_told(
    sfm: Path, planted, tmp_path: Path
) -> None:
    view = json.loads((sfm / "views.json").read_text())[UNSEEN]
    photo = load_photo(sfm / "images" / view["name"], 64, 48) / 255

    def trained(of: Path, light: str) -> tuple[float, FakeJob]:
        job = FakeJob(of, tmp_path / f"{of.parent.name}-{light}", iterations=300, holdout=8, light=light)
        metrics = stage.run(job)
        assert (metrics["light_ev"] is not None) == (job.record["light"] is not None) == (light == "on")
        render = Renderer(read_ply(job.output / "scene.ply")).image(view, 64, 48)
        return psnr(colour_corrected(render, photo), photo), job

    usual, before = trained(sfm, "on")
    blind, _ = trained(planted[0], "off")
    seeing, after = trained(planted[0], "on")
    assert seeing > usual - 1
    assert seeing > blind + 2
    assert np.abs(errors(after.record["light"], before.record["light"], planted[1])).max() < 0.1
    assert after.record["curve"][-1]["light_ev"] > 1.5


def test_an_interrupted_training_learns_the_same_light(planted, tmp_path: Path) -> None:
    straight, broken = (FakeJob(planted[0], tmp_path / name, iterations=30) for name in ("straight", "broken"))
    stage.run(straight)
    broken.stop_at = 17
    with pytest.raises(Interrupted):
        stage.run(broken)
    broken.stop_at = None
    stage.run(broken)
    assert broken.record["light"] == straight.record["light"]
    assert (broken.output / "scene.ply").read_bytes() == (straight.output / "scene.ply").read_bytes()


def test_light_changes_the_object_that_was_cut_out_and_not_the_nothing_around_it(sfm: Path, tmp_path: Path) -> None:
    cut = before_noise(sfm, tmp_path / "cut", hides="empty")
    views = json.loads((cut / "views.json").read_text())
    dark = plant(cut, tmp_path / "dark", {view["name"]: (-2.0 * (i % 2), 0) for i, view in enumerate(views)})
    job = FakeJob(dark, tmp_path / "job", light="on")
    trainer = stage.Trainer(job, load_scene(dark, 64, 0), CPU)
    with torch.no_grad():
        trainer.model.tensors["opacities"].fill_(-20)
    for view in trainer.scene.views:
        view.counted[:] = False
    assert float(trainer._iterate()) < 1e-3
