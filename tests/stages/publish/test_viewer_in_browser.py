"""The viewer page in a real browser, opened from a file as a person does."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from e2e3d_stages.compress.streaming import write_levels
from e2e3d_stages.mesh.surface import Surface, write_glb
from e2e3d_stages.publish import fetch_viewer
from e2e3d_stages.publish.viewer_page import mesh_page, streamed_page, viewer_page, viewer_settings
from e2e3d_stages.splats import sog
from e2e3d_stages.splats.gaussians import Gaussians
from e2e3d_stages.splats.streamed import level_in_one_file
from tests.browser import chromium, colours, needed, pixels
from tests.web import served

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SIZE = {"width": 640, "height": 480}
SECONDS = 90


@pytest.fixture
def page() -> Iterator[Any]:
    """A tab that records every address it asks for in `page.asked`."""
    needed(fetch_viewer.is_there(), "the viewer (python -m e2e3d_stages.publish.fetch_viewer)")
    with chromium() as browser:
        tab = browser.new_page(viewport=SIZE)
        tab.asked = []
        tab.on("request", lambda request: tab.asked.append(request.url))
        yield tab


def settled(page: Any, ready: Callable[[np.ndarray], bool]) -> np.ndarray:
    """The first picture that `ready` accepts and that no longer changes, or the last one when the time is up."""
    shown = pixels(page)
    for _ in range(SECONDS):
        page.wait_for_timeout(1000)
        before, shown = shown, pixels(page)
        if ready(shown) and np.abs(shown - before).mean() < 0.2:
            break
    return shown


def red_and_blue(shown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the ball's upper and lower halves are."""
    red, green, blue = shown[..., 0], shown[..., 1], shown[..., 2]
    return (red > blue + 60) & (red > green + 60), (blue > red + 60) & (blue > green + 30)


def test_the_scene_is_seen_upright_and_turns_without_asking_the_network(
    page: Any, camera: Callable[..., dict[str, Any]], scene_sog: Path, tmp_path: Path
) -> None:
    settings = viewer_settings(camera([0, -1.5, -5], [0, 0, 0]), depth=5)
    (tmp_path / "index.html").write_text(viewer_page("Ball", scene_sog.read_bytes(), settings), encoding="utf-8")
    # Whoever sends a link may not put another scene into the page.
    others = "content=http://127.0.0.1:9/other.sog&settings=http://127.0.0.1:9/settings.json"
    page.goto((tmp_path / "index.html").as_uri() + f"?noanim&{others}")

    shown = settled(page, lambda seen: all(half.sum() > 500 for half in red_and_blue(seen)))
    red, blue = red_and_blue(shown)
    assert red.sum() > 2000, "the ball's upper half is not to be seen"
    assert blue.sum() > 500, "the ball's lower half is not to be seen"
    assert np.nonzero(red)[0].mean() < np.nonzero(blue)[0].mean() - 20, "the scene stands on its head"
    assert colours(shown) > 500

    page.mouse.move(320, 200)
    page.mouse.down()
    page.mouse.move(320, 330, steps=8)
    page.mouse.up()
    turned = settled(page, lambda seen: bool(np.abs(seen - shown).mean() > 3))
    assert np.abs(turned - shown).mean() > 3, "dragging does not turn the scene"

    assert {url.split(":")[0] for url in page.asked} <= {"file", "data", "blob"}
    assert [url for url in page.asked if url.startswith("file:")] == [page.url]


def test_a_mesh_is_seen_where_the_scene_is_from_the_right_side_and_may_be_turned(
    page: Any, camera: Callable[..., dict[str, Any]], scene_sog: Path, tmp_path: Path
) -> None:
    settings = viewer_settings(camera([0, -1.5, -5], [0, 0, 0]), depth=5)
    text = mesh_page("Ball", scene_sog.read_bytes(), painted_ball(tmp_path), settings)
    (tmp_path / "mesh.html").write_text(text, encoding="utf-8")
    page.goto((tmp_path / "mesh.html").as_uri() + "?noanim")

    shown = settled(page, lambda seen: covered(seen, YELLOW).sum() > 500)
    up_left, up_right, down = (covered(shown, colour) for colour in (RED, YELLOW, BLUE))
    assert min(up_left.sum(), up_right.sum(), down.sum()) > 500, "the near side is not to be seen"
    assert not covered(shown, GREEN).any(), "the far side is to be seen"
    assert np.nonzero(up_left)[0].mean() < np.nonzero(down)[0].mean() - 20, "the mesh stands on its head"
    assert np.nonzero(up_left)[1].mean() < np.nonzero(up_right)[1].mean() - 20, "the mesh is mirrored"

    page.get_by_label("Its form").check()
    form = settled(page, lambda seen: not covered(seen, RED).any())
    grey = form[up_left | up_right | down]
    assert np.ptp(grey, axis=1).max() < 30, "form has a colour"
    assert np.ptp(grey.mean(axis=1)) > 40, "form has no shade"

    page.get_by_label("Scene").check()
    scene = settled(page, shows_the_ball)
    red, blue = red_and_blue(scene)
    assert (red & (up_left | up_right)).sum() > 0.8 * (up_left | up_right).sum(), "the scene lies elsewhere"
    assert (blue & down).sum() > 0.8 * down.sum(), "the scene lies elsewhere"

    page.get_by_label("Mesh").check()
    settled(page, lambda seen: covered(seen, YELLOW).sum() > 500)
    page.mouse.move(320, 200)
    page.mouse.down()
    page.mouse.move(600, 200, steps=8)
    page.mouse.up()
    turned = settled(page, lambda seen: covered(seen, GREEN).sum() > 500)
    assert covered(turned, GREEN).sum() > 500, "dragging does not turn the mesh"
    assert [url for url in page.asked if url.startswith("file:")] == [page.url]


