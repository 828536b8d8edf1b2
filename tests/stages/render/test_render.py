"""The film flies where the photos were taken, and everything on the map is where it is on the ground."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import rasterio
from PIL import Image
from pyproj import Transformer

from e2e3d_stages.contract.messages import StageError
from e2e3d_stages.render import flight, orthophoto, stage
from e2e3d_stages.render.flight import FRAMES_PER_SECOND, HEIGHT, SECONDS, WIDTH, path_through
from e2e3d_stages.render.params import PRESETS, Params
from e2e3d_stages.splats.gaussians import Gaussians, write_ply

# The scene's x points east, its y down and its z north; its origin lies 40 m above that of GPS.
GEOREF = {
    "scene_to_enu": [[1, 0, 0, 300.0], [0, 0, 1, -200.0], [0, -1, 0, 40.0], [0, 0, 0, 1]],
    "origin": {"lat": 48.26, "lon": 8.0, "alt": 480.0},
}
# At the ends of a field of 40 by 30 m, and on a tower of 6 m in it.
MARKS = np.array([[-18.0, 0, -13], [18, 0, 13], [-18, 0, 13], [10, -6, 0]])


def field() -> Gaussians:
    """A grey field with four red marks, one of them on a tower."""
    east, north = np.meshgrid(np.linspace(-20, 20, 81), np.linspace(-15, 15, 61))
    ground = np.stack([east.ravel(), np.full(east.size, 0.05), north.ravel()], 1)
    means = np.concatenate([ground, MARKS]).astype(np.float32)
    grey, red = np.tile([0.4, 0.4, 0.4], (len(ground), 1)), np.tile([0.9, 0.1, 0.1], (len(MARKS), 1))
    scales = np.log([[0.4, 0.01, 0.4]] * len(ground) + [[0.15, 0.01, 0.15]] * len(MARKS))
    return Gaussians(
        means=means,
        scales=scales.astype(np.float32),
        quats=np.tile(np.array([1, 0, 0, 0], np.float32), (len(means), 1)),
        opacities=np.full(len(means), 6, np.float32),
        sh=((np.concatenate([grey, red]) - 0.5) / 0.28209479).astype(np.float32)[:, None],
    )


def flown(count: int = 6) -> list[dict[str, Any]]:
    """Photos from 30 m above, on a line from west to east."""
    views = []
    for number, east in enumerate(np.linspace(-12, 12, count)):
        pose = np.eye(4)
        # Looks down with north up: right is x, down is -z, forward is y.
        pose[:3, :3] = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]
        pose[:3, 3] = -pose[:3, :3] @ [east, -30, 0]
        size = {"width": 400, "height": 300, "fx": 300.0, "fy": 300.0, "cx": 200.0, "cy": 150.0}
        views.append({"name": f"{number}.jpg", "order": number, **size, "world_to_camera": pose.tolist()})
    return views


def rendered(tmp_path: Path, *, georef: dict[str, Any] | None = GEOREF, views: Any = None, **asked: bool) -> Any:
    """The stage's metrics, its folder, its warnings, and how far it said it was."""
    sfm, train, output = (tmp_path / name for name in ("sfm", "train", "output"))
    for folder in (sfm, train, output):
        folder.mkdir()
    scene = field()
    (sfm / "views.json").write_text(json.dumps(flown() if views is None else views))
    np.savez(sfm / "points.npz", xyz=scene.means[::3])
    if georef:
        (sfm / "georef.json").write_text(json.dumps(georef))
    write_ply(train / "scene.ply", scene)
    warned: list[str] = []
    told: list[tuple[int, int, str]] = []
    context = SimpleNamespace(
        params=Params(**asked),
        threads=2,
        inputs={"sfm": SimpleNamespace(folder=sfm), "train": SimpleNamespace(folder=train)},
        output=output,
        check_stop=lambda: None,
        progress=lambda done, total, _unit, phase="": told.append((done, total, phase)),
        warn=lambda code, *_: warned.append(code),
    )
    return SimpleNamespace(metrics=stage.run(context), folder=output, warned=warned, told=told)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A film of one second, and small."""
    for name, value in {"SECONDS": 1, "WIDTH": 320, "HEIGHT": 180}.items():
        monkeypatch.setattr(flight, name, value)


def test_the_map_shows_everything_within_a_pixel_of_its_coordinates(tmp_path: Path) -> None:
    found = rendered(tmp_path, orthophoto=True)
    with rasterio.open(found.folder / "orthophoto.tif") as file:
        assert file.crs.to_epsg() == 32632
        red, green, _, alpha = file.read()
        pixel, back = file.res[0], ~file.transform
    assert pixel == pytest.approx(30 / 300, rel=0.02)
    assert found.metrics["ground_pixel"] == pytest.approx(pixel, abs=1e-4)
    # Metres east and north become coordinates on the way that a surveyor would take.
    enu = MARKS @ np.array(GEOREF["scene_to_enu"])[:3, :3].T + [300.0, -200.0, 40.0]
    way = Transformer.from_pipeline(
        "+proj=pipeline +step +inv +proj=topocentric +ellps=WGS84 +lat_0=48.26 +lon_0=8.0 +h_0=480 "
        "+step +inv +proj=cart +ellps=WGS84"
    )
    lon, lat, _ = way.transform(*enu.T)
    to_map = Transformer.from_crs("EPSG:4326", "EPSG:32632", always_xy=True)
    for east, north in zip(*to_map.transform(lon, lat), strict=True):
        column, row = back * (east, north)
        rows, columns = np.nonzero(
            (red.astype(int) - green > 60)
            & (np.hypot(*np.indices(red.shape)[::-1] - np.array([column, row])[:, None, None]) < 12)
        )
        assert np.hypot(columns.mean() + 0.5 - column, rows.mean() + 0.5 - row) < 1
    assert (alpha[alpha.shape[0] // 2, alpha.shape[1] // 4 :][: alpha.shape[1] // 2] > 250).all()


def test_a_map_of_many_tiles_is_that_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    one = rendered(tmp_path / "one", orthophoto=True)
    monkeypatch.setattr(orthophoto, "TILE", 128)
    many = rendered(tmp_path / "many", orthophoto=True)
    assert len(many.told) > 4
    with rasterio.open(one.folder / "orthophoto.tif") as a, rasterio.open(many.folder / "orthophoto.tif") as b:
        assert np.abs(a.read().astype(int) - b.read()).max() <= 2


def test_without_gps_there_is_no_map_and_a_word_why(tmp_path: Path) -> None:
    found = rendered(tmp_path, georef=None, orthophoto=True)
    assert found.warned == ["no_orthophoto"]
    assert not list(found.folder.iterdir())


def test_the_film_is_as_long_and_as_large_as_it_is_told_to_be(tmp_path: Path, short: None) -> None:
    found = rendered(tmp_path, film=True)
    with av.open(str(found.folder / "flight.mp4")) as film:
        stream = film.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(stream)]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 320, 180)
        assert float(stream.average_rate) == FRAMES_PER_SECOND
    assert len(frames) == found.metrics["frames"] == FRAMES_PER_SECOND
    assert 80 < np.median(frames[0]) < 120
    assert Image.open(found.folder / "flight.jpg").size == (320, 180)
    done = [step for step, _, _ in found.told]
    assert done == sorted(done)


def eyes(cameras: list[Any]) -> np.ndarray:
    poses = np.array([camera.pose.numpy() for camera in cameras])
    return -np.einsum("nji,nj->ni", poses[:, :3, :3], poses[:, :3, 3])


def test_the_flight_goes_through_the_places_of_the_photos_and_looks_at_the_scene() -> None:
    cameras = path_through(flown(), field().means)
    assert len(cameras) == SECONDS * FRAMES_PER_SECOND
    places = eyes(cameras)
    assert np.abs(places[:, [1, 2]] - [-30, 0]).max() < 0.1
    assert places[0, 0] < -9
    assert places[-1, 0] > 9
    assert (np.diff(places[:, 0]) >= -1e-4).all()
    for camera in cameras[:: len(cameras) // 8]:
        pixels, _, _ = camera.project(np.array([[*eyes([camera])[0, :1], 0.05, 0.0]], np.float32))
        assert np.abs(pixels[0] - [WIDTH / 2, HEIGHT / 2]).max() < 30


def test_the_flight_is_smooth_and_starts_and_ends_slowly() -> None:
    places = eyes(path_through(flown(), field().means))
    speed = np.linalg.norm(np.diff(places, axis=0), axis=1)
    assert speed[0] < 0.2 * speed.max()
    assert speed[-1] < 0.2 * speed.max()
    assert np.abs(np.diff(speed)).max() < 0.1 * speed.max()


def test_photos_in_no_order_make_the_same_kind_of_flight() -> None:
    views = [flown()[i] for i in (0, 3, 1, 5, 2, 4)]
    assert (np.diff(eyes(path_through(views, field().means))[:, 0]) >= -1e-4).all()


@pytest.mark.parametrize("count", [1, 2])
def test_few_photos_make_a_short_flight(count: int) -> None:
    cameras = path_through(flown(6)[:count], field().means)
    assert np.isfinite(eyes(cameras)).all()
    assert len(cameras) == SECONDS * FRAMES_PER_SECOND


def test_without_a_known_camera_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no photo with a known camera"):
        rendered(tmp_path, views=[], film=True)


@pytest.mark.parametrize("asked", [*Params.model_fields])
def test_each_switch_alone_is_enough_to_want_the_stage(asked: str) -> None:
    assert Params(**{asked: True}).wanted
    assert not any(Params(**preset).wanted for preset in PRESETS.values())
