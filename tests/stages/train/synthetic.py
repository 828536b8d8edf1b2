"""A small scene whose every Gaussian is known, photographed by the reference rasteriser, as an `sfm` artifact."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import reference
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from e2e3d_stages.contract.messages import Interrupted
from e2e3d_stages.splats.camera import Camera
from e2e3d_stages.splats.params import RenderParams
from e2e3d_stages.splats.rendering import Splats
from e2e3d_stages.train.params import Params

WIDTH, HEIGHT = 64, 48


def random_gaussians(count: int, sh_degree: int, size: float, seed: int = 0) -> list[Tensor]:
    """Means, quaternions, scales, opacities and harmonics of Gaussians in front of a camera at the origin."""
    rng = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=rng)

    return [
        torch.stack([uniform(count) * 4 - 2, uniform(count) * 3 - 1.5, uniform(count) * 4 + 2], -1),
        torch.randn(count, 4, generator=rng),
        torch.exp(torch.randn(count, 3, generator=rng) * 0.5) * size,
        uniform(count) * 0.9 + 0.05,
        torch.randn(count, (sh_degree + 1) ** 2, 3, generator=rng) * 0.3,
    ]


def random_camera(width: int, height: int) -> Camera:
    """A camera near the origin, slightly turned."""
    pose = torch.eye(4)
    pose[:3, :3] = reference.rotations(torch.tensor([[1, 0.05, 0.1, 0.02]]))[0]
    return Camera(pose, (width * 0.8, width * 0.8), (width / 2, height / 2), width, height)


def write_sfm(folder: Path, *, views: int = 9, points_in: str = "everywhere", long_side: int = WIDTH) -> Path:
    """Photos from a row of cameras and the Gaussians' centres as points.

    :param points_in: "everywhere", or "left": only the scene's left half has points.
    """
    gaussians = random_gaussians(300, 0, 0.12)
    gaussians[0][:, 2] = gaussians[0][:, 2] * 0.1 + 3
    (folder / "images").mkdir(parents=True)
    width, height = long_side, long_side * HEIGHT // WIDTH
    focal = 0.9 * width
    entries, seen_view, seen_point = [], [], []
    xyz = gaussians[0].numpy()
    if points_in == "left":
        xyz = xyz[xyz[:, 0] < 0]
    for i in range(views):
        pose = torch.eye(4)
        pose[0, 3] = 0.8 - 1.6 * i / max(views - 1, 1)
        camera = Camera(pose, (focal, focal), (width / 2, height / 2), width, height)
        with torch.no_grad():
            photo = reference.render(Splats(*gaussians), camera, RenderParams(sh_degree=0), torch.zeros(3))
        name = f"photo_{i:02d}.png"
        Image.fromarray((photo.clamp(0, 1) * 255).round().byte().numpy()).save(folder / "images" / name)
        entries.append(
            {
                "name": name,
                "order": i,
                "width": width,
                "height": height,
                "fx": focal,
                "fy": focal,
                "cx": width / 2,
                "cy": height / 2,
                "world_to_camera": pose.tolist(),
            }
        )
        local = xyz + pose[:3, 3].numpy()
        pixel = local[:, :2] / local[:, 2:] * focal + (width / 2, height / 2)
        inside = np.nonzero(((pixel >= 0) & (pixel < (width, height))).all(1))[0]
        seen_view += [i] * len(inside)
        seen_point += inside.tolist()
    (folder / "views.json").write_text(json.dumps(entries))
    np.savez(
        folder / "points.npz",
        xyz=xyz.astype(np.float32),
        rgb=np.full((len(xyz), 3), 128, np.uint8),
        error=np.zeros(len(xyz), np.float32),
        view=np.array(seen_view, np.int32),
        point=np.array(seen_point, np.int32),
    )
    return folder


def before_noise(sfm: Path, folder: Path, *, hides: str | None) -> Path:
    """A disc cut out of the scene, before another noise in each photo.

    :param hides: what masks say of the noise, `empty` or `unknown`; None for no masks.
    """
    shutil.copytree(sfm, folder)
    views = json.loads((folder / "views.json").read_text())
    (folder / "masks").mkdir()
    for number, view in enumerate(views):
        with Image.open(folder / "images" / view["name"]) as photo:
            pixels = np.array(photo)
        noise = np.random.default_rng(number).integers(60, 255, pixels.shape, np.uint8)
        kept = disc(view)
        Image.fromarray(np.where(kept[..., None], pixels, noise)).save(folder / "images" / view["name"])
        if hides:
            Image.fromarray(kept).save(folder / "masks" / f"{view['name']}.png")
            view["masked"] = hides
    (folder / "views.json").write_text(json.dumps(views))
    return folder


def disc(view: dict[str, Any]) -> NDArray[np.bool_]:
    """Where a view of the small scene shows what is around the scene's middle."""
    row, column = np.indices((view["height"], view["width"]))
    x = view["cx"] + view["fx"] * view["world_to_camera"][0][3] / 3.3
    return np.asarray(np.hypot(column + 0.5 - x, row + 0.5 - view["cy"]) < view["fx"] * 0.6 / 3.3)


class FakeJob:
    """What the runtime gives a stage, with checkpoints kept in a folder."""

    def __init__(self, sfm: Path, folder: Path, **params: Any) -> None:
        quick = {"iterations": 30, "max_gaussians": 600, "sh_degree": 0, "long_side": 64, "holdout": 0}
        self.params = Params(**{**quick, **params})
        self.inputs = {"sfm": SimpleNamespace(folder=sfm)}
        self.output, self.checkpoints = folder / "output", folder / "checkpoints"
        self.output.mkdir(parents=True, exist_ok=True)
        self.threads = 2
        self.stop_at: int | None = None
        self.done = 0.0
        self.gaussians: list[float] = []
        self.shown: list[tuple[str, bytes]] = []
        self.warnings: list[str] = []

    @property
    def stopping(self) -> bool:
        return self.stop_at is not None and self.done >= self.stop_at

    def check_stop(self) -> None:
        if self.stopping:
            raise Interrupted("stopped")

    def warn(self, code: str, message: str, advice: str) -> None:
        assert message
        assert advice
        self.warnings.append(code)

    def show(self, name: str, data: bytes) -> None:
        self.shown.append((name, data))

    def progress(self, done: float, total: float, unit: str, phase: str = "", **figures: float) -> None:
        if phase:
            return
        self.done = done
        self.gaussians.append(figures["gaussians"])

    @contextmanager
    def checkpoint(self, step: int) -> Iterator[Path]:
        folder = self.checkpoints / f"{step:06d}"
        folder.mkdir(parents=True)
        yield folder

    def latest_checkpoint(self) -> tuple[int, Path] | None:
        folders = sorted(self.checkpoints.glob("*"))
        return (int(folders[-1].name), folders[-1]) if folders else None

    @property
    def record(self) -> dict[str, Any]:
        """What the stage wrote to `training.json`."""
        record: dict[str, Any] = json.loads((self.output / "training.json").read_text())
        return record
