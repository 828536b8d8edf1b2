"""What a person reads in the report."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from e2e3d_stages.contract import Advice
from e2e3d_stages.publish import stage
from e2e3d_stages.publish.drawings import plan, training_curve
from e2e3d_stages.publish.params import Params
from e2e3d_stages.publish.report import as_duration, as_size, report_page


class Page(HTMLParser):
    """A page's visible words, its tags, and every address that it loads."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words, self.tags, self.loads, self.links = "", [], [], []
        self._hidden = False
        self.feed(html)
        self.words = re.sub(r"\s+", " ", self.words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        self.tags.append(tag)
        self._hidden = tag in ("style", "script")
        self.words += " "
        for name, value in attrs:
            if name == "href" and tag == "a":
                self.links.append(value)
            elif name in ("src", "href", "srcset"):
                self.loads.append(value)

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        self.words += "" if self._hidden else data


def edit(run: Any, of: str, name: str, change: Any) -> None:
    """Change a JSON file of an artifact."""
    path = run.inputs[of].folder / name
    record = json.loads(path.read_text())
    path.write_text(json.dumps(change(record)))


def test_the_headline_figures_are_there(run) -> None:
    words = Page(report_page("Yard", run.inputs)).words
    assert "3 / 3" in words
    assert "31.66 dB" in words
    assert "0.912" in words
    assert "51.2 kB" in words
    assert "1 min 45 s" in words
    assert "1 November 2026" in words


def test_everything_is_inside_the_page(run) -> None:
    page = Page(report_page("Yard", run.inputs))
    assert page.loads
    assert all(address.startswith("data:") for address in page.loads)
    assert set(page.links) == {"index.html", "scene.sog", "scene.ply"}


def test_every_warning_stands_there_with_its_advice(run) -> None:
    run.change("sfm", warnings=(Advice(code="few", message="Few photos overlap.", advice="Walk more slowly."),))
    run.change("train", warnings=(Advice(code="slow", message="There is no GPU."),))
    words = Page(report_page("Yard", run.inputs)).words
    for part in ("Worth knowing", "Few photos overlap.", "Walk more slowly.", "There is no GPU."):
        assert part in words


def test_without_warnings_there_is_no_such_heading(run) -> None:
    assert "Worth knowing" not in report_page("Yard", run.inputs)


def test_names_and_messages_cannot_bring_markup_into_the_page(run) -> None:
    evil = "<script>alert(1)</script>"
    plain = Page(report_page("Yard", run.inputs)).tags.count("script")
    run.change("sfm", warnings=(Advice(code="x", message=evil, advice=evil),), params={"name": evil})
    edit(run, "evaluate", "evaluation.json", lambda r: {**r, "views": [{**r["views"][0], "name": evil}]})
    dropped = [{"source": evil, "reason": "unreadable", "detail": evil}]
    edit(run, "ingest", "photos.json", lambda record: {**record, "dropped": dropped})
    page = Page(report_page(evil, run.inputs))
    assert page.tags.count("script") == plain == 0
    assert page.words.count(evil) >= 7


def test_photos_that_were_not_used_are_named_with_the_reason(run) -> None:
    dropped = [{"source": "broken.jpg", "reason": "unreadable", "detail": "not a picture"}]
    edit(run, "ingest", "photos.json", lambda record: {**record, "dropped": dropped})
    lost = {"registered": False, "supported": False, "reason": "blurred"}
    edit(run, "sfm", "photos.json", lambda record: [*record[:2], {**record[2], **lost}])
    words = Page(report_page("Yard", run.inputs)).words
    assert "2 / 4" in words
    assert "broken.jpg not a picture" in words
    assert "DSC_2.jpg blurred" in words


def test_a_scene_without_held_out_photos_shows_no_quality(run) -> None:
    metrics = run.inputs["evaluate"].manifest.metrics
    run.change("evaluate", metrics={name: 0.02 if name == "compression_loss_db" else None for name in metrics})
    edit(run, "evaluate", "evaluation.json", lambda record: {**record, "basis": "training"})
    words = Page(report_page("Yard", run.inputs)).words
    assert "no photo was held out" in words
    assert "(trained on)" in words
    assert "Blurred photo" not in words


def test_reduced_parameters_and_a_resumed_training_are_said(run) -> None:
    run.change("train", degraded_from="key-that-was-asked")
    edit(run, "train", "training.json", lambda record: {**record, "resumed_from": 1100})
    words = Page(report_page("Yard", run.inputs)).words
    assert "reduced after out of memory" in words
    assert "key-that-was-asked" in words
    assert "Resumed from step 1,100" in words


def test_the_way_back_to_the_sources_is_there(run) -> None:
    words = Page(report_page("Yard", run.inputs)).words
    for part in ("s3://captures/yard", "key-of-sfm", "digest-of-train", "torch 2.9", "Python 3.11", "seed 7", "abab"):
        assert part in words


def test_a_curve_needs_two_points_and_ends_at_its_last_value() -> None:
    point = {"step": 100, "psnr_training": 25.0, "gaussians": 10, "loss": 0.1}
    assert training_curve([point]) == ""
    assert "27.4 dB" in training_curve([point, {**point, "step": 200, "psnr_training": 27.4}])


def test_the_plan_puts_a_camera_that_is_farther_along_z_higher_up(camera) -> None:
    views = [camera([0, -1, z], [0, 0, z + 2], f"{z}.jpg") for z in (0, 4)]
    drawing = plan(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), views, {"4.jpg"})
    near, far = (float(y) for y in re.findall(r'<circle[^>]* cy="([\d.]+)"', drawing))
    assert far < near
    assert drawing.count('<circle class="heldout"') == 1


@pytest.mark.parametrize(("value", "text"), [(950, "950 B"), (51_234, "51.2 kB"), (2e6, "2 MB"), (1.5e9, "1.5 GB")])
def test_sizes_read_well(value: float, text: str) -> None:
    assert as_size(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(8.24, "8.2 s"), (59.97, "1 min 0 s"), (250, "4 min 10 s"), (7500, "2 h 5 min")]
)
def test_durations_read_well(value: float, text: str) -> None:
    assert as_duration(value) == text


def test_the_stage_makes_both_pages_and_the_thumbnail(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(stage, "viewer_page", lambda title, sog, settings: f"{title} {len(sog)}")
    (tmp_path / "output").mkdir()
    job = SimpleNamespace(
        params=Params(title="Yard"), inputs=run.inputs, output=tmp_path / "output", progress=lambda *_: None
    )
    metrics = stage.run(job)
    assert (job.output / "index.html").read_text().startswith("Yard ")
    assert metrics["page_bytes"] == (job.output / "index.html").stat().st_size
    assert metrics["report_bytes"] == (job.output / "report.html").stat().st_size
    assert metrics["opening_view"] == "1.jpg"
    with Image.open(job.output / "thumbnail.jpg") as thumbnail:
        assert thumbnail.size == (32, 18)
