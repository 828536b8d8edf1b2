"""The report in a real browser, opened from a file as a person does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from e2e3d_stages.publish.report import report_page
from tests.browser import chromium, pixels

pytestmark = [pytest.mark.browser, pytest.mark.slow]

COLOURS = {"photo": (200, 30, 30), "render": (30, 30, 200), "difference": (30, 160, 30)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser."""
    with chromium() as started:
        yield started


@pytest.fixture
def address(run: SimpleNamespace, tmp_path: Path) -> str:
    """A report whose photo is red, its render blue and their difference green."""
    for kind, colour in COLOURS.items():
        Image.new("RGB", (320, 240), colour).save(run.inputs["evaluate"].folder / f"{kind}.jpg")
    file = tmp_path / "report.html"
    file.write_text(report_page("Yard", run.inputs), encoding="utf-8")
    return file.as_uri()


def shares(tab: Any) -> dict[str, float]:
    """How much of the comparison shows which picture."""
    shown = pixels(tab.locator(".pictures")).reshape(-1, 3)
    return {kind: float((np.abs(shown - colour).max(axis=1) < 40).mean()) for kind, colour in COLOURS.items()}


def test_the_keyboard_moves_the_line_between_photo_render_and_difference(browser: Any, address: str) -> None:
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto(address)
    assert shares(tab)["photo"] == pytest.approx(0.5, abs=0.03)
    slider = tab.get_by_role("slider", name="How much of DSC_0.jpg is the photo")
    slider.press("Home")
    assert shares(tab)["render"] > 0.95
    slider.press("End")
    assert shares(tab)["photo"] > 0.95
    tab.get_by_role("checkbox", name="difference").press("Space")
    slider.press("Home")
    assert shares(tab)["difference"] > 0.95
    assert slider.get_attribute("aria-valuetext") == "0 % photo, 100 % difference"


def test_the_pointer_moves_the_line_too(browser: Any, address: str) -> None:
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto(address)
    pictures = tab.locator(".pictures")
    pictures.click(position={"x": 0.25 * pictures.bounding_box()["width"], "y": 20})
    assert shares(tab)["photo"] == pytest.approx(0.25, abs=0.03)


def test_without_scripts_all_three_pictures_are_seen(browser: Any, address: str) -> None:
    tab = browser.new_context(java_script_enabled=False).new_page()
    tab.goto(address)
    assert all(share > 0.2 for share in shares(tab).values())
    assert not tab.get_by_role("slider").is_visible()


def test_points_are_seen_in_the_colour_of_their_error_or_of_the_photos(browser: Any, address: str) -> None:
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto(address)
    assert tab.locator(".top .by-error").is_visible()
    tab.get_by_role("checkbox", name="colours of the photos").check()
    assert not tab.locator(".top .by-error").is_visible()
    assert tab.locator(".top .by-photo").is_visible()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read_by_day_and_by_night_and_asks_nobody(
    browser: Any, address: str, scheme: str, width: int
) -> None:
    tab = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}).new_page()
    asked, wrong = [], []
    tab.on("request", lambda request: asked.append(request.url.split(":")[0]))
    tab.on("pageerror", lambda error: wrong.append(error))
    tab.goto(address)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    light = tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(246, 245, 242)"
    assert light == (scheme == "light")
    assert set(asked) <= {"file", "data"}
    assert wrong == []


def test_in_a_frame_its_links_to_scene_and_mesh_are_the_page_arounds_to_follow(
    browser: Any, run: SimpleNamespace, mesh: None, tmp_path: Path
) -> None:
    (tmp_path / "report.html").write_text(report_page("Yard", run.inputs), encoding="utf-8")
    around = "<script>told = []; onmessage = ({ data }) => told.push(data);</script>"
    (tmp_path / "around.html").write_text(f'{around}<iframe src="report.html" sandbox="allow-scripts"></iframe>')
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto((tmp_path / "around.html").as_uri())
    report = tab.frame_locator("iframe")
    report.get_by_role("link", name="Open the scene").click()
    report.get_by_role("link", name="Turn the mesh").click()
    tab.wait_for_function("told.length === 2")
    assert tab.evaluate("told") == [{"e2e3d": "open", "page": page} for page in ("index.html", "mesh.html")]
