"""Whether pages can be written here."""

from __future__ import annotations

from e2e3d_stages.publish import fetch_viewer
from e2e3d_stages.publish.report import TEMPLATES
from e2e3d_stages.publish.viewer_page import viewer_page
from e2e3d_stages.runtime.checks import versions


def check() -> str:
    """The pages' templates and the viewer."""
    for name in ("report.html", "report.css", "report.js"):
        (TEMPLATES / name).read_bytes()
    viewer_page("check", b"", {})
    return versions("jinja2") + f", viewer {fetch_viewer.VERSION}"
