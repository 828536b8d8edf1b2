"""The sample's `sfm` artifact without structure from motion: poses and points travel here, photos come from `sample/`.

    python bench/prepared.py

makes `bench/caliterra/` anew, by the product's own `ingest` and `sfm` at preset `standard`; it needs pycolmap.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "sample" / "caliterra" / "images"
PREPARED = Path(__file__).resolve().parent / "caliterra"
JPEG_QUALITY = 95  # as `sfm` writes them


def write_artifact(folder: Path) -> Path:
    """Lay out what `train` reads of an `sfm` artifact: `images/`, `views.json` and `points.npz`."""
    (folder / "images").mkdir(parents=True)
    for name in ("views.json", "points.npz"):
        shutil.copy(PREPARED / name, folder)
    lens = json.loads((PREPARED / "lens.json").read_text())
    for view in json.loads((PREPARED / "views.json").read_text()):
        with Image.open(SAMPLE / view["name"].partition("_")[2]) as photo:
            picture = bilinear(np.asarray(photo.convert("RGB")), *sources(view, lens))
        Image.fromarray(picture).save(folder / "images" / view["name"], quality=JPEG_QUALITY)
    return folder


def sources(view: dict[str, Any], lens: dict[str, float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where in the photo COLMAP's SIMPLE_RADIAL lens put what each pixel of the view's pinhole camera sees, in px."""
    across, down = np.meshgrid(np.arange(view["width"]) + 0.5, np.arange(view["height"]) + 0.5)
    x, y = (across - view["cx"]) / view["fx"], (down - view["cy"]) / view["fy"]
    stretch = lens["f"] * (1 + lens["k"] * (x * x + y * y))
    return x * stretch + lens["cx"], y * stretch + lens["cy"]


def bilinear(photo: NDArray[np.uint8], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The photo's colours at places between its pixels' centres."""
    height, width, _ = photo.shape
    x, y = x - 0.5, y - 0.5
    left, top = np.clip(np.floor(x).astype(int), 0, width - 2), np.clip(np.floor(y).astype(int), 0, height - 2)
    right, low = np.clip(x - left, 0, 1)[..., None], np.clip(y - top, 0, 1)[..., None]
    above = photo[top, left] * (1 - right) + photo[top, left + 1] * right
    below = photo[top + 1, left] * (1 - right) + photo[top + 1, left + 1] * right
    picture: NDArray[np.uint8] = np.round(above * (1 - low) + below * low).astype(np.uint8)
    return picture


def make() -> None:
    """Run `ingest` and `sfm` on the sample and keep what is small."""
    import pycolmap

    from e2e3d_stages.registry import STAGES
    from e2e3d_stages.sfm import reconstruct
    from e2e3d_stages.sfm.params import Params
    from sfm import prepare

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ingested = prepare(SAMPLE, "standard", folder / "ingest")
        for made in ("output", "scratch"):
            (folder / made).mkdir()
        reconstruct.find_scene(
            reconstruct.Task(
                images=ingested / "images",
                photos=json.loads((ingested / "photos.json").read_text())["photos"],
                params=Params.model_validate(STAGES["sfm"].resolve("standard", {}).model_dump()),
                threads=2,
                output=folder / "output",
                scratch=folder / "scratch",
            )
        )
        keep(folder / "output", pycolmap.Reconstruction(folder / "scratch" / "distorted"))


def keep(output: Path, model: Any) -> None:
    """Copy poses and points, and the one camera's lens."""
    PREPARED.mkdir(exist_ok=True)
    (camera,) = model.cameras.values()
    f, cx, cy, k = camera.params
    assert camera.model.name == "SIMPLE_RADIAL"
    (PREPARED / "lens.json").write_text(json.dumps({"f": f, "cx": cx, "cy": cy, "k": k}) + "\n")
    for name in ("views.json", "points.npz"):
        shutil.copy(output / name, PREPARED)


if __name__ == "__main__":
    make()
