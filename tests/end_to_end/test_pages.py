"""A person's way through Airflow's own UI in a real browser: log in, trigger, watch, look, compare.

`E2E3D_PICTURES=docs/pictures` leaves the pictures that the docs show, of the whole sample; it takes minutes more.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
import pytest
import yaml
from PIL import Image

from airflow_provider_e2e3d.pipelines.form import section_of
from e2e3d_stages.registry import STAGES
from e2e3d_stages.store.opening import open_storage
from tests.browser import changes, chromium, colours, explained, pixels, visit
from tests.conftest import until
from tests.end_to_end.conftest import Standalone, is_ready, settings
from tests.web import Web

# Two trainings and a browser that draws without a GPU.
pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(3000)]

PASSWORDS = {"ann": "a password", "vera": "another one"}
CAPTURE, FOG = "s3://photos/caliterra", "s3://photos/fog"
PICTURES = os.environ.get("E2E3D_PICTURES")
TINY: dict[str, Any] = {
    "ingest_max_size": 640,
    "sfm_max_features": 3000,
    "train_iterations": 150,
    "train_max_gaussians": 6000,
    "train_long_side": 200,
}
ASKED = {} if PICTURES else TINY
PHOTOS = 31 if PICTURES else 12
# A browser without a GPU draws as long as there are pixels: the docs' pictures are larger.
WIDE = {"width": 1280, "height": 860} if PICTURES else {"width": 960, "height": 700}
NARROW = {"width": 390, "height": 844}


class Site(Standalone):
    """An Airflow with logins."""

    def log_in(self, name: str) -> None:
        """Speak over REST as a user."""
        body = json.dumps({"username": name, "password": PASSWORDS[name]}).encode()
        request = urllib.request.Request(
            f"{self.url}/auth/token", data=body, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            self._token = json.load(answer)["access_token"]

    def is_ready(self) -> bool:
        """Whether it lets a user in and knows the DAGs."""
        try:
            self.log_in("ann")
        except OSError:
            return False
        return is_ready(self)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, sample: Path, s3_endpoint: str, told: Web) -> Iterator[Site]:
    """`airflow standalone` with two users, captures in a bucket, and the stages as processes."""
    folder = tmp_path_factory.mktemp("ui")
    client = boto3.client("s3")
    for bucket in ("photos", "scenes"):
        client.create_bucket(Bucket=bucket)
    capture = open_storage(CAPTURE)
    for photo in sorted(sample.iterdir())[:PHOTOS]:
        capture.upload(photo, photo.name)
    for number in range(8):
        fog = io.BytesIO()
        Image.effect_noise((720, 540), 90).convert("RGB").save(fog, "JPEG")
        open_storage(FOG).write(f"{number}.jpg", fog.getvalue())
    profile = {"store": "s3://scenes", "captures": ["s3://photos"], "preset": "draft"}
    (folder / "profiles.yaml").write_text(yaml.safe_dump({"local": profile}))
    (folder / "passwords.json").write_text(json.dumps(PASSWORDS))
    url, environment = settings(folder)
    environment |= {
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "ann:admin,vera:viewer",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(folder / "passwords.json"),
        "AIRFLOW_CONN_A_HOOK": json.dumps({"conn_type": "http", "host": f"{told.url}/hook"}),
        "AIRFLOW__E2E3D__NOTIFY_WEBHOOK_CONN_ID": "a_hook",
    }
    with (folder / "standalone.log").open("w") as log:
        command = [Path(sys.executable).with_name("airflow"), "standalone"]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    running = Site(url, process, environment, folder / "standalone.log")
    try:
        until(running.is_ready, 300)
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Its tabs know nothing of each other."""
    with chromium() as started:
        yield started


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """A browser's tab in light mode; what a page complains of is kept in `tab.complaints`."""
    opened = browser.new_page(viewport=WIDE, color_scheme="light")
    opened.set_default_timeout(90_000)
    opened.complaints = []
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    with explained(opened):
        yield opened
    opened.close()


@pytest.fixture
def picture(tmp_path: Path) -> Callable[[Any, str], None]:
    """Leaves a picture of what the tab shows, for people to look at."""
    folder = Path(PICTURES) if PICTURES else tmp_path
    folder.mkdir(parents=True, exist_ok=True)

    def take(tab: Any, name: str) -> None:
        shot = Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
        shot.save(folder / f"{name}.jpg", quality=82, optimize=True)

    return take


