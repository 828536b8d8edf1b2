"""The Gaussians while they are trained: tensors, their optimiser, and how their number changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from e2e3d_stages.splats.gaussians import Gaussians
from e2e3d_stages.splats.rendering import Render, Splats

# Kerbl et al. 2023, except that all rates fall.
_LEARNING_RATES = {
    "means": 1.6e-4,  # times the scene's extent
    "scales": 5e-3,
    "quats": 1e-3,
    "opacities": 5e-2,
    "sh": 2.5e-3 / 20,
}
_BASE_COLOUR = 20  # times the rate of the other harmonics
_FINAL_SHARE = {"means": 0.01}
_MIN_OPACITY = 0.005
# Fewer steps than Kerbl's are longer ones: in all, Gaussians move and turn as far in a random walk, and grow or shrink
# as far straight on. Powers of how many times fewer they are; measured in docs/trials.md.
_LONGER = {"means": 0.5, "scales": 1.0, "quats": 0.5}
_USUAL_STEPS, _FEWEST_STEPS = 30_000, 2_500


class TrainableSplats:
    """Trainable Gaussians.

    :param tensors: `means` (N, 3), `scales` (N, 3) logarithms, `quats` (N, 4), `opacities` (N,) logits, `sh`
        (N, K, 3) with the base colour first.
    :param extent: the scene's size; the learning rate of the means is relative to it.
    :param steps: how many the training has.
    """

    def __init__(self, tensors: dict[str, Tensor], extent: float, steps: int, device: torch.device) -> None:
        fewer = max(1.0, _USUAL_STEPS / max(steps, _FEWEST_STEPS))
        self._rates = {name: rate * fewer ** _LONGER.get(name, 0) for name, rate in _LEARNING_RATES.items()}
        self._rates["means"] *= extent
        self.tensors = {name: t.to(device).contiguous().requires_grad_() for name, t in tensors.items()}
        groups = [{"params": [t], "name": name} for name, t in self.tensors.items()]
        self.optimizer = torch.optim.Adam(groups, lr=1.0, eps=1e-15, fused=True)
        self.pull = torch.zeros(len(self), device=device)
        self.times_seen = torch.zeros(len(self), device=device)

    def __len__(self) -> int:
        return len(self.tensors["means"])

    def splats(self) -> Splats:
        """The present state as it is drawn, differentiable."""
        t = self.tensors
        return Splats(t["means"], t["quats"], t["scales"].exp(), t["opacities"].sigmoid(), t["sh"])

    def step(self, share: float) -> None:
        """One step of the optimiser.

        :param share: how much of the training is over, 0 to 1; rates fall exponentially.
        """
        for group in self.optimizer.param_groups:
            name = group["name"]
            group["lr"] = self._rates[name] * _FINAL_SHARE.get(name, 0.1) ** share
        # One tensor, two rates: where the base colours were is left how far Adam's step went.
        base = self.tensors["sh"].detach()[:, 0]
        before = base.clone()
        base.zero_()
        self.optimizer.step()
        torch.add(before, base, alpha=_BASE_COLOUR, out=base)
        self.optimizer.zero_grad(set_to_none=True)

    def observe(self, result: Render, pixels: int) -> None:
        """Add a finished backward pass to what `refine` decides by."""
        self.pull += result.screen_gradient() * pixels**0.5
        self.times_seen += result.visible

    def refine(self, wanted: int) -> int:
        """Drop what is invisible, then split those that the loss pulls at most until there are `wanted`.

        Each split halves a Gaussian along its longest axis. Returns how many were dropped.
        """
        with torch.no_grad():
            keep = (self.tensors["opacities"].sigmoid() > _MIN_OPACITY).nonzero()[:, 0]
            dropped = len(self) - len(keep)
            pull = (self.pull / self.times_seen.clamp(min=1))[keep]
            count = min(max(wanted - len(keep), 0), int((pull > 0).sum()))
            split = pull.topk(count).indices
            untouched = torch.ones(len(keep), dtype=torch.bool, device=pull.device)
            untouched[split] = False
            self._replace(keep[untouched], self._halves(keep[split]))
        return dropped

    def _halves(self, index: Tensor) -> dict[str, Tensor]:
        """Two Gaussians for each: side by side along the longest axis, together as opaque as the one."""
        parent = {name: t[index] for name, t in self.tensors.items()}
        longest = parent["scales"].argmax(1, keepdim=True)
        axis = rotation_matrices(parent["quats"]).gather(2, longest[:, None].expand(-1, 3, 1))[..., 0]
        offset = 0.5 * axis * parent["scales"].gather(1, longest).exp()
        scales = parent["scales"] + np.log(0.85)
        scales = scales.scatter_add(1, longest, torch.full_like(longest, 1, dtype=scales.dtype) * np.log(0.6 / 0.85))
        opacity = 1 - (1 - parent["opacities"].sigmoid()).sqrt()
        halves = {name: torch.cat([t, t]) for name, t in parent.items()}
        halves["means"] = torch.cat([parent["means"] - offset, parent["means"] + offset])
        halves["scales"] = torch.cat([scales, scales])
        halves["opacities"] = torch.cat([opacity, opacity]).clamp(1e-4, 1 - 1e-4).logit()
        return halves

    def _replace(self, keep: Tensor, new: dict[str, Tensor]) -> None:
        """Keep some Gaussians with their optimiser state and add new ones without, all in order."""
        order = z_order(torch.cat([self.tensors["means"][keep], new["means"]]))
        for group in self.optimizer.param_groups:
            name, old = group["name"], group["params"][0]
            changed = torch.cat([old[keep], new[name]])[order].detach().requires_grad_()
            state = self.optimizer.state.pop(old, {})
            for moment in ("exp_avg", "exp_avg_sq"):
                if moment in state:
                    state[moment] = torch.cat([state[moment][keep], torch.zeros_like(new[name])])[order]
            self.tensors[name] = group["params"][0] = changed
            if state:
                self.optimizer.state[changed] = state
        self.pull = torch.zeros(len(self), device=self.pull.device)
        self.times_seen = torch.zeros_like(self.pull)

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint needs."""
        return {
            "tensors": {name: t.detach() for name, t in self.tensors.items()},
            "optimizer": self.optimizer.state_dict(),
            "pull": self.pull,
            "times_seen": self.times_seen,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`; this model was made from the same tensors."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.pull, self.times_seen = state["pull"], state["times_seen"]

    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        return all(bool(t.isfinite().all()) for t in self.tensors.values())

    def gaussians(self) -> Gaussians:
        """The present state as arrays."""
        arrays = {name: t.detach().cpu().numpy() for name, t in self.tensors.items()}
        quats = arrays["quats"] / np.linalg.norm(arrays["quats"], axis=1, keepdims=True)
        return Gaussians(arrays["means"], arrays["scales"], quats, arrays["opacities"], arrays["sh"])


def z_order(places: Tensor) -> Tensor:
    """The order of (N, 3) places along a Z curve (Morton 1966): what is near in space is near in memory, mostly.

    Drawing goes through Gaussians tile by tile; where each was somewhere else a step's kernels took a fifth longer.
    """
    if not len(places):
        return torch.arange(0, device=places.device)
    offsets = places.detach() - places.detach().median(0).values
    # Far away, cells are larger: the scene is in the middle of what may be a sky.
    cells = ((1 + offsets / (offsets.abs() + offsets.abs().median() + 1e-9)) * 512).long().clamp(0, 1023)
    code = torch.zeros_like(cells[:, 0])
    for bit in range(10):
        for axis in range(3):
            code |= (cells[:, axis] >> bit & 1) << 3 * bit + axis
    return code.argsort(stable=True)


def rotation_matrices(quats: Tensor) -> Tensor:
    """(N, 3, 3) of (N, 4) quaternions, w first, any length."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).reshape(-1, 3, 3)
