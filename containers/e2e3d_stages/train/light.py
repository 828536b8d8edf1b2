"""The light of each photo, its exposure and white balance: measured before training, learned in it."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e2e3d_stages.train.scene import Scene

log = logging.getLogger("e2e3d")

LEARNING_RATE, FINAL_SHARE = 1e-3, 0.1
WHITE = 254 / 255
# Where photos' exposures differ less, by their standard deviation in EV, colours that change with the direction of view
# take that up as well: at 0.18 EV the sample's colour-corrected figures were equal with and without.
NOTABLE_EV = 0.25

# Photos are sampled at about this size: a pose that is half a pixel off then changes little.
SAMPLED_LONG_SIDE = 320
MOST_POINTS, POINTS_AT_ONCE = 20_000, 2_000
# Values nearer to black or white are noise or clipped.
TELLING = (0.03, 0.97)
# Logarithms of a point's colours that differ more differ by the point, as reflections do, and not by the light.
ODD = 0.15
ROUNDS = 6
# Points that each photo is thought to show in the mean light.
PRIOR = 3.0


class Light:
    """Takes the scene's colours to each photo's: an affine map of RGB, (3, 4), for each view.

    The maps' mean is the identity after every step, so the scene by itself has the mean light of its photos.

    :param maps: (V, 3, 4), to begin with.
    :param mean: (3,), the photos' mean colour, 0 to 1: what a light is told by.
    """

    def __init__(self, maps: Tensor, mean: Tensor, device: torch.device) -> None:
        self.maps, self.mean = maps.float().to(device).requires_grad_(), mean
        self.optimizer = torch.optim.Adam([self.maps], lr=LEARNING_RATE, fused=True)
        self._neutral = torch.eye(3, 4, device=device)

    @classmethod
    def of(cls, scene: Scene, wanted: str, device: torch.device) -> Light | None:
        """What is to be learned of a scene's light; None when it is `off`, or `auto` and hardly differs."""
        if wanted == "off":
            return None
        gains = torch.from_numpy(measured_gains(scene))
        maps = torch.cat([torch.diag_embed(gains), torch.zeros(len(gains), 3, 1)], 2)
        mean = torch.tensor(np.mean([view.photo.mean((0, 1)) for view in scene.views], 0) / 255)
        spread = float(exposures(maps, mean).mean(1).std(unbiased=False))
        log.info("The photos' exposure differs by %.2f EV (standard deviation)", spread)
        return cls(maps, mean, device) if wanted == "on" or spread >= NOTABLE_EV else None

    def gains(self) -> NDArray[np.float32]:
        """How many times brighter than in the mean light each photo is, (V, 3), as the maps' diagonals have it."""
        gains: NDArray[np.float32] = self.maps.detach().diagonal(dim1=1, dim2=2).cpu().numpy()
        return gains

    def applied(self, colours: Tensor, view: int) -> Tensor:
        """Colours of the scene, (..., 3), in the light of a view's photo."""
        return colours @ self.maps[view, :, :3].T + self.maps[view, :, 3]

    def developed(self, image: Tensor, view: int, photo: Tensor) -> Tensor:
        """The scene's picture, (H, W, 3), as the photo's camera has it: what is brighter than its white is white."""
        return developed(image, self.maps[view], photo)

    def step(self, share: float) -> None:
        """One step of the optimiser, then back to the mean.

        :param share: how much of the training is over, 0 to 1; the rate falls exponentially.
        """
        self.optimizer.param_groups[0]["lr"] = LEARNING_RATE * FINAL_SHARE**share
        self.optimizer.step()
        # Zeros and not None: a map moves on while other photos are looked at, or hardly moves in a short training.
        self.optimizer.zero_grad(set_to_none=False)
        with torch.no_grad():
            self.maps += self._neutral - self.maps.mean(0)

    def told(self, names: list[str]) -> list[dict[str, Any]]:
        """How much brighter each photo is than the mean, and how much warmer (red over blue), in EV; and its map."""
        maps = self.maps.detach().double().cpu()
        by_channel = exposures(maps, self.mean)
        return [
            {
                "name": name,
                "ev": round(float(ev.mean()), 3),
                "warmer_ev": round(float(ev[0] - ev[2]), 3),
                "map": [[round(value, 5) for value in row] for row in each.tolist()],
            }
            for name, ev, each in zip(names, by_channel, maps, strict=True)
        ]

    def spread(self) -> float:
        """How much brighter the brightest photo is than the darkest, in EV."""
        ev = exposures(self.maps.detach().double().cpu(), self.mean).mean(1)
        return float(ev.max() - ev.min())

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint needs."""
        return {"maps": self.maps.detach(), "mean": self.mean, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`; this light was made from its maps and mean."""
        self.optimizer.load_state_dict(state["optimizer"])


