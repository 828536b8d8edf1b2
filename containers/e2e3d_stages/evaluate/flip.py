"""FLIP: how much people would see of two pictures' difference when they flip between them (Andersson et al. 2020)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from e2e3d_stages.splats.srgb import decoded

# A screen 0.7 m wide with 3,840 px, looked at from 0.7 m.
PIXELS_PER_DEGREE = 0.7 * 3840 / 0.7 * np.pi / 180
# Of each channel, luminance, red against green, blue against yellow: weights and widths of two Gaussians in degrees².
CONTRAST = (((1.0, 0.0047),), ((1.0, 0.0053),), ((34.1, 0.04), (13.5, 0.025)))
CONTRAST_RADIUS = int(np.ceil(3 * np.sqrt(0.04 / (2 * np.pi**2)) * PIXELS_PER_DEGREE))
FEATURE_SIGMA = 0.5 * 0.082 * PIXELS_PER_DEGREE
COLOUR_POWER, FEATURE_POWER = 0.7, 0.5
# Colour differences up to this share of the greatest spread over that share of the scale.
KNEE, KNEE_VALUE = 0.4, 0.95

XYZ = torch.tensor(
    [
        [10135552 / 24577794, 8788810 / 24577794, 4435075 / 24577794],
        [2613072 / 12288897, 8788810 / 12288897, 887015 / 12288897],
        [1425312 / 73733382, 8788810 / 73733382, 70074185 / 73733382],
    ]
)
OPPONENT = torch.tensor([[0.0, 116, 0], [500, -500, 0], [0, 200, -200]])


def flip(image: NDArray[np.floating], photo: NDArray[np.floating], counted: NDArray[np.bool_] | None = None) -> float:
    """Mean error of two (H, W, 3) pictures in 0 to 1 (sRGB), 0 where people see no difference, at most 1.

    LDR-FLIP of Andersson et al. 2020, at its default viewing distance; no weights are learned.

    :param counted: (H, W), the pixels that are compared: elsewhere both pictures count as the same. All when not given.
    :raises ValueError: when the shapes differ.
    """
    if image.shape != photo.shape:
        raise ValueError(f"cannot compare {image.shape} with {photo.shape}")
    ours, theirs = (torch.from_numpy(np.ascontiguousarray(decoded(each), np.float32)) for each in (image, photo))
    if counted is not None:
        ours = torch.where(torch.from_numpy(counted)[..., None], ours, theirs)
    ours, theirs = _opponent(ours), _opponent(theirs)
    colour = _colour_difference(_perceived(ours), _perceived(theirs))
    feature = ((_features(ours) - _features(theirs)).abs().amax(0) / 2**0.5).clamp(0, 1) ** FEATURE_POWER
    error = colour ** (1 - feature)
    return float((error if counted is None else error[torch.from_numpy(counted)]).double().mean())


def _opponent(light: Tensor) -> Tensor:
    """Of linear light (H, W, 3), the planes (3, H, W) of YCxCz: luminance, red against green, blue against yellow."""
    planes: Tensor = torch.tensordot(OPPONENT @ (XYZ / XYZ.sum(1, keepdim=True)), light, dims=([1], [2]))
    planes[0] -= 16
    return planes


def _perceived(opponent: Tensor) -> Tensor:
    """What the eye's contrast sensitivity leaves of a picture: planes (3, H, W) of L*a*b*, a and b as Hunt has them."""
    planes = torch.stack([_seen(plane, each) for plane, each in zip(opponent, CONTRAST, strict=True)])
    planes[0] += 16
    white = XYZ.sum(1, keepdim=True)
    light = torch.tensordot(torch.linalg.inv(OPPONENT @ (XYZ / white)), planes, dims=1).clamp(0, 1)
    return _hunt(light)


def _hunt(light: Tensor) -> Tensor:
    """L*a*b* with Hunt's effect of luminance, of linear RGB (3, ...)."""
    x, y, z = torch.tensordot(XYZ / XYZ.sum(1, keepdim=True), light, dims=1)
    delta = 6 / 29
    x, y, z = (torch.where(t > delta**3, t.clamp(min=1e-9) ** (1 / 3), t / (3 * delta**2) + 4 / 29) for t in (x, y, z))
    lightness = 116 * y - 16
    return torch.stack([lightness, 0.01 * lightness * 500 * (x - y), 0.01 * lightness * 200 * (y - z)])


def _hyab(difference: Tensor) -> Tensor:
    """The length of a colour difference (3, ...) that is large: city blocks along L*, a straight line across."""
    length: Tensor = difference[0].abs() + (difference[1] ** 2 + difference[2] ** 2).sqrt()
    return torch.pow(length, COLOUR_POWER)


def _colour_difference(ours: Tensor, theirs: Tensor) -> Tensor:
    """(H, W) in 0 to 1."""
    difference = _hyab(ours - theirs)
    green, blue = _hunt(torch.tensor([0.0, 1, 0])), _hunt(torch.tensor([0.0, 0, 1]))
    most = _hyab(green - blue)
    knee = KNEE * most
    beyond = KNEE_VALUE + (difference - knee) / (most - knee) * (1 - KNEE_VALUE)
    return torch.where(difference < knee, KNEE_VALUE / knee * difference, beyond)


def _seen(plane: Tensor, gaussians: tuple[tuple[float, float], ...]) -> Tensor:
    """A plane (H, W) through the contrast sensitivity of its channel."""
    at = torch.arange(-CONTRAST_RADIUS, CONTRAST_RADIUS + 1) / PIXELS_PER_DEGREE
    seen, total = torch.zeros_like(plane), 0.0
    for weight, width in gaussians:
        taps = torch.exp(-(np.pi**2) * at**2 / width)
        share = weight * (np.pi / width) ** 0.5
        seen += share * _filtered(plane, taps, taps)
        total += share * float(taps.sum()) ** 2
    return seen / total


def _features(opponent: Tensor) -> Tensor:
    """How strong an edge, and a point, of luminance is at each pixel: (2, H, W)."""
    plane = (opponent[0] + 16) / 116
    radius = int(np.ceil(3 * FEATURE_SIGMA))
    at = torch.arange(-radius, radius + 1, dtype=torch.float32)
    bell = torch.exp(-(at**2) / (2 * FEATURE_SIGMA**2))
    found = []
    for taps in (-at * bell, (at**2 / FEATURE_SIGMA**2 - 1) * bell):
        up, down = taps.clamp(min=0).sum(), -taps.clamp(max=0).sum()
        taps = torch.where(taps < 0, taps / down, taps / up)
        across = _filtered(plane, taps, bell / bell.sum())
        found.append((across**2 + _filtered(plane, bell / bell.sum(), taps) ** 2).sqrt())
    return torch.stack(found)


def _filtered(plane: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """A plane (H, W) through a separable filter; beyond its border it goes on as it ends there."""
    half = len(across) // 2
    padded = functional.pad(plane[None, None], (half, half, half, half), mode="replicate")
    padded = functional.conv2d(padded, across.float().view(1, 1, 1, -1))
    filtered: Tensor = functional.conv2d(padded, down.float().view(1, 1, -1, 1))[0, 0]
    return filtered
