"""Everything that a scene can be taken along as, made of whole captures and opened by programs that are not ours.

The sample, and each folder of photos below `E2E3D_CAPTURES`. Training is short: what is opened counts, not its looks.
"""

from __future__ import annotations

import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import laspy
import pycolmap
import pytest
import rasterio
import trimesh
import yaml
from pxr import Usd, UsdVol
from pygltflib import GLTF2

from e2e3d_stages.contract.spec import Deliverable
from e2e3d_stages.registry import STAGES
from e2e3d_stages.splats import splat_transform
from tests.airflow_runs import run_dag
from tests.browser import chromium, colours, pixels
from tests.conftest import ROOT
from tests.web import served

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7200)]

MORE = Path(os.environ.get("E2E3D_CAPTURES", ROOT / "none"))
CAPTURES = [ROOT / "sample" / "caliterra", *sorted(path for path in MORE.glob("*") if path.is_dir())]
ALL = {
    "preset": "draft",
    "train_iterations": 400,
    "compress_stream_above": 4000,
    "mesh_voxels": 192,
    "mesh_obj": True,
    "render_film": True,
    "render_orthophoto": True,
    **{f"export_{name}": True for name in ("points", "gltf", "usd", "colmap", "tiles")},
}
NEED_GPS = {"points.laz", "orthophoto.tif", "tiles/", "georef.json"}
# Not of these captures, or asked for otherwise.
OTHERS = {"cropped.ply", "masks/"}


def gaussians(path: Path, scratch: Path) -> int:
    """By splat-transform."""
    splat_transform.convert(path, scratch / "read.ply")
    header = (scratch / "read.ply").read_bytes()[:2000].split(b"end_header")[0].decode()
    return int(header.split("element vertex ")[1].split()[0])


def triangles(path: Path, _: Path) -> int:
    """By trimesh."""
    mesh: Any = trimesh.load(path, force="mesh", process=False)
    return len(mesh.faces)


def points(path: Path, _: Path) -> int:
    """By trimesh."""
    cloud: Any = trimesh.load(path)
    return len(cloud.vertices)


def frames(path: Path, _: Path) -> int:
    """By FFmpeg's libraries."""
    with av.open(path) as film:
        return sum(1 for _ in film.decode(video=0))


def seen_pixels(path: Path, _: Path) -> int:
    """By GDAL, with coordinates."""
    with rasterio.open(path) as photo:
        assert photo.crs.is_projected
        return int((photo.read(4) > 0).sum())


def usd(path: Path, _: Path) -> int:
    """By OpenUSD."""
    opened = Usd.Stage.Open(str(path))
    prim = opened.GetPrimAtPath("/scene/gaussians")
    return len(UsdVol.ParticleField3DGaussianSplat(prim).GetPrim().GetAttribute("positions").Get())


def gltf(path: Path, _: Path) -> int:
    """By pygltflib."""
    file = GLTF2().load(path)
    return int(file.accessors[file.meshes[0].primitives[0].attributes.POSITION].count)


def placed_photos(path: Path, scratch: Path) -> int:
    """By COLMAP."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(scratch / "colmap")
    return pycolmap.Reconstruction(scratch / "colmap" / "sparse" / "0").num_reg_images()


READERS: dict[str, Callable[[Path, Path], int]] = {
    "scene.ply": gaussians,
    "scene.sog": gaussians,
    "scene.spz": gaussians,
    "mesh.glb": triangles,
    "mesh.ply": triangles,
    "mesh.obj": triangles,
    "flight.mp4": frames,
    "orthophoto.tif": seen_pixels,
    "points.ply": points,
    "points.laz": lambda path, _: len(laspy.read(path).points),
    "scene.glb": gltf,
    "scene.usdc": usd,
    "tiles/scene.glb": gltf,
    "colmap.zip": placed_photos,
}


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.name)
def test_every_deliverable_is_opened_by_a_program_that_is_not_ours(
    airflow_home: Path,
    capture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    profile = {"local": {"store": (tmp_path / "store").as_uri(), "captures": [capture.parent.as_uri()]}}
    (tmp_path / "profiles.yaml").write_text(yaml.safe_dump(profile))
    monkeypatch.setenv("AIRFLOW__E2E3D__PROFILES_FILE", str(tmp_path / "profiles.yaml"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    outcome = run_dag("reconstruct", {"capture": str(capture), **ALL}, capfd)
    assert outcome.state == "success", outcome.log[-5000:]
    (latest,) = (tmp_path / "store" / "scenes").glob("*/latest.json")
    record = json.loads(latest.read_text())
    folder = latest.parent / record["run"]
    has_gps = (folder / "georef.json").is_file()

    there = {each.path for each in _declared() if (folder / each.path).exists()}
    expected = {each.path for each in _declared()} - OTHERS - (set() if has_gps else NEED_GPS)
    assert there - OTHERS == expected
    told = {}
    for name, reader in READERS.items():
        if (folder / name).is_file():
            told[name] = ((folder / name).stat().st_size, reader(folder / name, tmp_path))
            assert told[name][1] > 0, name
    seconds = {stage: each["seconds"] for stage, each in record["stages"].items()}
    with capfd.disabled():
        print(f"\n{capture.name}: GPS {has_gps}, {json.dumps(record['metrics'])}")
        print(f"  seconds {seconds}\n  {told}")
    assert len({told[name][1] for name in ("scene.ply", "scene.sog", "scene.spz", "scene.glb", "scene.usdc")}) == 1
    with served(folder) as address, chromium() as browser:
        for page in ("index.html", "streamed.html", "mesh.html"):
            tab = browser.new_page(viewport={"width": 640, "height": 480})
            complaints: list[str] = []
            tab.on("pageerror", lambda error, into=complaints: into.append(str(error)))
            tab.goto(f"{address}/{page}?noanim")
            for _ in range(120):
                tab.wait_for_timeout(1000)
                if (shown := colours(pixels(tab))) > 2000:
                    break
            assert (complaints, shown > 2000) == ([], True), page
            tab.close()


def _declared() -> list[Deliverable]:
    return [each for spec in STAGES.values() for each in spec.deliverables]
