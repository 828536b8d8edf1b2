"""The rasteriser and the loss equal plain torch, forward and backward."""

from __future__ import annotations

import platform
import resource
import threading
from collections.abc import Callable

import numpy as np
import pytest
import reference
import torch
from synthetic import random_camera, random_gaussians
from torch import Tensor

from e2e3d_stages.splats import cpu
from e2e3d_stages.splats import quality as metrics
from e2e3d_stages.splats.camera import Camera
from e2e3d_stages.splats.cpu import use_threads
from e2e3d_stages.splats.gaussians import Gaussians
from e2e3d_stages.splats.params import RenderParams
from e2e3d_stages.splats.rasterizer import Renderer, render
from e2e3d_stages.splats.rendering import Splats
from e2e3d_stages.splats.ssim_window import SSIM_EVERY, ssim_window
from e2e3d_stages.train.loss import photometric_loss, torch_loss

BACKGROUND = torch.tensor([0.1, 0.2, 0.3])
WIDTH, HEIGHT = 100, 75  # neither is a whole number of tiles


def relative(ours: Tensor, truth: Tensor) -> float:
    return float((ours - truth).norm() / truth.norm())


def reference_gradients(gaussians: list[Tensor], camera: Camera, degree: int, weight: Tensor) -> tuple[Tensor, list]:
    leaves = [t.double().requires_grad_() for t in gaussians]
    image = reference.render(Splats(*leaves), camera, RenderParams(sh_degree=degree), BACKGROUND.double())
    (image * weight.double()).sum().backward()
    return image.detach(), [t.grad for t in leaves]


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_picture_and_gradients_equal_autograds(degree: int) -> None:
    gaussians, camera = random_gaussians(300, degree, 0.06), random_camera(WIDTH, HEIGHT)
    weight = torch.randn(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(1))
    leaves = [t.clone().requires_grad_() for t in gaussians]
    result = render(Splats(*leaves), camera, RenderParams(sh_degree=degree), BACKGROUND)
    (result.image * weight).sum().backward()
    truth, gradients = reference_gradients(gaussians, camera, degree, weight)
    assert (result.image - truth).abs().max() < 1e-4
    for name, leaf, gradient in zip(("means", "quats", "scales", "opacities", "sh"), leaves, gradients, strict=True):
        assert relative(leaf.grad, gradient) < 1e-3, name


def test_opaque_layers_hide_what_is_behind_them_and_keep_exact_gradients() -> None:
    gaussians, camera = random_gaussians(400, 0, 0.5), random_camera(WIDTH, HEIGHT)
    gaussians[3] = torch.full((400,), 0.98)
    leaves = [t.clone().requires_grad_() for t in gaussians]
    result = render(Splats(*leaves), camera, RenderParams(sh_degree=0), BACKGROUND)
    result.image.sum().backward()
    truth, gradients = reference_gradients(gaussians, camera, 0, torch.ones(HEIGHT, WIDTH, 3))
    assert (result.image - truth).abs().max() < 1e-3
    assert max(relative(leaf.grad, g) for leaf, g in zip(leaves, gradients, strict=True)) < 1e-3


def test_what_is_behind_the_camera_or_transparent_is_not_drawn() -> None:
    means, quats, scales, opacities, sh = random_gaussians(20, 0, 0.1)
    means[:10, 2], opacities[10:] = -3, 0.001
    leaves = [t.requires_grad_() for t in (means, quats, scales, opacities, sh)]
    result = render(Splats(*leaves), random_camera(32, 32), RenderParams(sh_degree=0), BACKGROUND)
    result.image.sum().backward()
    assert torch.equal(result.image, BACKGROUND.expand(32, 32, 3))
    assert not result.visible.any()
    assert not result.alpha.any()
    assert not result.screen_gradient().any()


def test_a_gaussian_that_the_loss_pulls_has_a_screen_gradient() -> None:
    leaves = [t.requires_grad_() for t in random_gaussians(50, 0, 0.1)]
    result = render(Splats(*leaves), random_camera(64, 48), RenderParams(sh_degree=0), BACKGROUND)
    result.image.square().sum().backward()
    assert (result.screen_gradient()[result.visible] > 0).any()
    assert not result.screen_gradient()[~result.visible].any()