RED, YELLOW, BLUE, GREEN = (0.9, 0.2, 0.15), (0.9, 0.8, 0.1), (0.15, 0.3, 0.9), (0.1, 0.7, 0.2)


def painted_ball(folder: Path) -> bytes:
    """A mesh of the ball of `ball_on_floor` as glTF: red up left, yellow up right, blue below, green behind."""
    ball = trimesh.creation.icosphere(4, radius=1.05)
    x, y, z = ball.vertices.T
    at = np.select([z > 0.3, y > 0, x < 0], [3, 2, 0], 1)
    surface = Surface(ball.vertices.astype(np.float32), ball.faces.astype(np.int32))
    write_glb(folder / "mesh.glb", surface, np.array([RED, YELLOW, BLUE, GREEN], np.float32)[at])
    return (folder / "mesh.glb").read_bytes()


def covered(shown: np.ndarray, colour: tuple[float, ...]) -> np.ndarray:
    """Where a picture has a colour as it was given."""
    return np.abs(shown - 255 * np.array(colour)).max(axis=2) < 12


def shows_the_ball(shown: np.ndarray) -> bool:
    """Whether both halves of the ball are to be seen."""
    return all(half.sum() > 500 for half in red_and_blue(shown))


@pytest.fixture
def laid_out(ball: Gaussians, camera: Callable[..., dict[str, Any]], tmp_path: Path) -> Path:
    """A scene's folder, with levels of 6000 to 375 Gaussians."""
    settings = viewer_settings(camera([0, -1.5, -5], [0, 0, 0]), depth=5)
    folder = tmp_path / "run"
    folder.mkdir()

    def encode(some: Gaussians, path: Path, parts: Any) -> None:
        sog.encode(some, path, parts=parts)

    write_levels(ball, folder / "streamed", encode, chunk=1600, coarsest=400)
    level = level_in_one_file(folder / "streamed").read_bytes()
    (folder / "index.html").write_text(viewer_page("Ball", level, settings, has_levels=True), encoding="utf-8")
    (folder / "streamed.html").write_text(streamed_page("Ball", "4_0.sog", settings), encoding="utf-8")
    return folder


def test_over_http_the_coarsest_level_comes_first_and_the_finest_is_what_stays(page: Any, laid_out: Path) -> None:
    with served(laid_out) as address:
        page.goto(f"{address}/index.html?noanim")
        page.wait_for_url(f"{address}/streamed.html?noanim", timeout=SECONDS * 1000)

        shown = settled(page, lambda seen: shows_the_ball(seen) and asked(page, "0_") == 4)
        red, blue = red_and_blue(shown)
        assert red.sum() > 2000, "the ball's upper half is not to be seen"
        assert blue.sum() > 500, "the ball's lower half is not to be seen"
        assert np.nonzero(red)[0].mean() < np.nonzero(blue)[0].mean() - 20, "the scene stands on its head"

        files = [url for url in page.asked if url.endswith(".sog")]
        assert files[0] == f"{address}/streamed/4_0.sog"
        assert len(files) == len(set(files)), "what was asked for ahead was not used"
        assert asked(page, "0_") == 4
        assert {url.rpartition("/")[0] for url in page.asked if url.startswith("http")} == {
            address,
            f"{address}/streamed",
        }


def test_from_a_disk_and_alone_on_a_server_the_page_shows_the_level_it_has(page: Any, laid_out: Path) -> None:
    alone = laid_out.parent / "alone"
    alone.mkdir()
    shutil.copy(laid_out / "index.html", alone)
    with served(alone) as address:
        for where in ((laid_out / "index.html").as_uri(), f"{address}/index.html"):
            page.goto(f"{where}?noanim")
            assert shows_the_ball(settled(page, shows_the_ball)), where
            assert page.url == f"{where}?noanim"


def asked(page: Any, start: str) -> int:
    """How many files of a level were asked for."""
    return len({url for url in page.asked if url.endswith(".sog") and url.rpartition("/")[2].startswith(start)})
