"""The rasteriser and the image loss on the CPU: torch's autograd around the compiled kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e2e3d_stages.splats import kernels, light_kernels, ssim_kernels
from e2e3d_stages.splats.lanes import LANES
from e2e3d_stages.splats.rendering import Render, Splats
from e2e3d_stages.splats.ssim_window import SSIM_EVERY, SSIM_TAPS

if TYPE_CHECKING:
    from e2e3d_stages.splats.camera import Camera
    from e2e3d_stages.splats.params import RenderParams

Picture = NDArray[np.float32]

_PARTS_EACH = 4  # of a thread
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def _keep_freed_memory() -> None:
    """Let glibc keep what is freed, for each step frees what the next one needs: pages from the kernel take longer."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


class _Cores:
    """The threads that share the work; torch's own would only compete with them."""

    def __init__(self) -> None:
        _keep_freed_memory()
        self.use(1)

    def use(self, count: int) -> None:
        self.count = count
        self.parts = count * _PARTS_EACH if count > 1 else 1
        self._others = ThreadPoolExecutor(max(1, count - 1), thread_name_prefix="rasterizer")
        torch.set_num_threads(1)

    def run(self, kernel: Callable[..., Any], *arguments: Any, parts: int | None = None) -> list[Any]:
        """What `kernel(part, parts, *arguments)` returns for each part; whichever thread is free takes the next.

        Parts are seldom the same work, threads seldom equally fast, and one that sleeps takes a while to wake.
        """
        parts = self.parts if parts is None else parts
        results: list[Any] = [None] * parts
        numbers = iter(range(parts))

        def work() -> None:
            for part in numbers:
                results[part] = kernel(part, parts, *arguments)

        others = [self._others.submit(work) for _ in range(1, self.count)]
        work()
        for other in others:
            if not other.cancel():
                other.result()
        return results


_cores = _Cores()
use_threads = _cores.use


def render(splats: Splats, camera: Camera, params: RenderParams, background: Tensor) -> Render:
    """See `rasterizer.render`."""
    screen_gradient = torch.zeros(len(splats.means))
    # Autograd sees only tensors that are arguments of their own.
    image, alpha, depth = _Rasterize.apply(  # type: ignore[no-untyped-call]
        screen_gradient, camera, params, background, *splats
    )
    return Render(image=image, alpha=alpha, visible=depth > 0, screen_gradient=lambda: screen_gradient)


def median_depth(splats: Splats, camera: Camera, params: RenderParams) -> Tensor:
    """See `rasterizer.Renderer.depth`."""
    gaussians = tuple(each.detach().contiguous().numpy() for each in splats)
    lens = kernels.lens(camera, params)
    screen, depth = np.empty((len(gaussians[0]), kernels.SCREEN), np.float32), np.empty(len(gaussians[0]), np.float32)
    _cores.run(kernels.project, *gaussians, *lens, screen, depth)
    start, drawing, _ = _binned(screen, depth, camera)
    slope = np.empty((len(depth), 2), np.float32)
    means, quats, scales, *_ = gaussians
    _, pose, _, intrinsics, width, height = lens
    _cores.run(kernels.slopes, means, quats, scales, pose, intrinsics, width, height, screen, depth, slope)
    median = np.empty((camera.height, camera.width), np.float32)
    _cores.run(kernels.draw_depth, screen, depth, slope, start, drawing, median)
    return torch.from_numpy(median)


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, screen_gradient: Tensor, camera: Camera, params: RenderParams, background: Tensor, *splats: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        gaussians = tuple(each.detach().contiguous().numpy() for each in splats)
        count = len(gaussians[0])
        lens = kernels.lens(camera, params)
        screen = np.empty((count, kernels.SCREEN), np.float32)
        depth = np.empty(count, np.float32)
        _cores.run(kernels.project, *gaussians, *lens, screen, depth)
        start, drawing, begin = _binned(screen, depth, camera)
        image = np.empty((camera.height, camera.width, 3), np.float32)
        transmittance = np.empty((camera.height, camera.width), np.float32)
        drawn = np.empty(len(start) - 1, np.int64)
        _cores.run(kernels.draw, screen, start, drawing, background.numpy(), image, transmittance, drawn)
        binned = (start, drawing, drawn)
        ctx.state = (gaussians, lens, screen, depth, binned, begin, image, screen_gradient)
        alpha, depths = torch.from_numpy(1 - transmittance), torch.from_numpy(depth)
        ctx.mark_non_differentiable(alpha, depths)
        return torch.from_numpy(image), alpha, depths

    @staticmethod
    def backward(ctx: Any, d_image: Tensor, *_: Tensor) -> tuple[Any, ...]:
        gaussians, lens, screen, depth, binned, begin, image, screen_gradient = ctx.state
        moments = np.empty((begin[-1], kernels.MOMENTS), np.float32)
        d_image = d_image.contiguous()
        _cores.run(kernels.draw_backward, screen, *binned, image, d_image.numpy(), moments)
        gradients = tuple(np.zeros_like(array) for array in gaussians)
        filled = (*gradients, screen_gradient.numpy())
        _cores.run(kernels.project_backward, *gaussians, *lens, screen, depth, begin, moments, *filled)
        return (None, None, None, None, *(torch.from_numpy(gradient) for gradient in gradients))


