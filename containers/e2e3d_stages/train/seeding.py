"""The Gaussians that training starts from: SfM's points, and more where a training view sees none of them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e2e3d_stages.contract.messages import StageError
from e2e3d_stages.splats.gaussians import C0
from e2e3d_stages.train.scene import Points, Scene, View

CELL_SHARE = 50  # a cell of the coverage grid is the picture's long side through this
# Solid, and small where SfM's points lie close: what begins large and faint stays so, is soft, and takes long to draw.
# Measured in docs/trials.md.
_INITIAL_OPACITY = 0.5
_CLOSE, _SHRUNK = 1.5, 0.6
# Of all training photos together; a place is in some ten of them. Below the least, more cost next to nothing. Measured
# in docs/trials.md.
PIXELS_PER_GAUSSIAN, FEWEST_GAUSSIANS = 50, 20_000
_FEWEST_POINTS = 10
# Of the points around a place that no point covers: how many tell its depth, how much slopes of it are held back, in
# squared cells, and how many times nearer or farther than any of theirs it may be.
_NEAREST, _HELD_BACK, _BEYOND = 16, 0.5, 1.5


def resolved(scene: Scene) -> int:
    """How many Gaussians the photos have detail for, at the training size: more cost more than they bring."""
    pixels = sum(view.camera.width * view.camera.height for view in scene.views)
    return max(FEWEST_GAUSSIANS, pixels // PIXELS_PER_GAUSSIAN)


def seed(
    scene: Scene,
    max_gaussians: int,
    sh_degree: int,
    rng: np.random.Generator,
    gains: NDArray[np.float32] | None = None,
) -> tuple[dict[str, Tensor], int]:
    """Trainable tensors by name (see `model.TrainableSplats`), and how many of them cover what SfM left empty.

    :param gains: (V, 3), how many times brighter than in the mean light each training photo is, where that differs.
    :raises StageError: when there is next to nothing to start from.
    """
    points = scene.points
    if len(points.xyz) < _FEWEST_POINTS:
        raise StageError(
            f"Only {len(points.xyz)} points are seen by two training photos: nothing to start from.",
            hint="Take more photos with more overlap, or hold out fewer (train_holdout).",
        )
    xyz, rgb, size = _cover(scene.views, points, np.ones((len(scene.views), 3), np.float32) if gains is None else gains)
    filled = len(xyz)
    xyz, rgb = np.concatenate([points.xyz, xyz]), np.concatenate([points.rgb, rgb])
    size = np.concatenate([_sizes(points.xyz), size])
    if len(xyz) > max_gaussians:
        keep = np.sort(rng.choice(len(xyz), max_gaussians, replace=False))
        filled = int((keep >= len(points.xyz)).sum())
        xyz, rgb, size = xyz[keep], rgb[keep], size[keep]
    count = len(xyz)
    quats = torch.zeros(count, 4)
    quats[:, 0] = 1
    sh = torch.zeros(count, (sh_degree + 1) ** 2, 3)
    sh[:, 0] = torch.from_numpy((rgb - 0.5) / C0)
    return {
        "means": torch.from_numpy(xyz),
        "scales": torch.from_numpy(np.log(np.maximum(size, 1e-7)))[:, None].repeat(1, 3),
        "quats": quats,
        "opacities": torch.full((count,), float(np.log(_INITIAL_OPACITY / (1 - _INITIAL_OPACITY)))),
        "sh": sh,
    }, filled


def _sizes(xyz: NDArray[np.float32]) -> NDArray[np.float32]:
    """Initial standard deviations (P,): the distance to the neighbours, and less of it where that is no long way."""
    apart = spacing(xyz)
    sizes: NDArray[np.float32] = np.where(apart < _CLOSE * np.median(apart), _SHRUNK * apart, apart)
    return sizes


def spacing(xyz: NDArray[np.float32]) -> NDArray[np.float32]:
    """Root mean square distance of each point to its three nearest neighbours."""
    points = torch.from_numpy(xyz)
    chunk = max(1, 20_000_000 // len(points))
    nearest = [
        torch.cdist(part, points).topk(min(4, len(points)), largest=False).values[:, 1:]
        for part in torch.split(points, chunk)
    ]
    spacing = torch.cat(nearest).square().mean(1).sqrt()
    lonely: NDArray[np.float32] = spacing.clamp(max=10 * float(spacing.median())).numpy()
    return lonely


def _cover(
    views: list[View], points: Points, gains: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Places, colours and sizes for the parts of the training views that no point covers; they would stay black.

    A cell of a view's grid without a point in it or next to it gets a Gaussian on the surface that the nearest points
    the view observes lie on, in the photos' mean light. What one view adds counts as cover for the next.
    """
    added: list[NDArray[np.float32]] = []
    colours: list[NDArray[np.float32]] = []
    sizes: list[NDArray[np.float32]] = []
    for view, seen, gain in zip(views, points.seen_by, gains, strict=True):
        if not len(seen):
            continue
        observed, depth, _ = view.camera.project(points.xyz[seen])
        extra = view.camera.project(np.concatenate(added))[0] if added else observed[:0]
        cell = max(view.camera.width, view.camera.height) / CELL_SHARE
        empty = _empty_cells(view, cell, np.concatenate([observed, extra]))
        if view.counted is not None:
            column, row = empty.astype(int).T
            empty = empty[view.counted[row, column]]
        if not len(empty):
            continue
        z = _depths(empty, observed, depth, cell)[:, None]
        camera = view.camera
        local = np.concatenate([(empty - camera.centre) / camera.focal * z, z], axis=1).astype(np.float32)
        pose = camera.pose.numpy()
        added.append((local - pose[:3, 3]) @ pose[:3, :3])
        column, row = empty.astype(int).T
        colours.append((view.photo[row, column] / (255 * gain)).clip(0, 1).astype(np.float32))
        sizes.append((0.5 * cell * z[:, 0] / camera.focal[0]).astype(np.float32))
    none = np.zeros((0, 3), np.float32)
    return (
        np.concatenate([none, *added]),
        np.concatenate([none, *colours]),
        np.concatenate([none[:, 0], *sizes]),
    )


