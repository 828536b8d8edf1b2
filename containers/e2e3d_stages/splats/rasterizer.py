"""The one rasteriser: Gaussians in, picture out, differentiable; gsplat on CUDA, our own kernel on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from e2e3d_stages.splats.camera import Camera
from e2e3d_stages.splats.gaussians import Gaussians
from e2e3d_stages.splats.params import RenderParams
from e2e3d_stages.splats.rendering import Render, Splats


def render(splats: Splats, camera: Camera, params: RenderParams, background: Tensor) -> Render:
    """Draw Gaussians; their device decides how.

    :param params: of `splats.sh` (N, K, 3) the bands up to `sh_degree` are used, (sh_degree + 1)² <= K.
    :param background: (3,) colour behind everything, on the Gaussians' device.
    """
    if splats.means.is_cuda:
        from e2e3d_stages.splats import cuda as backend
    else:
        from e2e3d_stages.splats import cpu as backend  # type: ignore[no-redef]
    return backend.render(splats, camera, params, background)


def best_device() -> torch.device:
    """CUDA where there is a GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_threads(threads: int) -> None:
    """Give the kernels of the CPU path that many cores; a GPU needs no such thing."""
    if best_device().type == "cpu":
        from e2e3d_stages.splats import cpu

        cpu.use_threads(threads)


class Renderer:
    """Draws a trained scene from any view, on the best device."""

    def __init__(self, gaussians: Gaussians) -> None:
        device = best_device()
        means, quats, scales, opacities, sh = (
            torch.as_tensor(array, device=device)
            for array in (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh)
        )
        self._splats = Splats(means, quats, scales.exp(), opacities.sigmoid(), sh)
        self._params = RenderParams(sh_degree=gaussians.sh_degree)
        self._background = torch.zeros(3, device=device)

    @torch.no_grad()
    def image(self, view: dict[str, Any], width: int, height: int) -> np.ndarray:
        """What an entry of `views.json` sees: (height, width, 3) float32 in 0 to 1."""
        result = render(self._splats, Camera.from_view(view, width, height), self._params, self._background)
        return result.image.clamp(0, 1).cpu().numpy()
