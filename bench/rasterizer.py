"""The CPU rasteriser beside plain torch: forward and backward time, and how far the gradients differ.

Run with `python bench/rasterizer.py`; prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "stages" / "train"))

import reference
from synthetic import random_camera, random_gaussians

from e2e3d_stages.splats import cpu
from e2e3d_stages.splats.params import RenderParams
from e2e3d_stages.splats.rasterizer import render
from e2e3d_stages.splats.rendering import Splats

GAUSSIANS, WIDTH, HEIGHT, SH_DEGREE = 12_000, 400, 300, 1
SIZE = 0.04  # makes 56,000 pairs of a tile and a Gaussian, as a trained scene of this number had
REPEATS = 20


def main() -> None:
    """Measure both in the same run."""
    gaussians, camera = random_gaussians(GAUSSIANS, SH_DEGREE, SIZE), random_camera(WIDTH, HEIGHT)
    params, background = RenderParams(sh_degree=SH_DEGREE), torch.zeros(3)
    weight = torch.randn(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0))

    def ours(leaves: list[Tensor]) -> Tensor:
        return render(Splats(*leaves), camera, params, background).image

    def plain(leaves: list[Tensor]) -> Tensor:
        picture: Tensor = reference.render(Splats(*leaves), camera, params, background)
        return picture

    threads = len(os.sched_getaffinity(0))
    # Torch's own threads make work on such small tiles slower (2 s with one, up to 20 s with two): its best counts.
    torch.set_num_threads(1)
    reference_seconds, truth = min((measure(plain, gaussians, weight) for _ in range(3)), key=lambda run: run[0])
    cpu.use_threads(threads)
    measure(ours, gaussians, weight)  # compiles
    runs = [measure(ours, gaussians, weight) for _ in range(REPEATS)]
    seconds = min(run[0] for run in runs)
    difference = max(float((a - b).norm() / b.norm()) for a, b in zip(runs[0][1], truth, strict=True))
    result = {
        "gaussians": GAUSSIANS,
        "width": WIDTH,
        "height": HEIGHT,
        "threads": threads,
        "forward_backward_ms": round(1e3 * seconds, 2),
        "median_ms": round(1e3 * sorted(run[0] for run in runs)[REPEATS // 2], 2),
        "plain_torch_ms": round(1e3 * reference_seconds, 1),
        "times_faster": round(reference_seconds / seconds, 1),
        "largest_relative_gradient_difference": difference,
    }
    print(json.dumps({"rasterizer": result}))


def measure(
    draw: Callable[[list[Tensor]], Tensor], gaussians: list[Tensor], weight: Tensor
) -> tuple[float, list[Tensor]]:
    """Wall seconds of one forward and backward pass, and the gradients."""
    leaves = [t.clone().requires_grad_() for t in gaussians]
    started = time.perf_counter()
    (draw(leaves) * weight).sum().backward()
    return time.perf_counter() - started, [leaf.grad for leaf in leaves if leaf.grad is not None]


if __name__ == "__main__":
    main()