def developed(image: Tensor, light: Tensor, photo: Tensor) -> Tensor:
    """A picture (H, W, 3) through the map (3, 4) of a photo; its device decides how it is computed."""
    if image.is_cuda:
        return torch_developed(image, light, photo)
    from e2e3d_stages.splats import cpu

    return cpu.developed(image, light, photo, WHITE)


def torch_developed(image: Tensor, light: Tensor, photo: Tensor) -> Tensor:
    """`developed` in torch, on any device."""
    lit = torch.addmm(light[:, 3], image.reshape(-1, 3), light[:, :3].T).view_as(image)
    return torch.where((lit > photo) & (photo >= WHITE), photo, lit)


def exposures(maps: Tensor, mean: Tensor) -> Tensor:
    """By how many EV maps (V, 3, 4) make a colour brighter, (V, 3) by channel: sRGB's values are no light."""
    lit = (maps[:, :, :3] @ mean + maps[:, :, 3]).clamp(min=1 / 255)
    return (_linear(lit) / _linear(mean)).log2()


def _linear(values: Tensor) -> Tensor:
    """IEC 61966-2-1, also above 1."""
    return torch.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def measured_gains(scene: Scene) -> NDArray[np.float64]:
    """How many times brighter than on the mean each training photo is, (V, 3) by channel, in the values of its pixels.

    Photos that show the same points differ there by their light. Least squares over the logarithms of the points'
    colours, which are eliminated (the Schur complement), with the weights of Geman and McClure against what is no
    matter of light. EXIF knows the exposure only, and where it knows it says the same.
    """
    view, point, colour = _observations(scene)
    weight = np.ones(len(view))
    gains = np.zeros((len(scene.views), 3))
    for _ in range(ROUNDS if len(view) else 0):
        gains = _solved(view, point, colour, weight, len(gains))
        own = colour - gains[view]
        odd = np.square((own - _means(point, own, weight)[point]) / ODD).mean(1)
        weight = 1 / (1 + odd) ** 2
    gains = np.exp(gains)
    return np.asarray(gains / gains.mean(0))


def _observations(scene: Scene) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """View (O,), point (O,) in order, and logarithm of the colour (O, 3), of points that two views or more show."""
    every = max(1, -(-len(scene.points.xyz) // MOST_POINTS))
    views, points, colours = [], [], []
    for number, (view, seen) in enumerate(zip(scene.views, scene.points.seen_by, strict=True)):
        seen = seen[seen % every == 0]
        small = view.shrunk(max(1, max(view.camera.width, view.camera.height) // SAMPLED_LONG_SIDE))
        pixels, _, inside = small.camera.project(scene.points.xyz[seen])
        column, row = pixels.astype(int).T
        colour = small.photo[row, column] / 255
        telling = ((colour > TELLING[0]) & (colour < TELLING[1])).all(1)
        if small.counted is not None:
            telling &= small.counted[row, column]
        views.append(np.full(int(telling.sum()), number))
        points.append(seen[inside][telling])
        colours.append(np.log(colour[telling]))
    of, point, value = np.concatenate(views), np.concatenate(points), np.concatenate(colours)
    shared = np.nonzero(np.bincount(point, minlength=1)[point] >= 2)[0]
    shared = shared[np.argsort(point[shared], kind="stable")]
    return of[shared], np.unique(point[shared], return_inverse=True)[1], value[shared]


def _solved(
    view: NDArray[np.int64],
    point: NDArray[np.int64],
    colour: NDArray[np.float64],
    weight: NDArray[np.float64],
    count: int,
) -> NDArray[np.float64]:
    """The views' logarithmic gains, (V, 3)."""
    means = _means(point, colour, weight)
    matrix = np.diag(PRIOR + np.bincount(view, weight, count))
    for begin in range(0, len(means), POINTS_AT_ONCE):
        of = slice(*np.searchsorted(point, (begin, begin + POINTS_AT_ONCE)))
        shows = np.zeros((count, POINTS_AT_ONCE))
        shows[view[of], point[of] - begin] = weight[of]
        matrix -= (shows / np.maximum(shows.sum(0), 1e-12)) @ shows.T
    right = [np.bincount(view, weight * each, count) for each in (colour - means[point]).T]
    return np.asarray(np.linalg.solve(matrix, np.stack(right, 1)))


def _means(point: NDArray[np.int64], values: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each point's weighted mean of values (O, 3)."""
    total = np.maximum(np.bincount(point, weight), 1e-12)
    return np.stack([np.bincount(point, weight * each) / total for each in values.T], 1)
