"""The `train` stage: posed photos in, a Gaussian-splat scene out; the same loop on CUDA and on the CPU."""

from __future__ import annotations

import io
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from e2e3d_stages.contract.messages import OutOfMemory, StageError
from e2e3d_stages.runtime.context import StageContext
from e2e3d_stages.splats.camera import fitted_size
from e2e3d_stages.splats.gaussians import write_ply
from e2e3d_stages.splats.rasterizer import best_device, render, use_threads
from e2e3d_stages.splats.ssim_window import SSIM_EVERY
from e2e3d_stages.train.light import Light
from e2e3d_stages.train.loss import photometric_loss
from e2e3d_stages.train.model import TrainableSplats, z_order
from e2e3d_stages.train.params import Params
from e2e3d_stages.train.scene import Photos, Scene, load_scene
from e2e3d_stages.train.seeding import resolved, seed

log = logging.getLogger("e2e3d")

REFINE_EVERY = 100
REFINE_FROM = 300
REFINE_UNTIL = 0.6  # share of the iterations after which the number of Gaussians stays
# Photos at a fraction of the size, until that share of the iterations: measured in docs/trials.md.
PYRAMID = ((4, 0.15), (2, 0.5))
SH_SHARE = 0.1  # one more band after each such share of the iterations
PSNR_SECONDS = 1.0  # between two looks at the training views' errors: a GPU must stop for each
PREVIEW_SECONDS = 12.0  # between two previews, or longer
PREVIEW_SHARE = 0.01  # where they would take more than this share of the time
PREVIEW_LONG_SIDE = 640
CHECKPOINT_SHARE = 0.1  # one that would make checkpoints take more than this share of the time is left out
PLATEAU_DB = 0.05  # less gain than this between two tenths of the training is a plateau

# There wherever NVIDIA's driver is, also in containers that were given a GPU.
GPU_DRIVER = Path("/dev/nvidiactl")


def run(context: StageContext) -> dict[str, Any]:
    """Train, and write `scene.ply`, `training.json` and `preview.jpg`.

    :raises OutOfMemory: when the GPU's memory is too small.
    :raises StageError: when the training diverges.
    """
    context.progress(0, 3, "parts", phase="getting ready")
    use_threads(context.threads)
    scene = load_scene(context.inputs["sfm"].folder, context.params.long_side, context.params.holdout)
    context.progress(1, 3, "parts", phase="getting ready")
    device = best_device()
    if device.type == "cpu" and GPU_DRIVER.exists():
        context.warn(
            "gpu_unused",
            "This machine has an NVIDIA GPU, but training ran on the CPU.",
            "Build the 3dgs image for the GPU (make images CUDA_ARCHITECTURES=...), or update the GPU's driver.",
        )
    try:
        trainer = Trainer(context, scene, device)
        # The third part is the first step, before which the rasteriser is compiled.
        context.progress(2, 3, "parts", phase="getting ready")
        return trainer.train()
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            f"GPU memory ran out: {error}",
            hint="Choose a smaller preset, fewer Gaussians (train_max_gaussians), a smaller training size "
            "(train_long_side), or a larger GPU.",
        ) from error