def test_the_same_picture_comes_out_every_time() -> None:
    gaussians, camera = random_gaussians(200, 0, 0.1), random_camera(64, 48)
    first, second = (render(Splats(*gaussians), camera, RenderParams(sh_degree=0), BACKGROUND).image for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep what is freed")
def test_a_step_lives_on_the_memory_that_the_step_before_it_freed() -> None:
    gaussians, camera = random_gaussians(2_000, 0, 0.06), random_camera(800, 600)
    photo = torch.zeros(600, 800, 3)

    def step() -> None:
        leaves = [tensor.clone().requires_grad_() for tensor in gaussians]
        image = render(Splats(*leaves), camera, RenderParams(sh_degree=0), BACKGROUND).image
        photometric_loss(image, photo, 0.2)[0].backward()

    def new_pages() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    for _ in range(5):
        step()
    before = new_pages()
    for _ in range(5):
        step()
    assert new_pages() - before < 300  # one of the pictures alone is 1,400


@pytest.mark.parametrize("ours", [photometric_loss, torch_loss], ids=["kernels of the CPU", "torch as on a GPU"])
@pytest.mark.parametrize("phase", [0, 1])
@pytest.mark.parametrize(
    "width", [2, 3, 53, 700], ids=["2 px", "narrower than the window", "a strip", "several strips"]
)
def test_loss_and_its_gradient_equal_autograds(ours: Callable[..., Tensor], width: int, phase: int) -> None:
    rng = torch.Generator().manual_seed(0)
    photo = torch.rand(37, width, 3, generator=rng)
    image = (photo + 0.2 * torch.randn(37, width, 3, generator=rng)).requires_grad_()
    exact = image.detach().double().requires_grad_()
    loss, square = ours(image, photo, 0.3, phase=phase)
    ssim = reference.structural_similarity(exact, photo.double(), slice(phase, None, SSIM_EVERY))
    truth = 0.7 * (exact - photo).abs().mean() + 0.3 * (1 - ssim)
    loss.backward()
    truth.backward()
    assert loss.item() == pytest.approx(truth.item(), rel=1e-5)
    assert square.item() == pytest.approx((exact - photo).square().mean().item(), rel=1e-5)
    assert not square.requires_grad
    assert relative(image.grad, exact.grad) < 1e-4


def test_a_picture_of_one_row_has_a_loss_in_every_step() -> None:
    image = torch.rand(1, 20, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    values = [photometric_loss(image, torch.zeros(1, 20, 3), 0.2, phase=phase)[0].item() for phase in range(SSIM_EVERY)]
    assert values[0] == values[1] > 0


@pytest.mark.parametrize("height", [36, 37])
def test_ssim_of_every_second_row_pulls_like_that_of_all_rows(height: int) -> None:
    rng = torch.Generator().manual_seed(0)
    photo = torch.rand(height, 53, 3, generator=rng, dtype=torch.float64)
    image = photo + 0.2 * torch.randn(height, 53, 3, generator=rng, dtype=torch.float64)
    even, odd, every = (image.clone().requires_grad_() for _ in range(3))
    reference.structural_similarity(even, photo, slice(0, None, SSIM_EVERY)).backward()
    reference.structural_similarity(odd, photo, slice(1, None, SSIM_EVERY)).backward()
    reference.structural_similarity(every, photo).backward()
    for some in (even, odd):
        assert relative(some.grad, every.grad) < 0.05  # of noise, which has more between two rows than photos do


def test_ssim_is_the_standard_one() -> None:
    rng = np.random.default_rng(0)
    photo = rng.random((40, 60, 3))
    noisy = np.clip(photo + 0.1 * rng.standard_normal(photo.shape), 0, 1)
    assert metrics.ssim(photo, photo) == pytest.approx(1)
    # Inside the picture padding plays no part, so cropping after torch's padded windows gives the same.
    window = torch.as_tensor(ssim_window()).double()
    kernel = (window[:, None] * window[None]).expand(3, 1, 11, 11)

    def blur(picture: np.ndarray) -> torch.Tensor:
        return torch.nn.functional.conv2d(torch.as_tensor(picture).permute(2, 0, 1)[None], kernel, groups=3)

    mean_x, mean_y = blur(photo), blur(noisy)
    var_x, var_y = blur(photo**2) - mean_x**2, blur(noisy**2) - mean_y**2
    covariance = blur(photo * noisy) - mean_x * mean_y
    expected = (2 * mean_x * mean_y + 1e-4) * (2 * covariance + 9e-4)
    expected /= (mean_x**2 + mean_y**2 + 1e-4) * (var_x + var_y + 9e-4)
    assert metrics.ssim(photo, noisy) == pytest.approx(float(expected.mean()), abs=1e-5)


def test_psnr_of_a_known_error() -> None:
    photo = np.zeros((12, 12, 3))
    assert metrics.psnr(photo + 0.1, photo) == pytest.approx(20)


def test_pictures_of_different_size_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="cannot compare"):
        metrics.ssim(np.zeros((20, 20, 3)), np.zeros((20, 21, 3)))


def scene_of(tensors: list[Tensor]) -> Gaussians:
    means, quats, scales, opacities, sh = (t.numpy() for t in tensors)
    return Gaussians(means, np.log(scales), quats, np.log(opacities / (1 - opacities)), sh)


def test_a_trained_scene_is_drawn_at_any_size() -> None:
    tensors = random_gaussians(100, 1, 0.1)
    view = {
        "width": 80, "height": 60, "fx": 64.0, "fy": 64.0, "cx": 40.0, "cy": 30.0,
        "world_to_camera": torch.eye(4).tolist(),
    }  # fmt: skip
    picture = Renderer(scene_of(tensors)).image(view, 40, 30)
    truth = reference.render(
        Splats(*tensors), Camera.from_view(view, 40, 30), RenderParams(sh_degree=1), torch.zeros(3)
    ).clamp(0, 1)
    assert picture.shape == (30, 40, 3)
    assert np.abs(picture - truth.numpy()).max() < 1e-3


@pytest.mark.parametrize("threads", [2, 4])
def test_picture_and_gradients_do_not_depend_on_the_number_of_threads(threads: int) -> None:
    weight = torch.randn(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(1))

    def drawn_by(count: int) -> list[Tensor]:
        use_threads(count)
        leaves = [t.requires_grad_() for t in random_gaussians(500, 1, 0.2)]
        result = render(Splats(*leaves), random_camera(WIDTH, HEIGHT), RenderParams(sh_degree=1), BACKGROUND)
        loss, square = photometric_loss(result.image, weight, 0.2)
        loss.backward()
        use_threads(1)
        return [loss.detach(), square, result.image.detach(), result.screen_gradient(), *(leaf.grad for leaf in leaves)]

    for one, several in zip(drawn_by(1), drawn_by(threads), strict=True):
        assert torch.equal(one, several)


def test_a_thread_that_does_not_wake_is_not_waited_for_and_results_are_in_order() -> None:
    asleep = threading.Event()
    cpu.use_threads(2)
    try:
        cpu._cores._others.submit(asleep.wait)
        assert cpu._cores.run(lambda part, parts, least: (least + part, parts), 10) == [(10 + i, 8) for i in range(8)]
    finally:
        asleep.set()
        cpu.use_threads(1)


def test_what_fails_in_another_thread_fails() -> None:
    here, elsewhere = threading.current_thread(), threading.Event()

    def kernel(part: int, parts: int) -> None:
        if threading.current_thread() is not here:
            elsewhere.set()
            raise ZeroDivisionError
        assert elsewhere.wait(10)

    cpu.use_threads(2)
    try:
        with pytest.raises(ZeroDivisionError):
            cpu._cores.run(kernel)
    finally:
        cpu.use_threads(1)