def _depths(
    places: NDArray[np.float32], observed: NDArray[np.float32], depth: NDArray[np.float32], cell: float
) -> NDArray[np.float32]:
    """How far away a view's surface is at places (E, 2) of its picture, by points (P, 2) of known depth, all in px.

    Floors, walls and fields are planes, and a plane's inverse depth is linear in px: it is fitted to the nearest points
    by least squares. Nearer ones weigh more, and slopes are held back, for points in a line tell only one.
    """
    distance, nearest = torch.cdist(torch.from_numpy(places), torch.from_numpy(observed)).topk(
        min(_NEAREST, len(observed)), largest=False
    )
    weight = (1 / (distance + cell)).double()
    weight /= weight.sum(1, keepdim=True)
    inverse = 1 / torch.from_numpy(depth).double()[nearest]
    mean = (weight * inverse).sum(1, keepdim=True)
    offset = (torch.from_numpy(observed)[nearest] - torch.from_numpy(places)[:, None]).double() / cell
    terms = torch.cat([torch.ones_like(offset[..., :1]), offset], 2)
    weighted = (terms * weight[..., None]).transpose(1, 2)
    held_back = torch.diag(torch.tensor([0, _HELD_BACK, _HELD_BACK], dtype=torch.float64))
    fitted = torch.linalg.solve(weighted @ terms + held_back, weighted @ (inverse - mean)[..., None])[:, 0, 0]
    least, most = inverse.min(1).values / _BEYOND, inverse.max(1).values * _BEYOND
    z: NDArray[np.float32] = (1 / (mean[:, 0] + fitted).clamp(least, most)).float().numpy()
    return z


def _empty_cells(view: View, cell: float, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centres in px of the grid's cells that have no pixel of `pixels` in them or in a cell next to them."""
    columns, rows = int(np.ceil(view.camera.width / cell)), int(np.ceil(view.camera.height / cell))
    covered = np.zeros((rows + 2, columns + 2), bool)
    column, row = (pixels / cell).astype(int).T
    for down in range(3):
        for right in range(3):
            covered[row + down, column + right] = True
    row, column = np.nonzero(~covered[1:-1, 1:-1])
    centre = (np.stack([column, row], 1) + 0.5) * cell
    inside: NDArray[np.float32] = np.minimum(centre, (view.camera.width - 1, view.camera.height - 1)).astype(np.float32)
    return inside
