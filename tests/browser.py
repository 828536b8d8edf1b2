"""Headless Chromium, and what it shows."""

from __future__ import annotations

import io
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
from PIL import Image

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
# It draws 3D without a GPU.
_ARGUMENTS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader-webgl", "--enable-unsafe-swiftshader"]


def needed(there: object, what: str) -> None:
    """Skip where a person's machine lacks something, fail where CI does."""
    if there:
        return
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI must not skip this test")
    pytest.skip(f"{what} is missing")


@contextmanager
def chromium() -> Iterator[Any]:
    """Playwright's browser."""
    needed(CHROMIUM, "chromium (apt install chromium, or CHROMIUM=path)")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def explained(tab: Any) -> Iterator[Any]:
    """A tab of which a test that fails prints which requests were lost and what its pages said in the end."""
    tab.on("requestfailed", lambda request: print(f"Lost: {request.url}: {request.failure}"))
    try:
        yield tab
    finally:
        for frame in tab.frames:
            # A frame that is being replaced has nothing to say.
            with suppress(pytest.importorskip("playwright.sync_api").Error):
                print(f"{frame.url} says: {frame.evaluate('document.body.innerText.slice(0, 1000)')!r}")


def pixels(place: Any) -> np.ndarray:
    """What a tab, or an element in it, shows: (height, width, 3) in 0 to 255."""
    return np.asarray(Image.open(io.BytesIO(place.screenshot())).convert("RGB")).astype(int)


def colours(shown: np.ndarray) -> int:
    """How many colours `pixels` found."""
    return len(np.unique(shown @ (1 << 16, 1 << 8, 1)))


def changes(place: Any, by: float, act: Callable[[], object] = lambda: None, *, within: float = 60) -> bool:
    """Whether what a place shows changes after an act, by so much on average and in time.

    Only looks of one size are compared: a page that was laid out anew is no change, and the act is done again.
    """
    until = time.monotonic() + within
    while time.monotonic() < until:
        before = pixels(place)
        act()
        while (after := pixels(place)).shape == before.shape and time.monotonic() < until:
            if np.abs(after - before).mean() > by:
                return True
            time.sleep(0.1)
    return False


def visit(tab: Any, address: str, title: str | None) -> Any:
    """One of our pages, again where one of its files was lost on the way.

    :param title: of the frame in Airflow's page; without one, the page by itself.
    """
    late = pytest.importorskip("playwright.sync_api").TimeoutError
    page = tab.frame_locator(f"iframe[title={title}]") if title else tab
    for _ in range(3):
        tab.goto(address)
        try:
            page.locator("h1, h2").first.wait_for(timeout=45_000)
        except late:
            continue
        break
    return page
