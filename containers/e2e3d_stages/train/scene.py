"""What is trained on: posed photos at the training size, some of them held out, and SfM's points."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from e2e3d_stages.contract.messages import InvalidRequest
from e2e3d_stages.contract.paths import inside
from e2e3d_stages.splats.camera import Camera, fitted_size
from e2e3d_stages.splats.masks import read_mask

FEWEST_FOR_HOLDOUT = 8
PHOTOS_SHARE = 0.25  # of the GPU's memory


def load_photo(path: Path, width: int, height: int) -> NDArray[np.uint8]:
    """A photo at a given size, (height, width, 3)."""
    with Image.open(path) as photo:
        return np.array(photo.convert("RGB").resize((width, height), Image.Resampling.LANCZOS))


def split_heldout(views: list[dict[str, Any]], holdout: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training and held-out views.

    Of each `holdout` places in ingest's sorted list the middle one is held out (4, 12, 20, ... of every 8), so the
    choice depends on the capture alone, and never falls on the first photo of a walk, part of which nothing else
    shows. Nothing is held out of fewer than 8 views.
    """
    if holdout == 0 or len(views) < FEWEST_FOR_HOLDOUT:
        return views, []
    heldout = [view for view in views if view["order"] % holdout == holdout // 2]
    return [view for view in views if view not in heldout], heldout


@dataclass(frozen=True)
class View:
    """A photo and its camera at the training size.

    :param counted: (H, W), where the photo counts; None where it does as a whole.
    :param cut_out: whether there is nothing where it does not count.
    """

    name: str
    camera: Camera
    photo: NDArray[np.uint8]
    counted: NDArray[np.bool_] | None = None
    cut_out: bool = False

    def shrunk(self, divisor: int) -> View:
        """The same at a whole fraction of the size."""
        if divisor == 1:
            return self
        width, height = max(1, self.camera.width // divisor), max(1, self.camera.height // divisor)
        photo = np.array(Image.fromarray(self.photo).resize((width, height), Image.Resampling.BOX))
        counted = self.counted
        if counted is not None:
            counted = (
                np.asarray(Image.fromarray(counted).convert("L").resize((width, height), Image.Resampling.BOX)) > 127
            )
        return View(self.name, self.camera.resized(width, height), photo, counted, self.cut_out)


class Photos:
    """The training views where training needs them: made once, as bytes on the device.

    What would take more than a share of the GPU's memory waits in the host's, pinned, whence it comes without a stop.

    :param room: bytes on the device that photos may take; all they need when not given, or that share.
    """

    def __init__(self, views: list[View], device: torch.device, room: float | None = None) -> None:
        self._views, self._device = views, device
        self._room = _room_for_photos(device) if room is None else room
        self._use(1)

    def _use(self, divisor: int) -> None:
        self._divisor, self._left = divisor, self._room
        self._ready: dict[int, tuple[Camera, Tensor, Tensor | None]] = {}

    def get(self, view: int, divisor: int) -> tuple[Camera, Tensor]:
        """Camera and photo, (H, W, 3) in 0 to 1 on the device, shrunk by a whole number."""
        camera, photo, _ = self._prepared(view, divisor)
        return camera, photo.to(self._device, non_blocking=True) / 255

    def counted(self, view: int, divisor: int) -> Tensor | None:
        """Where the photo counts, (H, W) bool on the device; None where it does as a whole."""
        counted = self._prepared(view, divisor)[2]
        return None if counted is None else counted.to(self._device, non_blocking=True)

    def _prepared(self, view: int, divisor: int) -> tuple[Camera, Tensor, Tensor | None]:
        if divisor != self._divisor:
            self._use(divisor)
        if view not in self._ready:
            shrunk = self._views[view].shrunk(divisor)
            counted = None if shrunk.counted is None else self._placed(torch.from_numpy(shrunk.counted))
            self._ready[view] = shrunk.camera, self._placed(torch.from_numpy(shrunk.photo)), counted
        return self._ready[view]

    def _placed(self, photo: Tensor) -> Tensor:
        if photo.nbytes <= self._left:
            self._left -= photo.nbytes
            return photo.to(self._device)
        return photo.pin_memory() if torch.cuda.is_available() else photo


def _room_for_photos(device: torch.device) -> float:
    return PHOTOS_SHARE * torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else float("inf")


@dataclass(frozen=True)
class Points:
    """SfM's points that at least two training views observe.

    :param xyz: (P, 3) float32.
    :param rgb: (P, 3) float32 in 0 to 1.
    :param seen_by: indices of the points that each training view observes.
    """

    xyz: NDArray[np.float32]
    rgb: NDArray[np.float32]
    seen_by: list[NDArray[np.int64]]

    def without(self, left_out: NDArray[np.bool_]) -> Points:
        """The others."""
        if not left_out.any():
            return self
        number = np.cumsum(~left_out) - 1
        return Points(
            self.xyz[~left_out], self.rgb[~left_out], [number[seen[~left_out[seen]]] for seen in self.seen_by]
        )


@dataclass(frozen=True)
class Scene:
    """All that training may look at, and the names of what it may not."""

    views: list[View]
    points: Points
    heldout: list[str]

    @property
    def extent(self) -> float:
        """The greatest distance of a camera from the cameras' centre: the length that learning rates refer to."""
        eyes = torch.stack([-view.camera.pose[:3, :3].T @ view.camera.pose[:3, 3] for view in self.views])
        return max(1e-3, 1.1 * float((eyes - eyes.mean(0)).norm(dim=1).max()))


def load_scene(folder: Path, long_side: int, holdout: int) -> Scene:
    """Read the files of an `sfm` artifact.

    :raises InvalidRequest: when no view is left to train on.
    """
    everything = json.loads((folder / "views.json").read_text())
    training, heldout = split_heldout(everything, holdout)
    if not training:
        raise InvalidRequest("No photo is left to train on.", hint="Hold out fewer photos, or none (train_holdout 0).")
    views = []
    for view in training:
        width, height = fitted_size(view["width"], view["height"], long_side)
        photo = load_photo(inside(folder / "images", view["name"]), width, height)
        counted = read_mask(folder, view, width, height)
        cut_out = view.get("masked") == "empty"
        views.append(View(view["name"], Camera.from_view(view, width, height), photo, counted, cut_out))
    kept = [everything.index(view) for view in training]
    points = _load_points(folder / "points.npz", kept)
    return Scene(views, points.without(_hidden(views, points.xyz)), [view["name"] for view in heldout])


def _hidden(views: list[View], xyz: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Points (P, 3) that lie where photos don't count, in most of the views that could see them."""
    sighted, hidden = np.zeros(len(xyz), int), np.zeros(len(xyz), int)
    for view in views if any(view.counted is not None for view in views) else ():
        pixels, _, seen = view.camera.project(xyz)
        sighted[seen] += 1
        if view.counted is not None:
            column, row = pixels.astype(int).T
            hidden[seen] += ~view.counted[row, column]
    return hidden > sighted / 2


def _load_points(path: Path, kept: list[int]) -> Points:
    with np.load(path) as data:
        xyz, rgb, view, point = data["xyz"], data["rgb"], data["view"], data["point"]
    observed = np.isin(view, kept)
    view, point = view[observed], point[observed]
    enough = np.bincount(point, minlength=len(xyz)) >= 2
    number = np.cumsum(enough) - 1
    seen_by = [np.unique(number[of[enough[of]]]) for of in (point[view == i] for i in kept)]
    return Points(xyz[enough].astype(np.float32), rgb[enough].astype(np.float32) / 255, seen_by)
