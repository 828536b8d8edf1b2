"""Trains the prepared sample once, on the GPU or, to try this, on the CPU; prints one line of JSON.

    python bench/gpu_training.py WHAT SFM_ARTIFACT RESULT.json [--limit SECONDS] [--set NAME=VALUE]

`ours` is the `train` stage itself at preset `standard`, `third` the same with a third of the steps; `default` and
`mcmc` are gsplat's strategies in gsplat's loop; `steps` times both loops at one number of Gaussians, and the parts of
ours. Figures are of the held-out views.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from e2e3d_stages.contract.messages import Interrupted, Request
from e2e3d_stages.evaluate.pictures import read_photo, resized
from e2e3d_stages.evaluate.stage import scores_of
from e2e3d_stages.registry import STAGES
from e2e3d_stages.runtime.context import StageContext, thread_count
from e2e3d_stages.splats import rasterizer
from e2e3d_stages.splats.camera import Camera, fitted_size
from e2e3d_stages.splats.gaussians import read_ply
from e2e3d_stages.splats.masks import read_mask
from e2e3d_stages.splats.rasterizer import Renderer, best_device, use_threads
from e2e3d_stages.splats.rendering import Render
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.train import stage
from e2e3d_stages.train.loss import photometric_loss
from e2e3d_stages.train.params import Params
from e2e3d_stages.train.scene import load_scene

STEPS_TIMED = 300
PARTS_TIMED = 50
DOUBLINGS = 6  # of the number of Gaussians, each with some steps of training to settle


def main() -> None:
    """Do what the command line says and leave the figures in the result's file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["ours", "third", "default", "mcmc", "steps"])
    parser.add_argument("sfm", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--limit", type=float, default=600, help="seconds")
    parser.add_argument("--set", action="append", default=[], help="a parameter of the train stage, name=value")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    changes = {name: json.loads(value) for name, _, value in (change.partition("=") for change in options.set)}
    params = STAGES["train"].resolve("standard", changes)
    assert isinstance(params, Params)
    use_threads(thread_count())
    if options.what == "third":
        params = params.model_copy(update={"iterations": params.iterations // 3})
    if options.what in ("ours", "third"):
        figures = train_ours(options.sfm, params, options.limit, keep=options.result.with_suffix(".ply"))
    elif options.what == "steps":
        figures = time_steps(options.sfm, params)
    else:
        figures = train_gsplats(options.sfm, params, options.what, options.limit)
    options.result.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures), flush=True)


def train_ours(sfm: Path, params: Params, limit: float, keep: Path) -> dict[str, Any]:
    """The `train` stage, told to stop at the limit."""
    with tempfile.TemporaryDirectory() as name:
        context = _context(sfm, params, Path(name))
        ending = threading.Timer(limit, context.stop)
        ending.start()
        started = time.perf_counter()
        try:
            metrics = stage.run(context)
        except Interrupted:
            return {"stopped": f"not finished in {limit:.0f} s"}
        finally:
            ending.cancel()
            context.close()
        seconds = time.perf_counter() - started
        (context.output / "scene.ply").replace(keep)
        (context.output / "preview.jpg").replace(keep.with_suffix(".jpg"))
        (context.output / "training.json").replace(keep.with_suffix(".training.json"))
    render = Renderer(read_ply(keep))
    return {
        "seconds": round(seconds, 1),
        "loop_seconds": round(metrics["iterations"] / metrics["steps_per_second"], 1),
        **{name: metrics[name] for name in ("iterations", "steps_per_second", "gaussians", "psnr_training")},
        "peak_gpu_memory_bytes": metrics["peak_gpu_memory_bytes"],
        **measure(sfm, params, render.image),
    }


def train_gsplats(sfm: Path, params: Params, strategy: str, limit: float) -> dict[str, Any]:
    """gsplat's loop on the same views, as many steps and no more Gaussians."""
    import gsplat_loop

    started, device = time.perf_counter(), best_device()
    scene = load_scene(sfm, params.long_side, params.holdout)
    training = gsplat_loop.Training(scene, strategy, params.iterations, params.max_gaussians, device)
    loop_seconds = training.run(limit)
    seconds = time.perf_counter() - started

    def image(view: dict[str, Any], width: int, height: int) -> np.ndarray:
        picture: np.ndarray = training.image(Camera.from_view(view, width, height)).cpu().numpy()
        return picture

    return {
        "seconds": round(seconds, 1),
        "loop_seconds": round(loop_seconds, 1),
        "iterations": training.step,
        "steps_per_second": round(training.step / loop_seconds, 2),
        "gaussians": len(training.splats["means"]),
        "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
        **measure(sfm, params, image),
    }


def measure(sfm: Path, params: Params, image: Callable[[dict[str, Any], int, int], np.ndarray]) -> dict[str, Any]:
    """PSNR and SSIM, also colour-corrected, of the held-out views at the training size, as `evaluate` has them."""
    heldout = set(load_scene(sfm, 64, params.holdout).heldout)
    scores = []
    for view in json.loads((sfm / "views.json").read_text()):
        if view["name"] in heldout:
            photo = read_photo(sfm / "images" / view["name"])
            size = fitted_size(*photo.size, params.long_side)
            render, truth = image(view, *size), resized(photo, *size)
            scores.append(scores_of(render, truth, read_mask(sfm, view, *size)))
    names = scores[0] if scores else ()
    return {
        "heldout": len(scores),
        **{name: round(float(np.mean([each[name] for each in scores])), 4) for name in names},
    }


def time_steps(sfm: Path, params: Params) -> dict[str, Any]:
    """Steps a second of both loops at the same Gaussians, and milliseconds of each part of ours, waiting after each."""
    import gsplat_loop

    device = best_device()
    with tempfile.TemporaryDirectory() as name:
        context = _context(sfm, params, Path(name))
        trainer = stage.Trainer(context, load_scene(sfm, params.long_side, params.holdout), device)
        for _ in range(DOUBLINGS):
            for _ in range(20):
                trainer._iterate()
            trainer.model.refine(min(2 * len(trainer.model), params.max_gaussians))
        trainer.step = params.iterations // 2
        ours = _rate(trainer._iterate, device)
        figures: dict[str, Any] = {"gaussians": len(trainer.model), "ours": ours, "ms": _parts(trainer, device)}
        for strategy in ("default", "mcmc"):
            theirs = gsplat_loop.Training(trainer.scene, strategy, params.iterations, params.max_gaussians, device)
            theirs.use(gsplat_loop.converted(trainer.model.tensors, theirs.world))
            theirs.step = params.iterations // 4 + 1  # all harmonics, and the strategy at work
            figures[f"gsplat_{strategy}"] = _rate(theirs.iterate, device)
        context.close()
    return figures


def _rate(step: Callable[[], Any], device: torch.device) -> float:
    """Steps a second, after some to warm up."""
    from gsplat_loop import synchronize

    for _ in range(20):
        step()
    synchronize(device)
    started = time.perf_counter()
    for _ in range(STEPS_TIMED):
        step()
    synchronize(device)
    return round(STEPS_TIMED / (time.perf_counter() - started), 2)


def _parts(trainer: stage.Trainer, device: torch.device) -> dict[str, float]:
    """Milliseconds of each part of a step at the training size, mean of many, each waited for."""
    from gsplat_loop import synchronize

    seconds: dict[str, float] = dict.fromkeys(("photo", "render", "loss", "backward", "observe", "adam"), 0.0)

    def timed(name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        synchronize(device)
        started = time.perf_counter()
        result = work(*arguments)
        synchronize(device)
        seconds[name] += time.perf_counter() - started
        return result

    model, params = trainer.model, trainer.params

    def draw(camera: Camera) -> Render:
        return rasterizer.render(model.splats(), camera, params, trainer.background)

    for i in range(PARTS_TIMED):
        camera, photo = timed("photo", trainer.photos.get, i % len(trainer.scene.views), 1)
        result = timed("render", draw, camera)
        loss, _ = timed("loss", photometric_loss, result.image, photo, params.ssim_weight)
        timed("backward", loss.backward)
        timed("observe", model.observe, result, camera.width * camera.height)
        timed("adam", model.step, 0.5)
    return {name: round(1e3 * value / PARTS_TIMED, 3) for name, value in seconds.items()}


def _context(sfm: Path, params: Params, folder: Path) -> StageContext:
    request = Request(
        stage="train", stage_version=STAGES["train"].version, key="0" * 32, attempt=1, params=params.model_dump()
    )
    store = ArtifactStore.open((folder / "store").as_uri())
    inputs: Any = {"sfm": SimpleNamespace(folder=sfm)}
    return StageContext(store=store, request=request, params=params, inputs=inputs, capture=None, folder=folder)


if __name__ == "__main__":
    main()
