"""The viewer page and the package it is made of."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest

from e2e3d_stages.contract.messages import StageError
from e2e3d_stages.evaluate.opening import opening_view
from e2e3d_stages.publish import fetch_viewer
from e2e3d_stages.publish.viewer_page import mesh_page, streamed_page, viewer_page, viewer_settings

PAGE = """<!doctype html><html><head><title>Viewer</title><link rel="stylesheet" href="./index.css" />
<script type="application/json" id="sse-bootstrap">null</script></head>
<body><script type="module">import { createViewer } from './index.js';
const url = new URL(location.href);</script>
<script type="module">createViewer({ container: document.body, settings, ...options });</script></body></html>"""


@pytest.fixture
def viewer(tmp_path: Path) -> Path:
    """A folder that looks like the package."""
    names = {"name": fetch_viewer.PACKAGE, "version": fetch_viewer.VERSION}
    files = {
        "index.html": PAGE,
        "index.css": "canvas {}",
        "index.js": "const createViewer = 1;\n//# sourceMappingURL=index.js.map\n",
        "LICENSE": "MIT License, PlayCanvas",
        "package.json": json.dumps(names),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def bootstrap(page: str) -> dict:
    """What the viewer is told to load."""
    return json.loads(re.search(r'id="sse-bootstrap">(.*?)</script>', page, re.DOTALL)[1])


def test_the_scene_and_its_camera_are_inside_the_page(viewer, camera) -> None:
    settings = viewer_settings(camera([0, 0, -5], [0, 0, 0]), depth=5)
    told = bootstrap(viewer_page("Yard", b"scene", settings, viewer))
    assert base64.b64decode(told["contentUrl"].partition("base64,")[2]) == b"scene"
    assert told["contentFilename"] == "scene.sog"
    assert told["settings"] == settings


def test_the_page_names_no_other_file_but_the_report(viewer) -> None:
    page = viewer_page("Yard", b"scene", {}, viewer)
    assert re.findall(r'(?:src|href)="([^"]*)"', page) == ["report.html"]
    assert "sourceMappingURL" not in page
    assert "index.js" not in page


def test_a_page_with_levels_names_them_and_has_the_viewer_inside(viewer) -> None:
    page = streamed_page("Yard", "4_0.sog", {"version": 2}, viewer)
    assert bootstrap(page) == {"contentUrl": "streamed/lod-meta.json", "settings": {"version": 2}}
    assert re.findall(r'(?:src|href)="([^"]*)"', page) == ["report.html", "streamed/4_0.sog"]
    packed = re.search(r'id="packed">([^<]*)</script>', page)[1]
    assert gzip.decompress(base64.b64decode(packed)).decode().strip() == "const createViewer = 1;"
    assert "MIT License, PlayCanvas" in page


def test_the_page_leads_on_to_levels_only_where_there_are_some(viewer) -> None:
    assert "streamed" not in viewer_page("Yard", b"scene", {}, viewer)
    leading = viewer_page("Yard", b"level", {}, viewer, has_levels=True)
    assert "location.replace('streamed.html'" in leading
    assert base64.b64decode(bootstrap(leading)["contentUrl"].partition("base64,")[2]) == b"level"


def test_a_scenes_pages_link_to_its_mesh_where_it_has_one(viewer) -> None:
    for page in (
        viewer_page("Yard", b"scene", {}, viewer, has_mesh=True),
        streamed_page("Yard", "4_0.sog", {}, viewer, has_mesh=True),
    ):
        assert '<a href="mesh.html">Mesh</a>' in page


def test_the_page_of_a_mesh_has_mesh_scene_and_viewer_inside_and_names_no_other_file_but_the_report(viewer) -> None:
    page = mesh_page("Yard", b"scene", b"triangles", {"version": 2}, viewer)
    assert base64.b64decode(bootstrap(page)["contentUrl"].partition("base64,")[2]) == b"scene"
    assert bootstrap(page)["settings"] == {"version": 2}
    packed = re.search(r'id="mesh">([^<]*)</script>', page)[1]
    assert gzip.decompress(base64.b64decode(packed)) == b"triangles"
    assert re.findall(r'(?:src|href)="([^"]*)"', page) == ["report.html"]


def test_the_viewers_licence_stays_with_it(viewer) -> None:
    assert "MIT License, PlayCanvas" in viewer_page("Yard", b"", {}, viewer)


def test_a_title_cannot_bring_markup_into_the_page(viewer) -> None:
    page = viewer_page("</title><script>alert(1)</script>", b"", {}, viewer)
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert") == 2


def test_a_camera_turns_its_x_and_y_around(camera) -> None:
    initial = viewer_settings(camera([1, -2, -5], [1, -2, 0]), depth=5)["cameras"][0]["initial"]
    assert initial["position"] == pytest.approx([-1, 2, -5])
    assert initial["target"] == pytest.approx([-1, 2, 0])
    # 300 px high at a focal length of 350 px
    assert initial["fov"] == pytest.approx(46.4, abs=0.01)


def test_the_scene_opens_at_the_camera_that_sees_most_of_those_that_look_ahead(camera) -> None:
    views = [camera([0, -1, -5], [0, 0, 0]), camera([1, -1, -5], [0, 0, 0]), camera([0.1, -9, 0], [0, 0, 0])]
    xyz = np.array([[0, 0, 0], [0, 0, 1], [0, 0, -1]], np.float32)
    view_of, point_of = np.array([0, 1, 1, 2, 2, 2], np.int32), np.array([0, 0, 1, 0, 1, 2], np.int32)
    index, depth = opening_view(views, xyz, view_of, point_of)
    assert index == 1
    assert depth == pytest.approx(5.7, abs=0.2)


def test_a_missing_viewer_fails_with_what_to_do(tmp_path) -> None:
    with pytest.raises(StageError) as failure:
        viewer_page("Yard", b"", {}, tmp_path)
    assert "fetch_viewer" in failure.value.hint


def test_another_version_does_not_count_as_there(viewer) -> None:
    assert fetch_viewer.is_there(viewer)
    (viewer / "package.json").write_text(json.dumps({"name": fetch_viewer.PACKAGE, "version": "0.1.0"}))
    assert not fetch_viewer.is_there(viewer)


def test_a_package_that_is_not_the_pinned_one_is_refused(tmp_path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("package/LICENSE"))
    with pytest.raises(RuntimeError, match="not the package that was pinned"):
        fetch_viewer.unpack(file.getvalue(), tmp_path / "viewer")
    assert not (tmp_path / "viewer").exists()
