"""A small made-up scene: a coloured ball over a grey floor, cameras around it, and the artifacts of a run over it."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from e2e3d_stages.contract.messages import Input, Manifest, Program, StoredFile, Usage
from e2e3d_stages.registry import STAGES
from e2e3d_stages.runtime.context import InputArtifact
from e2e3d_stages.splats.gaussians import Gaussians


def look_at(position: list[float], target: list[float], name: str = "a.jpg", order: int = 0) -> dict[str, Any]:
    """An entry of `views.json`: a camera that looks at a point, its picture upright (up = -y)."""
    eye = np.array(position, float)
    z = np.array(target, float) - eye
    z /= np.linalg.norm(z)
    x = np.cross([0.0, 1.0, 0.0], z)
    x /= np.linalg.norm(x)
    rotation = np.stack([x, np.cross(z, x), z])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ eye
    size = {"width": 400, "height": 300, "fx": 350.0, "fy": 350.0, "cx": 200.0, "cy": 150.0}
    return {"name": name, "order": order, **size, "world_to_camera": pose.tolist()}


def ball_on_floor(count: int = 3000) -> Gaussians:
    """Opaque Gaussians: the ball's upper half red, its lower half blue; the floor grey; up = -y."""
    random = np.random.default_rng(0)
    ball = random.normal(size=(count, 3))
    ball /= np.linalg.norm(ball, axis=1, keepdims=True)
    floor = np.column_stack([random.uniform(-3, 3, count), np.full(count, 1.0), random.uniform(-3, 3, count)])
    shade = 0.6 + 0.4 * random.random((count, 1))
    red, blue = np.array([0.9, 0.2, 0.15]), np.array([0.15, 0.3, 0.9])
    colour = np.vstack([np.where(ball[:, 1:2] < 0, red, blue) * shade, np.array([0.5, 0.5, 0.45]) * shade])
    means = np.vstack([ball, floor]).astype(np.float32)
    return Gaussians(
        means=means,
        scales=np.full((2 * count, 3), np.log(0.05), np.float32),
        quats=np.tile(np.array([1, 0, 0, 0], np.float32), (2 * count, 1)),
        opacities=np.full(2 * count, 3.0, np.float32),
        sh=((colour - 0.5) / 0.28209479)[:, None].astype(np.float32),
    )


@pytest.fixture(scope="session")
def ball() -> Gaussians:
    """The made-up scene."""
    return ball_on_floor()


@pytest.fixture(scope="session")
def camera() -> Callable[..., dict[str, Any]]:
    """Makes entries of `views.json`: camera(position, target, name, order)."""
    return look_at


