"""What a person reads in the report."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from e2e3d_stages.contract.messages import Advice
from e2e3d_stages.publish import stage
from e2e3d_stages.publish.curve import training_curve
from e2e3d_stages.publish.params import Params
from e2e3d_stages.publish.plans import Cloud, drawn
from e2e3d_stages.publish.report import report_page
from e2e3d_stages.registry import STAGES


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
    assert "Photos placed 3 of 3" in words
    assert "31.66 dB" in words
    assert "0.912" in words
    assert "51.2 kB" in words
    assert "1 min 45 s" in words
    assert "1 November 2026" in words


def test_everything_is_inside_the_page(run) -> None:
    page = Page(report_page("Yard", run.inputs))
    assert page.loads
    assert all(address.startswith("data:") for address in page.loads)
    assert set(page.links) == {"index.html", "scene.sog", "scene.ply", "photos.json"}


def test_every_warning_stands_there_with_its_advice(run) -> None:
    run.change("sfm", warnings=(Advice(code="few", message="Few photos overlap.", advice="Walk more slowly."),))
    run.change("train", warnings=(Advice(code="slow", message="There is no GPU."),))
    words = Page(report_page("Yard", run.inputs)).words
    for part in ("Warnings", "Few photos overlap.", "Walk more slowly.", "There is no GPU."):
        assert part in words


def test_without_warnings_there_is_no_such_heading(run) -> None:
    assert "Warnings" not in report_page("Yard", run.inputs)


def test_names_and_messages_cannot_bring_markup_into_the_page(run) -> None:
    evil = "<script>alert(1)</script>"
    plain = Page(report_page("Yard", run.inputs)).tags.count("script")
    run.change("sfm", warnings=(Advice(code="x", message=evil, advice=evil),), params={"name": evil})
    edit(run, "evaluate", "evaluation.json", lambda r: {**r, "views": [{**r["views"][0], "name": evil}]})
    dropped = [{"source": evil, "reason": "unreadable", "detail": evil}]
    edit(run, "ingest", "photos.json", lambda record: {**record, "dropped": dropped})
    page = Page(report_page(evil, run.inputs))
    assert page.tags.count("script") == plain == 1
    assert page.words.count(evil) >= 7


def test_photos_that_were_not_used_are_named_with_the_reason(run) -> None:
    dropped = [{"source": "broken.jpg", "reason": "unreadable", "detail": "not a picture"}]
    edit(run, "ingest", "photos.json", lambda record: {**record, "dropped": dropped})
    lost = {"registered": False, "supported": False, "reason": "blurred"}
    edit(run, "sfm", "photos.json", lambda record: [*record[:2], {**record[2], **lost}])
    words = Page(report_page("Yard", run.inputs)).words
    assert "Photos placed 2 of 4" in words
    assert "broken.jpg Cannot be read: not a picture" in words
    assert "DSC_2.jpg blurred" in words


def test_the_times_of_a_films_frames_are_shown_and_which_were_placed(run) -> None:
    names = ["0.jpg", "1.jpg", "2.jpg"]
    frames = {name: 0.5 + place for place, name in enumerate(names)}
    edit(run, "ingest", "photos.json", lambda record: {**record, "films": [{"source": "walk<.mp4", "frames": frames}]})
    edit(
        run, "sfm", "photos.json", lambda photos: [{**photo, "supported": photo["name"] != "1.jpg"} for photo in photos]
    )
    html = report_page("Yard", run.inputs)
    assert "walk<.mp4: 3 frames from 0.5 to 2.5 s" in Page(html).words
    assert html.count("<title>") - html.count("<title>Yard") >= 3
    assert html.count('stroke="#9998"') == 1


def test_a_photo_that_was_not_placed_is_shown_small(run) -> None:
    plain = report_page("Yard", run.inputs)
    lost = {"registered": False, "supported": False, "reason": "blurred"}
    edit(run, "sfm", "photos.json", lambda record: [*record[:2], {**record[2], **lost}])
    page = Page(report_page("Yard", run.inputs))
    added = [address for address in page.loads if address not in Page(plain).loads]
    (picture,) = (Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) for address in added)
    assert picture.size == (240, 180)


def test_each_photo_kept_from_training_is_named_as_in_the_capture_with_its_figures(run) -> None:
    figures = {"psnr": 28.11, "ssim": 0.856, "cc_psnr": 30.62, "cc_ssim": 0.871, "psnr_compressed": 28.04}
    figures |= {"cc_flip": 0.112, "unseen": 0.0}
    others = [{"name": "2.jpg", **figures}]
    edit(run, "evaluate", "evaluation.json", lambda record: {**record, "views": [*record["views"], *others]})
    words = Page(report_page("Yard", run.inputs)).words
    assert "DSC_0.jpg 31.66 dB 0.912 33.18 dB 0.921 0.071 3 % 31.64 dB" in words
    assert "DSC_2.jpg 28.11 dB 0.856 30.62 dB 0.871 0.112 0 % 28.04 dB" in words


def test_the_worst_photo_and_what_no_training_photo_shows_are_told(run) -> None:
    plain = Page(report_page("Yard", run.inputs)).words
    assert "MS-SSIM is 0.983 and FLIP 0.071" in plain
    assert "No training photo shows 3 % of the held-out photos" in plain
    assert "worst" not in plain
    metrics = run.inputs["evaluate"].manifest.metrics
    run.change("evaluate", metrics={**metrics, "views": 2, "unseen": 0.001})
    words = Page(report_page("Yard", run.inputs)).words
    assert "The worst photo has 31.02 dB colour-corrected." in words
    assert "No training photo shows" not in words
    run.change("evaluate", metrics={**metrics, "views": 2, "unseen": 0.02})
    assert "colour-corrected. No training photo shows 2 %" in Page(report_page("Yard", run.inputs)).words


def test_figures_as_drawn_and_colour_corrected_are_told_apart(run) -> None:
    words = Page(report_page("Yard", run.inputs)).words
    assert "31.66 dB SSIM 0.912 colour-corrected 33.18 dB, 0.921" in words
    assert re.search(r"400 px .*?( 31\.66 dB 0\.912){3} colour-corrected( 33\.18 dB 0\.921){3}", words)


def test_photos_whose_light_was_learned_are_told_and_the_odd_ones_named(run) -> None:
    plain = Page(report_page("Yard", run.inputs)).words
    assert "EV" not in plain
    assert "PSNR on the training photos in dB, over 200 steps" in plain
    light = [{"name": "1.jpg", "ev": 0.24, "warmer_ev": 0.15}, {"name": "2.jpg", "ev": -0.81, "warmer_ev": -0.02}]
    edit(run, "train", "training.json", lambda record: {**record, "light": light})
    run.change("train", metrics={**run.inputs["train"].manifest.metrics, "light_ev": 1.21})
    words = Page(report_page("Yard", run.inputs)).words
    assert "differ in exposure by up to 1.2 EV" in words
    assert "DSC_2.jpg is 0.8 EV darker." in words
    assert "DSC_1.jpg is" not in words
    assert "DSC_1.jpg 0.2 EV brighter and warmer DSC_2.jpg 0.8 EV darker" in words
    assert "PSNR on the training photos in dB, each in its own light, over 200 steps" in words


def test_of_photos_with_masks_the_figures_say_of_how_much_they_are(run) -> None:
    assert "pixels that count" not in Page(report_page("Yard", run.inputs)).words
    masked = [{"counted": 0.25}, {"counted": 0.35}, {}]
    edit(
        run,
        "evaluate",
        "evaluation.json",
        lambda record: {**record, "views": [{**record["views"][0], **more} for more in masked]},
    )
    words = Page(report_page("Yard", run.inputs)).words
    assert "2 of them have masks: there the figures are of the 30 % of the pixels that count." in words


def test_of_a_cropped_scene_it_is_told_what_went_and_what_the_figures_are_of(run) -> None:
    assert "Crop" not in Page(report_page("Yard", run.inputs)).words
    sides = {"sides": [2.0, 1.5, 3.25]}
    counts = {"gaussians_in": 6000, "gaussians": 4500, "removed_outside": 1400, "removed_floating": 100}
    made = run.inputs["train"]
    manifest = made.manifest.model_copy(
        update={"params": {"keep": "subject"}, "metrics": {**counts, **sides, "removed_share": 0.25}}
    )
    run.inputs["crop"] = replace(made, manifest=manifest, spec=STAGES["crop"])
    edit(
        run,
        "evaluate",
        "evaluation.json",
        lambda record: {**record, "views": [{**record["views"][0], "counted": 0.6}]},
    )
    words = Page(report_page("Yard", run.inputs)).words
    assert "a box of 2.00 × 1.50 × 3.25 units. Of 6,000 Gaussians 1,500 went (25.0 %)" in words
    assert "1,400 lay outside the box, 100 floated in it" in words
    assert "the figures are of what stayed, over the 60 % of these photos' pixels that show it" in words


def test_metres_by_a_camera_height_are_told(run) -> None:
    assert "metre" not in Page(report_page("Yard", run.inputs)).words
    run.change("sfm", metrics={**run.inputs["sfm"].manifest.metrics, "metres_from": "camera_height"})
    assert "The scene's unit is a metre, by the camera height" in Page(report_page("Yard", run.inputs)).words


def test_what_each_format_costs_is_said_or_that_nobody_measured_it(run) -> None:
    compress = run.inputs["compress"].manifest
    spz = compress.files[0].model_copy(update={"path": "scene.spz", "size": 70_000})
    run.change("compress", files=(*compress.files, spz))
    words = Page(report_page("Yard", run.inputs)).words
    assert re.search(r"scene\.sog .*? 0\.020 dB", words)
    assert re.search(r"scene\.spz .*? 70.0 kB not measured", words)
    assert re.search(r"scene\.ply .*? 300 kB nothing", words)


def test_the_page_s_own_warning_is_in_it(run) -> None:
    words = Page(report_page("Yard", run.inputs, [Advice(code="large_page", message="It has 200 MB.")])).words
    assert "It has 200 MB. (Publish the page: large_page)" in words


def test_without_scripts_photo_render_and_difference_stand_side_by_side(run) -> None:
    html = report_page("Yard", run.inputs)
    assert re.search(r'<div class="controls" hidden>', html)
    assert [label for label in ("Photo", "Render", "Difference") if f"<figcaption>{label}</figcaption>" in html] == [
        "Photo",
        "Render",
        "Difference",
    ]


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
    for part in ("key-of-sfm", "digest-of-train", "torch 2.9", "Python 3.11", "seed 7", "abab"):
        assert part in words


def test_a_curve_needs_two_points_and_ends_at_its_last_value() -> None:
    point = {"step": 100, "psnr_training": 25.0, "gaussians": 10, "loss": 0.1}
    assert training_curve([point]) == ""
    assert "27.4 dB" in training_curve([point, {**point, "step": 200, "psnr_training": 27.4}])


def cloud(*errors: float) -> Cloud:
    """Points in a row along x, all seen by the first camera, the last by the second too."""
    count = len(errors)
    return Cloud(
        xyz=np.array([[i, 0, 0] for i in range(count)], np.float32).reshape(-1, 3),
        rgb=np.zeros((count, 3), np.uint8),
        error=np.array(errors, np.float32),
        view=np.array([*[0] * count, *[1] * bool(count)], np.int32),
        point=np.array([*range(count), *[count - 1] * bool(count)], np.int32),
    )


def circles(drawing: str) -> list[tuple[float, float]]:
    """Where the cameras are, in the capture's order."""
    return [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawing)]