def log_in(tab: Any, site: Site, path: str, name: str = "ann") -> None:
    """As a person does, on the way to a page."""
    tab.goto(f"{site.url}{path}")
    tab.fill("input[name=username]", name)
    tab.fill("input[name=password]", PASSWORDS[name])
    tab.click("[type=submit]")
    tab.wait_for_url(f"**{path}*")


def drag(tab: Any, place: Any) -> None:
    """Turn a scene by a hand's breadth."""
    box = place.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 3
    tab.mouse.move(x, y)
    tab.mouse.down()
    tab.mouse.move(x + 120, y + 30, steps=8)
    tab.mouse.up()


def trigger(tab: Any, site: Site, picture: Callable[[Any, str], None]) -> str:
    """Fill the form in and press the button; the run's id."""
    log_in(tab, site, "/dags/reconstruct")
    tab.get_by_role("button", name="Trigger").first.click()
    form = tab.get_by_role("dialog")
    form.locator("[name=element_capture]").fill(CAPTURE)
    picture(tab, "trigger-form")
    for name, value in ASKED.items():
        field = form.locator(f"[name=element_{name}]")
        if not field.is_visible():
            form.get_by_role("button", name=section_of(STAGES[name.split("_")[0]])).click()
        field.fill(str(value))
    form.get_by_role("button", name="Trigger").last.click()
    until(lambda: site.runs("reconstruct"), 60)
    return next(iter(site.runs("reconstruct")))


def ended(site: Site, number: int) -> list[str]:
    """The first runs of the sample, as many as asked for, the later ones with less training; all of them succeeded."""
    while len(runs := sorted(site.runs("reconstruct"))) < number:
        less = ASKED.get("train_iterations", 2000) // (len(runs) + 1)
        site.trigger(capture=CAPTURE, **{**ASKED, "train_iterations": less})
    until(lambda: set(site.runs("reconstruct").values()) <= {"success", "failed"}, 1800, pause=0.5)
    assert set(site.runs("reconstruct").values()) == {"success"}
    return runs


def test_the_form_starts_a_run_whose_tab_shows_its_progress_and_then_the_scene_and_its_report(
    site: Site, tab: Any, picture: Callable[[Any, str], None]
) -> None:
    run = trigger(tab, site, picture)
    scene = visit(tab, f"{site.url}/dags/reconstruct/runs/{run}/plugin/scene", "Scene")
    bars = scene.get_by_role("progressbar", include_hidden=True)
    until(lambda: bars.count() == len(STAGES), 120)
    seen: dict[str, set[str]] = {}
    shot = False

    def published() -> bool:
        nonlocal shot
        # The machine has better to do than to be looked at all the time.
        tab.wait_for_timeout(500)
        for name, value in bars.evaluate_all("all => all.map(it => [it.ariaLabel, it.ariaValueNow])"):
            seen.setdefault(name, set()).add(value)
        if not shot and scene.locator(".training img").count() and scene.locator(".curve").count():
            picture(tab, "progress")
            shot = True
        return bool(scene.locator("iframe").count()) or site.state(run) == "failed"

    until(published, 1800)
    assert site.state(run) in ("success", "running")
    moved = [name for name, values in seen.items() if values - {"0", "100"}]
    assert len(moved) >= 2, seen

    # As long as the run goes on, the page is laid out anew again and again.
    scene.get_by_text("The run is done.").wait_for(state="attached")
    shown = scene.locator("iframe").first
    until(lambda: colours(pixels(shown)) > 2000, 180)
    assert changes(shown, by=1)
    # A hand on it ends its own turning.
    drag(tab, shown)
    assert changes(shown, by=3, act=lambda: drag(tab, shown))
    picture(tab, "scene")

    scene.get_by_role("tab", name="Report").click()
    quality = scene.frame_locator("iframe[title^=Report]").get_by_text("Quality on held-out photos").first
    quality.wait_for()
    scene.get_by_role("button", name="Full screen").click()
    until(lambda: scene.locator("html").evaluate("() => document.fullscreenElement !== null"), 30)
    quality.evaluate("it => it.scrollIntoView()")
    picture(tab, "report")

    artifact = visit(tab, f"{site.url}/dags/reconstruct/runs/{run}/tasks/sfm/plugin/artifact", "Artifact")
    artifact.get_by_text("became the artifact").wait_for()
    picture(tab, "artifact")
    assert tab.complaints == []


