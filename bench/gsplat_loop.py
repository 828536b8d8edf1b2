"""gsplat's own training, to measure ours against: a plain loop with the defaults of its `examples/simple_trainer.py`.

What differs from that example is to its advantage: photos are on the GPU already, and SSIM is this project's, value
and gradient at once. `DefaultStrategy` knows no cap on the number of Gaussians and is given one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from gsplat import DefaultStrategy, MCMCStrategy, rasterization
from torch import Tensor

from e2e3d_stages.splats.camera import Camera
from e2e3d_stages.splats.ssim_window import SSIM_EVERY
from e2e3d_stages.train.loss import torch_loss
from e2e3d_stages.train.scene import Scene
from e2e3d_stages.train.seeding import spacing

RATES = {"means": 1.6e-4, "scales": 5e-3, "quats": 1e-3, "opacities": 5e-2, "sh0": 2.5e-3, "shN": 2.5e-3 / 20}
USUAL_STEPS = 30_000  # what the strategies' defaults are for; the example scales them with the number of steps
SH_INTERVAL = 1_000
SSIM_WEIGHT = 0.2
C0 = 0.28209479177387814


class CappedStrategy(DefaultStrategy):
    """`DefaultStrategy` that stops growing at a number: what is pulled at least stays as it is."""

    cap_max = 0

    def _grow_gs(self, params: Any, optimizers: Any, state: Any, step: int) -> tuple[int, int]:
        pull = state["grad2d"] / state["count"].clamp_min(1)
        room = max(0, self.cap_max - len(pull))
        if int((pull > self.grow_grad2d).sum()) > room:
            chosen = torch.zeros_like(pull)
            chosen[pull.topk(room).indices] = 1
            state["grad2d"] *= chosen
        grown: tuple[int, int] = super()._grow_gs(params, optimizers, state, step)
        return grown


class Lens(NamedTuple):
    """A camera as gsplat takes it."""

    pose: Tensor
    intrinsics: Tensor
    width: int
    height: int


class World:
    """The example's unit of length, which MCMC's noise depends on: cameras are 1 away from what they look at."""

    def __init__(self, scene: Scene, device: torch.device) -> None:
        eyes = torch.stack([-view.camera.pose[:3, :3].T @ view.camera.pose[:3, 3] for view in scene.views])
        self.centre = torch.from_numpy(np.median(scene.points.xyz, axis=0))
        self.scale = 1 / float((eyes - self.centre).norm(dim=1).median())
        self.extent = scene.extent * self.scale
        self.device = device

    def points(self, xyz: Tensor) -> Tensor:
        """The same places in this world."""
        return (xyz - self.centre) * self.scale

    def lens(self, camera: Camera) -> Lens:
        """The same camera in this world."""
        pose = camera.pose.clone()
        pose[:3, 3] = (pose[:3, :3] @ self.centre + pose[:3, 3]) * self.scale
        (fx, fy), (cx, cy) = camera.focal, camera.centre
        intrinsics = torch.tensor([[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]])
        return Lens(pose[None].to(self.device), intrinsics.to(self.device), camera.width, camera.height)


class Training:
    """A training in gsplat's way.

    :param name: "default" or "mcmc".
    :param steps: how many there will be; the strategies' defaults are scaled with them, as the example does.
    :param cap: the greatest number of Gaussians.
    """

    def __init__(self, scene: Scene, name: str, steps: int, cap: int, device: torch.device) -> None:
        torch.manual_seed(42)
        self.world, self.mcmc, self.step = World(scene, device), name == "mcmc", 0
        self.interval = max(1, SH_INTERVAL * steps // USUAL_STEPS)
        self.photos = [torch.from_numpy(view.photo).to(device) for view in scene.views]
        self.lenses = [self.world.lens(view.camera) for view in scene.views]
        self.queue: list[int] = []
        self.steps, self.cap = steps, cap
        self.use(initial(scene, self.world, mcmc=self.mcmc))

    def use(self, splats: dict[str, Tensor]) -> None:
        """Begin with these."""
        self.splats = splats
        self.optimizers = {
            name: torch.optim.Adam([{"params": splats[name], "lr": rate, "name": name}], eps=1e-15, fused=True)
            for name, rate in RATES.items()
        }
        means = self.optimizers["means"]
        means.param_groups[0]["lr"] *= self.world.extent
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(means, gamma=0.01 ** (1 / self.steps))
        self.before_backward, self.after_step = strategy(
            splats, self.optimizers, self.world, self.steps / USUAL_STEPS, self.cap, mcmc=self.mcmc
        )

    def iterate(self) -> None:
        """One step."""
        self.queue = self.queue or torch.randperm(len(self.photos)).tolist()
        view, splats = self.queue.pop(), self.splats
        image, info = draw(splats, self.lenses[view], min(3, self.step // self.interval))
        self.before_backward(self.step, info)
        loss, _ = torch_loss(image, self.photos[view] / 255, SSIM_WEIGHT, self.step % SSIM_EVERY)
        if self.mcmc:
            loss = loss + 0.01 * splats["opacities"].sigmoid().mean() + 0.01 * splats["scales"].exp().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        self.after_step(self.step, info, float(self.schedule.get_last_lr()[0]))
        self.step += 1

    def run(self, limit: float) -> float:
        """All the steps, or as many as the limit in seconds allows; returns seconds."""
        synchronize(self.world.device)
        started = time.perf_counter()
        while self.step < self.steps and (self.step % 100 or time.perf_counter() - started < limit):
            self.iterate()
        synchronize(self.world.device)
        return time.perf_counter() - started

    @torch.no_grad()
    def image(self, camera: Camera) -> Tensor:
        """What a camera sees, (H, W, 3) in 0 to 1."""
        image, _ = draw(self.splats, self.world.lens(camera), 3)
        return image.clamp(0, 1)


def initial(scene: Scene, world: World, *, mcmc: bool) -> dict[str, Tensor]:
    """A Gaussian for each of SfM's points."""
    xyz, rgb = world.points(torch.from_numpy(scene.points.xyz)), torch.from_numpy(scene.points.rgb)
    count, opacity, size = len(xyz), 0.5 if mcmc else 0.1, 0.1 if mcmc else 1.0
    sizes = torch.from_numpy(spacing(xyz.numpy())).clamp_min(1e-7) * size
    tensors = {
        "means": xyz,
        "scales": sizes.log()[:, None].repeat(1, 3),
        "quats": torch.rand(count, 4),
        "opacities": torch.full((count,), opacity).logit(),
        "sh0": ((rgb - 0.5) / C0)[:, None],
        "shN": torch.zeros(count, 15, 3),
    }
    return {name: torch.nn.Parameter(t.to(world.device)) for name, t in tensors.items()}