def _binned(screen: Any, depth: Any, camera: Camera) -> tuple[Any, ...]:
    """The pairs of a tile and a Gaussian: each tile's from near to far, whatever the number of threads.

    :return: where each tile's begin (tiles + 1,), the pairs as `kernels.sort_pairs` leaves them, and where each
        Gaussian's begin when they follow one another Gaussian by Gaussian (N + 1,).
    """
    number = np.empty(len(depth), np.int64)
    pairs = np.concatenate(_cores.run(kernels.find_pairs, screen, depth, camera.width, camera.height, number))
    begin = np.concatenate([[0], number.cumsum()])
    order = kernels.depth_order(depth)
    tiles = -(-camera.width // LANES) * -(-camera.height // kernels.ROWS)
    count = np.empty((_cores.parts, tiles), np.int64)
    _cores.run(kernels.count_pairs, order, begin, pairs, count)
    start = np.concatenate([[0], count.sum(0).cumsum()])
    place = start[:-1] + count.cumsum(0) - count
    drawing = np.empty((len(pairs), 4), np.int32)
    _cores.run(kernels.sort_pairs, order, begin, pairs, place, drawing)
    return start, drawing, begin


def developed(image: Tensor, light: Tensor, photo: Tensor, white: float) -> Tensor:
    """See `light.developed`."""
    lit: Tensor = _Develop.apply(image, light, photo, white)  # type: ignore[no-untyped-call]
    return lit


class _Develop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, light: Tensor, photo: Tensor, white: float) -> Tensor:
        given = tuple(each.detach().contiguous().numpy() for each in (image, light, photo))
        ctx.state = (*given, np.float32(white))
        out = np.empty_like(given[0])
        _cores.run(light_kernels.develop, *ctx.state, out)
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_image = np.empty_like(ctx.state[0])
        d_light = np.empty((len(d_image), 3, 4), np.float32)
        _cores.run(light_kernels.develop_backward, *ctx.state, d_out.contiguous().numpy(), d_image, d_light)
        return torch.from_numpy(d_image), torch.from_numpy(d_light.sum(0, dtype=np.float64)).float(), None, None


def photometric_loss(image: Tensor, photo: Tensor, ssim_weight: float, phase: int) -> tuple[Tensor, Tensor]:
    """See `loss.photometric_loss`."""
    found: tuple[Tensor, Tensor] = _PhotometricLoss.apply(  # type: ignore[no-untyped-call]
        image, photo, ssim_weight, phase
    )
    return found


class _PhotometricLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, photo: Tensor, ssim_weight: float, phase: int) -> tuple[Tensor, Tensor]:
        ours, theirs = (t.detach().contiguous().numpy().reshape(len(image), -1) for t in (image, photo))
        l1, dssim = np.float32((1 - ssim_weight) / ours.size), np.float32(ssim_weight / ours[phase::SSIM_EVERY].size)
        gradient = np.empty_like(ours)
        difference, square, similarity = np.empty((3, len(ours)))
        filled = (difference, square, similarity, gradient)
        # Windows reach over the ends of a part: the fewer parts, the less is done twice.
        _cores.run(ssim_kernels.loss, ours, theirs, l1, dssim, phase, *filled, parts=_cores.count)
        ctx.gradient = torch.from_numpy(gradient.reshape(image.shape))
        ssim = similarity[phase::SSIM_EVERY].mean()
        loss = (1 - ssim_weight) * difference.mean() + ssim_weight * (ours.shape[1] - ssim)
        found = torch.tensor([loss, square.mean()], dtype=torch.float64) / ours.shape[1]
        value, mean_square = found.float().unbind()
        ctx.mark_non_differentiable(mean_square)
        return value, mean_square

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.gradient.mul_(d_loss), None, None, None


def ssim_factors(image: Picture, photo: Picture) -> tuple[Picture, Picture]:
    """SSIM's luminance, and its contrast with structure, of each window inside two (H, W, 3) pictures."""
    height, width, channels = image.shape
    ours, theirs = (np.ascontiguousarray(each).reshape(height, -1) for each in (image, photo))
    inside = (height - SSIM_TAPS + 1, width - SSIM_TAPS + 1, channels)
    luminance, contrast = np.empty((inside[0], inside[1] * channels), np.float32), np.empty(inside, np.float32)
    _cores.run(ssim_kernels.factors, ours, theirs, luminance, contrast.reshape(luminance.shape))
    return luminance.reshape(inside), contrast