def pixels(drawing: str, kind: str) -> np.ndarray:
    """The colours of a drawing's points, one row each."""
    data = re.search(rf'class="{kind}"[^>]*base64,([^"]+)"', drawing)
    assert data
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data[1]))).convert("RGBA")).reshape(-1, 4)
    return np.unique(picture[picture[:, 3] > 0][:, :3], axis=0)


def test_from_above_what_is_farther_along_z_is_higher_up_and_from_the_side_what_is_higher(camera) -> None:
    views = [camera([0, -1, 0], [0, 0, 2], "low.jpg"), camera([0, -3, 4], [0, 0, 6], "high.jpg", 1)]
    found = drawn(cloud(), views, {"high.jpg"}, {}, metric=False)
    (_, near), (_, far) = circles(found.top)
    (_, low), (_, high) = circles(found.side)
    assert far < near
    assert high < low
    assert near - far == pytest.approx(2 * (low - high), abs=0.2)  # at one scale
    assert found.top.count('<g class="heldout"') == 1


def test_points_and_cameras_have_the_colour_of_their_error(camera) -> None:
    views = [camera([0, 0, -3], [0, 0, 0], "a.jpg"), camera([2, 0, -3], [2, 0, 0], "b.jpg", 1)]
    found = drawn(cloud(0.0, 0.0, 2.0), views, set(), {"b.jpg": "DSC_2.jpg"}, metric=False)
    assert found.worst == 2
    good, bad = (56, 132, 232), (250, 130, 20)
    assert {tuple(colour) for colour in pixels(found.top, "by-error").tolist()} == {good, bad}
    assert "--error:rgb(250,130,20)" in found.top
    assert "<title>DSC_2.jpg: 2.00 px</title>" in found.top
    assert "<title>a.jpg: 0.67 px</title>" in found.top