def converted(tensors: dict[str, Tensor], world: World) -> dict[str, Tensor]:
    """The tensors of `model.TrainableSplats` as gsplat's, in its world."""
    t = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    splats = {
        "means": world.points(t["means"]),
        "scales": t["scales"] + np.log(world.scale),
        **{name: t[name] for name in ("quats", "opacities")},
        **{"sh0": t["sh"][:, :1].contiguous(), "shN": t["sh"][:, 1:].contiguous()},
    }
    return {name: torch.nn.Parameter(tensor.to(world.device)) for name, tensor in splats.items()}


def strategy(
    splats: Any, optimizers: Any, world: World, share: float, cap: int, *, mcmc: bool
) -> tuple[Callable[[int, Any], None], Callable[[int, Any, float], None]]:
    """What to call before the backward pass and after the optimisers' step, its defaults scaled by `share`."""
    start, every = int(500 * share), max(1, int(100 * share))
    if mcmc:
        chain = MCMCStrategy(
            cap_max=cap, refine_start_iter=start, refine_stop_iter=int(25_000 * share), refine_every=every
        )
        state = chain.initialize_state()
        return (
            lambda _step, _info: None,
            lambda step, info, rate: chain.step_post_backward(splats, optimizers, state, step, info, lr=rate),
        )
    default = CappedStrategy(
        refine_start_iter=start, refine_stop_iter=int(15_000 * share), refine_every=every,
        reset_every=max(1, int(3_000 * share)),
    )  # fmt: skip
    default.cap_max = cap
    state = default.initialize_state(scene_scale=world.extent)
    return (
        lambda step, info: default.step_pre_backward(splats, optimizers, state, step, info),
        lambda step, info, _rate: default.step_post_backward(splats, optimizers, state, step, info),
    )


def draw(splats: dict[str, Tensor], lens: Lens, degree: int) -> tuple[Tensor, Any]:
    """One picture, as the example draws it."""
    image, _, info = rasterization(
        splats["means"], splats["quats"], splats["scales"].exp(), splats["opacities"].sigmoid(),
        torch.cat([splats["sh0"], splats["shN"]], 1), lens.pose, lens.intrinsics, lens.width, lens.height,
        sh_degree=degree, packed=False,
    )  # fmt: skip
    return image[0], info


def synchronize(device: torch.device) -> None:
    """Wait until the GPU has done all it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize()