def test_the_gallery_leads_to_two_runs_side_by_side_with_one_camera(
    site: Site, tab: Any, picture: Callable[[Any, str], None]
) -> None:
    ended(site, 2)
    log_in(tab, site, "/dags")
    tab.get_by_role("link", name="Scenes", exact=True).click()
    gallery = tab.frame_locator("iframe[title=Scenes]")
    gallery.get_by_role("link", name="caliterra").wait_for()
    assert "dB" in gallery.locator(".card").inner_text()
    picture(tab, "gallery")
    gallery.get_by_role("searchbox").fill("nothing like it")
    gallery.get_by_text("No scene fits.").wait_for()
    gallery.get_by_role("searchbox").fill("cali")
    gallery.get_by_role("link", name="all runs").click()
    gallery.get_by_role("button", name="Compare the two").click()
    gallery.get_by_text("Turn either: the other follows.").first.wait_for(timeout=180_000)
    left, right = gallery.locator(".pair iframe").nth(0), gallery.locator(".pair iframe").nth(1)
    until(lambda: min(colours(pixels(left)), colours(pixels(right))) > 1500, 180)
    assert changes(right, by=3, act=lambda: drag(tab, left))
    assert "iterations" in gallery.locator(".compared").last.inner_text()
    picture(tab, "compare")
    assert tab.complaints == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_pages_have_airflows_colours_and_fit_a_phone(
    theme: str, site: Site, tab: Any, picture: Callable[[Any, str], None]
) -> None:
    run = ended(site, 1)[0]
    log_in(tab, site, "/dags")
    # As Airflow's own switch keeps it.
    tab.evaluate(f"localStorage.setItem('theme', '{theme}')")
    inside = {"Scene": f"/dags/reconstruct/runs/{run}/plugin/scene", "Scenes": "/plugin/scenes"}
    # On a phone Airflow's own columns leave no room: there the pages are opened by themselves, as from a message.
    alone = {"Scene": f"/e2e3d/run?dag_id=reconstruct&run_id={quote(run)}", "Scenes": "/e2e3d/scenes"}
    for size, addresses in ((WIDE, inside), (NARROW, alone)):
        tab.set_viewport_size(size)
        for title, path in addresses.items():
            page = visit(tab, f"{site.url}{path}", title if addresses is inside else None)
            html = page.locator("html")
            assert html.evaluate("it => it.scrollWidth <= it.clientWidth"), (title, size)
            assert html.evaluate("it => getComputedStyle(it).colorScheme") == theme
            picture(tab, f"{title.lower()}-{theme}-{size['width']}")
    assert tab.complaints == []


def test_a_stranger_sees_no_page_and_a_viewer_sees_them(site: Site, tab: Any) -> None:
    assert tab.goto(f"{site.url}/e2e3d/scenes").status == 401
    tab.get_by_role("link", name="Log in to Airflow").click()
    tab.fill("input[name=username]", "vera")
    tab.fill("input[name=password]", PASSWORDS["vera"])
    tab.click("[type=submit]")
    tab.get_by_role("heading", name="Scenes").wait_for()


@pytest.mark.parametrize("what", ["api/declared", "static/*/main.js", "static/*/dom.js", "static/*/gallery.js"])
def test_a_page_of_which_something_was_lost_on_the_way_asks_again(site: Site, tab: Any, what: str) -> None:
    log_in(tab, site, "/dags")
    lost: list[str] = []

    def lose_the_first(route: Any) -> None:
        route.continue_() if lost else route.abort()
        lost.append(route.request.url)

    tab.route(f"**/e2e3d/{what}", lose_the_first)
    tab.goto(f"{site.url}/e2e3d/scenes")
    tab.get_by_role("heading", name="Scenes").wait_for()
    assert len(lost) == 2


def test_a_failed_run_says_why_and_what_to_do_in_the_tab_the_task_and_the_notification(
    site: Site, tab: Any, picture: Callable[[Any, str], None], told: Web
) -> None:
    site.log_in("ann")
    run = site.trigger(capture=FOG, **ASKED)
    until(lambda: [news for news in told.sent_to("/hook") if news["run"] == run], 300)
    (reason,) = [news["reason"] for news in told.sent_to("/hook") if news["run"] == run]
    assert (reason["stage"], reason["code"]) == ("sfm", "quality_gate")
    log_in(tab, site, "/dags")
    for title, path in {"Scene": "plugin/scene", "Artifact": "tasks/sfm/plugin/artifact"}.items():
        page = visit(tab, f"{site.url}/dags/reconstruct/runs/{run}/{path}", title)
        words = page.get_by_role("alert").filter(has_text=" ".join(reason["message"].split())).first
        words.wait_for()
        assert f"What to do: {reason['hint']}" in words.inner_text()
        picture(tab, f"failure-{title.lower()}")
    assert tab.complaints == []
