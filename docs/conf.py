"""The documentation as a site, by Sphinx: `make docs`. Reading it fetches nothing from elsewhere."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from e2e3d_stages import __version__

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "E2E3D on Airflow"
author = "the E2E3D authors"
copyright = f"2026, {author}"
release = version = __version__

extensions = ["myst_parser", "sphinx_copybutton"]
exclude_patterns = ["examples/__pycache__"]
# Links lead to headings by GitHub's names for them.
myst_heading_anchors = 4
html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False
# What is only indented is typed into a shell or printed by a program.
highlight_language = "text"

# Files of the repository's root that are pages of the site, and the pages that include them.
ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}


def relink(app: Sphinx, path: Path, page: str, content: list[str]) -> None:
    """Let links of a file in the root lead from this folder to where they led from there."""

    def relinked(link: re.Match[str]) -> str:
        target, hash_, heading = link[1].partition("#")
        target = ROOT_PAGES.get(target) or posixpath.relpath(target, "docs")
        return f"]({target}{hash_}{heading})"

    content[0] = re.sub(r"\]\((?!\w+:|#)([^)]+)\)", relinked, content[0])


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("include-read", relink)
