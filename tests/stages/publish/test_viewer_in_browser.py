"""The viewer page in a real browser, opened from a file as a person does."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2e3d_stages.compress.streaming import write_levels
from e2e3d_stages.publish import fetch_viewer
from e2e3d_stages.publish.viewer_page import streamed_page, viewer_page, viewer_settings
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