@pytest.fixture(scope="session")
def scene_sog(ball: Gaussians, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made-up scene as `compress` writes it."""
    from e2e3d_stages.splats import sog

    path = tmp_path_factory.mktemp("scene") / "scene.sog"
    sog.encode(ball, path)
    return path


METRICS: dict[str, dict[str, Any]] = {
    "ingest": {},
    "sfm": {"points": 40, "reprojection_error_px": 0.4},
    "train": {"iterations": 200, "gaussians": 6000},
    "compress": {"gaussians": 6000, "sog_bytes": 51_234, "ratio": 6.5},
    "evaluate": {
        "views": 1,
        "compression_loss_db": 0.02,
        **{"cc_ms_ssim": 0.983, "cc_flip": 0.071, "cc_psnr_worst": 31.02, "unseen": 0.0312},
        **{
            f"{kind}{metric}{suffix}{end}": value
            for suffix in ("", "_400", "_full")
            for kind, end in (("", ""), ("", "_compressed"), ("baseline_", ""))
            for metric, value in (("psnr", 31.66), ("ssim", 0.912), ("cc_psnr", 33.18), ("cc_ssim", 0.921))
        },
    },
}


@pytest.fixture
def run(tmp_path: Path, scene_sog: Path) -> SimpleNamespace:
    """What the stages before left: `run.inputs` by stage; `run.change(stage, **fields)` changes a manifest."""
    inputs: dict[str, InputArtifact] = {}
    moment = dt.datetime(2026, 11, 1, 12, 30, tzinfo=dt.timezone.utc)

    def change(stage: str, **fields: Any) -> None:
        inputs[stage] = replace(inputs[stage], manifest=inputs[stage].manifest.model_copy(update=fields))

    for number, (stage, metrics) in enumerate(METRICS.items()):
        folder = tmp_path / stage
        folder.mkdir()
        _WRITERS[stage](folder, scene_sog)
        usage = Usage(
            started=moment,
            finished=moment,
            wall_seconds=10.5 * number,
            stage_seconds=1,
            cpu_seconds=15,
            peak_memory_bytes=512_000_000,
        )
        paths = [path for path in folder.rglob("*") if path.is_file()]
        inputs[stage] = InputArtifact(
            folder,
            manifest=Manifest(
                stage=stage,
                stage_version=3,
                key=f"key-of-{stage}",
                attempt=1,
                params={"seed": 7},
                metrics=metrics,
                inputs={before: Input(key=f"key-of-{before}", digest=f"digest-of-{before}") for before in inputs},
                capture="s3://captures/yard" if stage == "ingest" else None,
                files=tuple(
                    StoredFile(path=path.relative_to(folder).as_posix(), size=path.stat().st_size, sha256="ab" * 32)
                    for path in paths
                ),
                usage=usage,
                program=Program(version="1.2", python="3.11", platform="Linux", libraries={"torch": "2.9"}),
            ),
            digest=f"digest-of-{stage}",
            spec=STAGES[stage],
        )
    return SimpleNamespace(inputs=inputs, change=change, views=_VIEWS)


@pytest.fixture
def mesh(run: SimpleNamespace, tmp_path: Path) -> None:
    """The run made a mesh, too."""
    folder = tmp_path / "mesh"
    folder.mkdir()
    (folder / "mesh.glb").write_bytes(b"triangles")
    Image.new("RGB", (64, 32)).save(folder / "mesh.jpg")
    metrics = {"triangles": 5120, "closed": False, "points_distance_share": 0.0012, "voxel_share": 0.0026}
    manifest = run.inputs["train"].manifest.model_copy(update={"stage": "mesh", "metrics": metrics, "files": ()})
    run.inputs["mesh"] = replace(run.inputs["train"], folder=folder, spec=STAGES["mesh"], manifest=manifest)


_VIEWS = [look_at([x, -1.5, -5], [0, 0, 0], f"{i}.jpg", i) for i, x in enumerate((-2.0, 0.0, 2.0))]
_PHOTOS = [{"name": view["name"], "source": f"DSC_{view['order']}.jpg"} for view in _VIEWS]


def _write_ingest(folder: Path, _: Path) -> None:
    (folder / "photos.json").write_text(json.dumps({"photos": _PHOTOS, "cameras": [], "dropped": []}))
    (folder / "images").mkdir()
    for view in _VIEWS:
        Image.new("RGB", (1200, 900), (10, 20, 30)).save(folder / "images" / view["name"])


def _write_sfm(folder: Path, _: Path) -> None:
    (folder / "views.json").write_text(json.dumps(_VIEWS))
    placed = [{**photo, "registered": True, "supported": True, "reason": None} for photo in _PHOTOS]
    (folder / "photos.json").write_text(json.dumps(placed))
    random = np.random.default_rng(0)
    np.savez(
        folder / "points.npz",
        xyz=random.normal(size=(40, 3)).astype(np.float32),
        rgb=random.integers(0, 255, (40, 3), dtype=np.uint8),
        error=np.full(40, 0.4, np.float32),
        view=np.zeros(40, np.int32),
        point=np.arange(40, dtype=np.int32),
    )


def _write_train(folder: Path, _: Path) -> None:
    curve = [
        {"step": step, "psnr_training": 20 + step / 20, "gaussians": 3000 + step, "loss": 0.1}
        for step in (50, 100, 150, 200)
    ]
    record = {"long_side": 400, "holdout": ["0.jpg"], "training": ["1.jpg", "2.jpg"], "curve": curve, "light": None}
    (folder / "training.json").write_text(json.dumps({**record, "resumed_from": None}))
    (folder / "scene.ply").write_bytes(b"p" * 300_000)


def _write_compress(folder: Path, scene_sog: Path) -> None:
    (folder / "scene.sog").write_bytes(scene_sog.read_bytes())


def _write_evaluate(folder: Path, _: Path) -> None:
    names = {kind: f"{kind}.jpg" for kind in ("photo", "render", "difference")}
    for name in [*names.values(), "thumbnail.jpg"]:
        Image.new("RGB", (32, 18), (90, 120, 60)).save(folder / name)
    figures = {"psnr": 31.66, "ssim": 0.912, "cc_psnr": 33.18, "cc_ssim": 0.921, "psnr_compressed": 31.64}
    figures |= {"cc_flip": 0.071, "unseen": 0.0312}
    view = {"name": "0.jpg", **figures, "pictures": names}
    opening = {"name": "1.jpg", "depth": 5.2}
    record = {"basis": "held-out", "long_side": 400, "opening_view": opening, "views": [view]}
    (folder / "evaluation.json").write_text(json.dumps(record))


_WRITERS = {
    "ingest": _write_ingest,
    "sfm": _write_sfm,
    "train": _write_train,
    "compress": _write_compress,
    "evaluate": _write_evaluate,
}
