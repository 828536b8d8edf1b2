"""The pages in docs/reference say what the code says."""

import runpy
from pathlib import Path

import pytest

PAGES = runpy.run_path(str(Path(__file__).parent.parent / "docs" / "make_reference.py"))


@pytest.mark.parametrize("name", PAGES["PAGES"])
def test_a_page_is_what_the_code_declares(name):
    written = (PAGES["REFERENCE"] / name).read_text(encoding="utf-8")
    assert written == PAGES["PAGES"][name](), "run `make reference`, and commit what it changes"


def test_no_page_of_the_reference_is_left_over():
    assert {page.name for page in PAGES["REFERENCE"].glob("*.md")} == set(PAGES["PAGES"])
