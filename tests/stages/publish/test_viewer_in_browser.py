"""The viewer page in a real browser, opened from a file as a person does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2e3d_stages.publish import fetch_viewer
from e2e3d_stages.publish.viewer_page import viewer_page, viewer_settings
from tests.browser import chromium, colours, needed, pixels

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
    page.goto((tmp_path / "index.html").as_uri() + "?noanim")

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
