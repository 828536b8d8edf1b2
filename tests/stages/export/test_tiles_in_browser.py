"""The 3D Tiles in CesiumJS, a globe that is not ours, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2e3d_stages.export.tiles import write_tiles
from e2e3d_stages.splats.gaussians import Gaussians
from e2e3d_stages.splats.georeference import Georeference
from tests.browser import chromium, needed, pixels
from tests.web import served

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CESIUM = Path(__file__).parents[2] / "javascript" / "node_modules" / "cesium" / "Build" / "Cesium"
SECONDS = 90
# Where the ball lies: 12 m east, 7 m south and 3 m above a field north of Munich.
GEOREF = {
    "scene_to_enu": [[1, 0, 0, 12.0], [0, 0, 1, -7.0], [0, -1, 0, 3.0], [0, 0, 0, 1]],
    "origin": {"lat": 48.26, "lon": 11.67, "alt": 480.0},
}
RED, YELLOW, BLUE, GREEN = (0.9, 0.15, 0.1), (0.9, 0.8, 0.1), (0.1, 0.3, 0.9), (0.1, 0.7, 0.2)
# A globe without its globe, that looks to the north from six metres south of the ball and one above it.
PAGE = """<!doctype html><link rel="icon" href="data:,"><style>canvas { width: 640px; height: 480px }</style>
<div id="globe"></div><script>window.CESIUM_BASE_URL = "cesium/";</script><script src="cesium/Cesium.js"></script>
<script type="module">
  const { CesiumWidget, Cesium3DTileset, Cartesian3, Color, Matrix4, Transforms } = Cesium;
  const nothing = { baseLayer: false, globe: false, skyBox: false, skyAtmosphere: false };
  const { scene, camera } = new CesiumWidget("globe", nothing);
  scene.backgroundColor = Color.BLACK;
  scene.primitives.add(await Cesium3DTileset.fromUrl("tiles/tileset.json"));
  const field = Transforms.eastNorthUpToFixedFrame(Cartesian3.fromDegrees(11.67, 48.26, 480));
  const ball = Matrix4.multiplyByTranslation(field, new Cartesian3(12, -7, 3), new Matrix4());
  camera.lookAtTransform(ball, new Cartesian3(0, -6, 1));
</script>"""


def painted_ball(count: int = 8000) -> Gaussians:
    """A ball of radius 1: red up west, yellow up east, blue below, green on its north side; y is down and z north."""
    means = np.random.default_rng(0).normal(size=(count, 3))
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    x, y, z = means.T
    colours = np.array([RED, YELLOW, BLUE, GREEN])[np.select([z > 0.3, y > 0, x < 0], [3, 2, 0], 1)]
    harmonics = np.zeros((count, 4, 3), np.float32)
    harmonics[:, 0] = (colours - 0.5) / 0.28209479
    return Gaussians(
        means=means.astype(np.float32),
        scales=np.full((count, 3), np.log(0.04), np.float32),
        quats=np.tile(np.array([1, 0, 0, 0], np.float32), (count, 1)),
        opacities=np.full(count, 5.0, np.float32),
        sh=harmonics,
    )


@pytest.fixture
def globe(tmp_path: Path) -> Iterator[Any]:
    """A tab with the ball's tileset on a globe; what its page complains of is in `globe.complaints`."""
    needed(CESIUM.is_dir(), "CesiumJS (npm ci --prefix tests/javascript --ignore-scripts)")
    folder = tmp_path / "web"
    folder.mkdir()
    write_tiles(folder / "tiles", painted_ball(), Georeference(GEOREF), tmp_path)
    (folder / "index.html").write_text(PAGE)
    (folder / "cesium").symlink_to(CESIUM)
    with served(folder) as address, chromium() as browser:
        tab = browser.new_page(viewport={"width": 640, "height": 480})
        tab.complaints = []
        tab.on("console", lambda told: told.type == "error" and tab.complaints.append(told.text))
        tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
        tab.goto(f"{address}/index.html")
        yield tab


def covered(shown: np.ndarray, colour: tuple[float, ...]) -> np.ndarray:
    """Where a picture has nearly a colour."""
    return np.abs(shown - 255 * np.array(colour)).max(axis=2) < 40


def test_cesiumjs_shows_the_scene_where_it_lies_upright_and_not_mirrored(globe: Any) -> None:
    for _ in range(SECONDS):
        globe.wait_for_timeout(1000)
        shown = pixels(globe)
        if covered(shown, RED).sum() > 500:
            break
    up_west, up_east, down = (covered(shown, colour) for colour in (RED, YELLOW, BLUE))
    assert globe.complaints == []
    assert min(up_west.sum(), up_east.sum(), down.sum()) > 500, "the south side is not to be seen"
    assert covered(shown, GREEN).sum() < 50, "the north side is to be seen from the south"
    ball = up_west | up_east | down
    # CesiumJS sees 60 degrees over the longer side.
    focal = 320 / np.tan(np.radians(30))
    rows, columns = np.nonzero(ball)
    assert (columns.mean(), rows.mean()) == pytest.approx((320, 240), abs=12), "it lies elsewhere"
    assert np.ptp(columns) == pytest.approx(2 * focal / np.hypot(6, 1), rel=0.1), "it is of another size"
    assert np.nonzero(up_west)[0].mean() < np.nonzero(down)[0].mean() - 40, "it stands on its head"
    assert np.nonzero(up_west)[1].mean() < np.nonzero(up_east)[1].mean() - 40, "it is mirrored"