def test_a_scene_in_metres_has_a_scale_and_its_north_up(camera) -> None:
    views = [camera([0, -1, 0], [0, 0, 2], "a.jpg"), camera([40, -1, 4], [0, 0, 6], "b.jpg", 1)]
    assert "m</text>" not in drawn(cloud(0.5, 0.5), views, set(), {}, metric=False).top
    found = drawn(cloud(0.5, 0.5), views, set(), {}, metric=True)
    bar = re.search(r'class="scale" d="M12,[\d.]+v5h([\d.]+)v-5"/><text[^>]*>(\d+) m<', found.top)
    assert bar
    (left, _), (right, _) = circles(found.top)
    assert float(bar[1]) / float(bar[2]) == pytest.approx((right - left) / 40, rel=0.02)


def _those(has: dict[str, bool]) -> str:
    return " ".join(sorted(name for name, there in has.items() if there))


@pytest.fixture
def publish(run, tmp_path, monkeypatch) -> Callable[[], tuple[Path, dict[str, Any]]]:
    """Runs the stage without the viewer: pages of the arguments they were made of."""
    monkeypatch.setattr(stage, "viewer_page", lambda title, sog, settings, **has: f"{title} {sog!r} {_those(has)}")
    monkeypatch.setattr(stage, "streamed_page", lambda title, first, settings, **has: f"{title} {first} {_those(has)}")
    monkeypatch.setattr(stage, "mesh_page", lambda title, sog, glb, settings: f"{title} {sog!r} {glb!r}")
    (tmp_path / "output").mkdir()
    warnings: list[Advice] = []
    job = SimpleNamespace(
        params=Params(title="Yard"),
        inputs=run.inputs,
        output=tmp_path / "output",
        warnings=warnings,
        progress=lambda *_: None,
        warn=lambda code, message, advice: warnings.append(Advice(code=code, message=message, advice=advice)),
    )
    return lambda: (job.output, stage.run(job))