class Trainer:
    """One training: its model, its random state and its records."""

    def __init__(self, context: StageContext, scene: Scene, device: torch.device) -> None:
        self.context, self.scene, self.device = context, scene, device
        self.params: Params = context.params
        self.rng = np.random.default_rng(self.params.seed)
        self.light = Light.of(scene, self.params.light, device)
        self.most = min(self.params.max_gaussians, resolved(scene))
        gains = None if self.light is None else self.light.gains()
        tensors, self.filled = seed(scene, self.most, self.params.sh_degree, self.rng, gains)
        order = z_order(tensors["means"])
        tensors = {name: tensor[order] for name, tensor in tensors.items()}
        self.model = TrainableSplats(tensors, scene.extent, self.params.iterations, device)
        self.seeded = len(self.model)
        self.background = torch.zeros(3, device=device)
        self.photos = Photos(scene.views, device)
        self.step = 0
        self.resumed_from: int | None = None
        self.queue: list[int] = []
        # Of each view when it was last trained on; stays on the device, as the loss does: nothing waits for a number.
        self.errors = torch.full((len(scene.views),), torch.nan, device=device)
        self.curve: list[dict[str, float]] = []
        self.psnr = self.next_psnr = self.next_preview = self.next_checkpoint = 0.0
        self._resume()

    def train(self) -> dict[str, Any]:
        """Run to the end, the plateau, or the order to stop; returns the stage's metrics."""
        params, started, first = self.params, time.monotonic(), self.step
        while self.step < params.iterations and not self._at_plateau():
            if self.context.stopping:
                self._checkpoint()
                self.context.check_stop()
            loss = self._iterate()
            if self.step % REFINE_EVERY == 0:
                self._refine()
                self._record(float(loss))
            due = self.step % params.checkpoint_every == 0 and self.step < params.iterations
            if due and time.monotonic() >= self.next_checkpoint:
                self._checkpoint()
            if time.monotonic() >= self.next_preview:
                self._show_preview()
            if time.monotonic() >= self.next_psnr:
                self.psnr, self.next_psnr = self._psnr(), time.monotonic() + PSNR_SECONDS
            self.context.progress(
                self.step, params.iterations, "steps", psnr=round(self.psnr, 2), gaussians=len(self.model)
            )
        seconds = time.monotonic() - started
        self._write_results()
        return {
            "iterations": self.step,
            "gaussians": len(self.model),
            "seeded": self.seeded,
            "seeded_uncovered": self.filled,
            "psnr_training": round(self._psnr(), 3),
            "light_ev": None if self.light is None else round(self.light.spread(), 2),
            "views_training": len(self.scene.views),
            "views_heldout": len(self.scene.heldout),
            "sh_degree": params.sh_degree,
            "long_side": max(max(view.photo.shape[:2]) for view in self.scene.views),
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated() if self.device.type == "cuda" else None,
            "threads": self.context.threads,
            "steps_per_second": round((self.step - first) / max(seconds, 1e-9), 2),
        }

    def _iterate(self) -> Tensor:
        params = self.params
        share = self.step / params.iterations
        view = self._next_view()
        divisor = next((each for each, until in PYRAMID if share < until and params.coarse_to_fine), 1)
        camera, photo = self.photos.get(view, divisor)
        counted = self.photos.counted(view, divisor)
        background, compared = self.background, counted
        if counted is not None and self.scene.views[view].cut_out:
            # Where there is nothing any background must show, so that nothing of its colour is put before it.
            background = torch.from_numpy(self.rng.random(3, np.float32)).to(self.device)
            behind = background if self.light is None else self.light.applied(background[None, None], view).detach()
            photo, compared = torch.where(counted[..., None], photo, behind), None
        degree = min(params.sh_degree, int(share / SH_SHARE))
        result = render(self.model.splats(), camera, params.model_copy(update={"sh_degree": degree}), background)
        image = result.image if self.light is None else self.light.developed(result.image, view, photo)
        loss, self.errors[view] = photometric_loss(image, photo, params.ssim_weight, compared, self.step % SSIM_EVERY)
        loss.backward()  # type: ignore[no-untyped-call]
        if share < REFINE_UNTIL:
            self.model.observe(result, camera.width * camera.height)
        self.model.step(share)
        if self.light is not None:
            self.light.step(share)
        if counted is not None and compared is None:  # compared as a whole, but the error is that of what counts
            squares = (image.detach() - photo).square().mean(2)
            self.errors[view] = (squares * counted).mean() / counted.float().mean()
        self.step += 1
        return loss.detach()

    def _next_view(self) -> int:
        """Views in random order, each once before any comes again."""
        if not self.queue:
            self.queue = self.rng.permutation(len(self.scene.views)).tolist()
        return self.queue.pop()

    def _refine(self) -> None:
        end = REFINE_UNTIL * self.params.iterations
        if REFINE_FROM <= self.step <= end:
            progress = min(1.0, self.step / (0.9 * end))
            wanted = self.seeded * (self.most / self.seeded) ** progress
            self.model.refine(int(wanted))

    def _record(self, loss: float) -> None:
        if not (np.isfinite(loss) and self.model.is_finite()):
            raise StageError(
                f"The training diverged at step {self.step}: the loss is {loss}.",
                hint="Try another seed (train_seed). If that fails, too, the camera poses may be wrong: take more "
                "photos with more overlap.",
            )
        point = {
            "step": self.step,
            "psnr_training": round(self._psnr(), 3),
            "gaussians": len(self.model),
            "loss": round(loss, 5),
        }
        if self.light is not None:
            point["light_ev"] = round(self.light.spread(), 2)
        self.curve.append(point)
        self._show_curve()

    def _psnr(self) -> float:
        """Mean over the training views of the PSNR that each had when it was last trained on, in dB."""
        psnr = -10 * np.log10(self.errors.double().cpu().numpy() + 1e-10)
        return float(np.nanmean(psnr)) if not np.isnan(psnr).all() else 0.0

    def _at_plateau(self) -> bool:
        """Whether the last tenth of the iterations gained next to nothing, once the number of Gaussians stays."""
        span = max(1, self.params.iterations // 10 // REFINE_EVERY)
        settled = self.step - span * REFINE_EVERY * 2 >= REFINE_UNTIL * self.params.iterations
        if not (self.params.stop_at_plateau and settled):
            return False
        values = [point["psnr_training"] for point in self.curve]
        return bool(np.mean(values[-span:]) - np.mean(values[-2 * span : -span]) < PLATEAU_DB)

    def _checkpoint(self) -> None:
        started = time.monotonic()
        state = {
            "model": self.model.state_dict(),
            "light": None if self.light is None else self.light.state_dict(),
            "seeded": self.seeded,
            "filled": self.filled,
            "queue": self.queue,
            "errors": self.errors,
            "curve": self.curve,
            "rng": json.dumps(self.rng.bit_generator.state),
        }
        with self.context.checkpoint(self.step) as folder:
            torch.save(state, folder / "state.pt")
        ended = time.monotonic()
        self.next_checkpoint = ended + (ended - started) / CHECKPOINT_SHARE

    def _resume(self) -> None:
        latest = self.context.latest_checkpoint()
        if latest is None:
            return
        self.step, folder = latest
        state = torch.load(folder / "state.pt", map_location=self.device, weights_only=True)
        self.model = TrainableSplats(state["model"]["tensors"], self.scene.extent, self.params.iterations, self.device)
        self.model.load_state_dict(state["model"])
        self.light = None
        if state["light"] is not None:
            self.light = Light(state["light"]["maps"], state["light"]["mean"].cpu(), self.device)
            self.light.load_state_dict(state["light"])
        self.seeded, self.filled, self.queue = state["seeded"], state["filled"], state["queue"]
        self.errors, self.curve = state["errors"], state["curve"]
        self.rng.bit_generator.state = json.loads(state["rng"])
        self.resumed_from = self.step
        self._show_curve()
        log.info("resuming from step %d of %d", self.step, self.params.iterations)

    def _show_curve(self) -> None:
        self.context.show("curve.json", json.dumps(self.curve).encode())

    def _show_preview(self) -> None:
        """Let people see how far the scene is: always the same view, seldom enough to cost next to nothing."""
        started = time.monotonic()
        file = io.BytesIO()
        self._preview(PREVIEW_LONG_SIDE).save(file, "JPEG", quality=85)
        self.context.show("preview.jpg", file.getvalue())
        ended = time.monotonic()
        self.next_preview = ended + max(PREVIEW_SECONDS, (ended - started) / PREVIEW_SHARE)

    @torch.no_grad()
    def _preview(self, long_side: int) -> Image.Image:
        """What the middle one of the training views sees, no larger than that."""
        camera = self.scene.views[len(self.scene.views) // 2].camera
        camera = camera.resized(*fitted_size(camera.width, camera.height, long_side))
        image = render(self.model.splats(), camera, self.params, self.background).image
        return Image.fromarray((image.clamp(0, 1) * 255).round().byte().cpu().numpy())

    def _write_results(self) -> None:
        write_ply(self.context.output / "scene.ply", self.model.gaussians())
        self._preview(self.params.long_side).save(self.context.output / "preview.jpg", quality=90)
        record = {
            "long_side": self.params.long_side,
            "holdout": self.scene.heldout,
            "training": [view.name for view in self.scene.views],
            "light": None if self.light is None else self.light.told([view.name for view in self.scene.views]),
            "curve": self.curve,
            "resumed_from": self.resumed_from,
        }
        (self.context.output / "training.json").write_text(json.dumps(record, indent=1))
