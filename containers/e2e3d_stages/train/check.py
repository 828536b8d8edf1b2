"""Whether Gaussians can be trained here."""

from __future__ import annotations

import os

import numpy as np
import torch

from e2e3d_stages.contract.messages import StageError
from e2e3d_stages.runtime.checks import versions
from e2e3d_stages.splats import cpu
from e2e3d_stages.splats.camera import Camera
from e2e3d_stages.splats.params import RenderParams
from e2e3d_stages.splats.rasterizer import render
from e2e3d_stages.splats.rendering import Splats
from e2e3d_stages.splats.sample import cloud
from e2e3d_stages.train.loss import photometric_loss


def check() -> str:
    """A step of the training on the CPU; GPU kernels only by loading them: where an image is built is no GPU."""
    cpu.use_threads(1)
    scene = cloud()
    fields = (scene.means, scene.quats, np.exp(scene.scales), 1 / (1 + np.exp(-scene.opacities)), scene.sh)
    splats = Splats(*(torch.tensor(field, requires_grad=True) for field in fields))
    camera = Camera(torch.eye(4), focal=(60.0, 60.0), centre=(32.0, 32.0), width=64, height=64)
    result = render(splats, camera, RenderParams(sh_degree=1), torch.zeros(3))
    loss, _ = photometric_loss(result.image, torch.zeros(64, 64, 3), 0.2)
    loss.backward()  # type: ignore[no-untyped-call]
    for tensor in splats:
        if tensor.grad is None or not tensor.grad.isfinite().all() or not tensor.grad.any():
            raise RuntimeError("the rasteriser gave no gradients")
    return versions("torch", "numba") + f", {_gpu_kernels()}"


def _gpu_kernels() -> str:
    # An image for CPUs hides the GPU, whatever torch wheel it holds.
    if torch.version.cuda is None or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return "CPU only"
    try:
        from gsplat import csrc
    except ImportError as error:
        raise StageError(
            f"gsplat's GPU kernels are not compiled: {error}.",
            hint="Build the image with CUDA_ARCHITECTURES, or set CUDA_VISIBLE_DEVICES to nothing to use the CPU.",
        ) from error
    from gsplat.cuda import _backend

    if _backend._C is not csrc:
        raise StageError("gsplat does not use its compiled GPU kernels.", hint="Build the image anew: make images.")
    return f"CUDA {torch.version.cuda}, {versions('gsplat')}"