def test_the_stage_makes_both_pages_and_the_thumbnail(run, publish) -> None:
    (run.inputs["compress"].folder / "scene.sog").write_bytes(b"all")
    output, metrics = publish()
    assert (output / "index.html").read_text() == "Yard b'all' "
    assert metrics["page_bytes"] == (output / "index.html").stat().st_size
    assert metrics["report_bytes"] == (output / "report.html").stat().st_size
    assert metrics["opening_view"] == "1.jpg"
    with Image.open(output / "thumbnail.jpg") as thumbnail:
        assert thumbnail.size == (32, 18)
    assert not (output / "streamed.html").exists()
    assert not (output / "mesh.html").exists()


def test_a_mesh_gets_a_page_with_the_scene_that_the_other_pages_lead_to(run, mesh, publish) -> None:
    (run.inputs["compress"].folder / "scene.sog").write_bytes(b"all")
    output, _ = publish()
    assert (output / "index.html").read_text() == "Yard b'all' has_mesh"
    assert (output / "mesh.html").read_text() == "Yard b'all' b'triangles'"
    report = Page((output / "report.html").read_text())
    assert "mesh.html" in report.links
    assert "5,120 triangles, open" in report.words


def test_a_page_that_phones_may_fail_to_open_is_told_of_by_name(run, mesh, publish, monkeypatch) -> None:
    monkeypatch.setattr(stage, "NOTABLE_PAGE_BYTES", 40)
    (run.inputs["compress"].folder / "scene.sog").write_bytes(b"some")
    (run.inputs["mesh"].folder / "mesh.glb").write_bytes(b"many triangles, more than fit")
    output, _ = publish()
    words = Page((output / "report.html").read_text()).words
    assert "The page mesh.html has 45 B: phones may fail to open it. Lower max_faces of the mesh stage." in words
    assert "The page index.html" not in words


def test_a_scene_with_levels_gets_a_page_that_loads_them_and_one_with_the_finest_in_one_file(run, publish) -> None:
    levels = run.inputs["compress"].folder / "streamed"
    levels.mkdir()
    for name in ("lod-meta.json", "0_0.sog", "0_1.sog", "1_0.sog", "1_1.sog", "2_0.sog", "3_0.sog"):
        (levels / name).write_text(name)
    output, _ = publish()
    assert (output / "index.html").read_text() == "Yard b'2_0.sog' has_levels"
    assert (output / "streamed.html").read_text() == "Yard 3_0.sog "
