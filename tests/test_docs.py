"""The documentation's links lead somewhere, its commands do what they say, and it becomes a site."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from e2e3d_stages.contract.messages import FailureCode

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def headings(page):
    """The anchors that a page's headings have on GitHub."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_inside_the_repository_leads_to_a_file_and_a_heading(page):
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


DEMO = "tests/end_to_end/test_demo.py"
PLATFORM = "tests/compose/test_platform.py"
BUCKET = f"{PLATFORM}::test_the_tutorials_commands_bring_photos_into_the_bucket_and_trigger_their_run"
BACKUP = f"{PLATFORM}::test_a_lost_platform_comes_back_from_its_backup"
# What a reader is told to type, by how it begins: where it is run, or why nowhere.
COMMANDS = {
    "make demo": DEMO,
    "make ui": "tests/end_to_end/test_standalone.py",
    "make up": "tests/compose/conftest.py::platform",
    "make down": f"{PLATFORM}::test_down_keeps_the_data",
    "make backup": BACKUP,
    "make restore": BACKUP,
    "make push": "tests/containers/test_push.py",
    "make images": ".ci/run",
    "make check": ".ci/run",
    "make test": ".ci/run",
    "make reference": "tests/test_reference.py",
    "make docs": "tests/test_docs.py::test_the_site_is_built_without_a_warning_and_fetches_nothing",
    "make soak": "takes hours",
    "make bench": "says nothing on a machine that does other things",
    "make gpu": "needs a GPU",
    "E2E3D_PICTURES=": "tests/end_to_end/test_pages.py",
    "PIP_FIND_LINKS=": ".ci/run",
    "pip install": "needs a release",
    "python -m e2e3d_stages check-store": "tests/containers/test_entry_point.py",
    "airflow dags trigger reconstruct": "tests/end_to_end/test_standalone.py",
    "airflow dags trigger reconstruct_batch": "tests/end_to_end/test_batches.py",
    "airflow dags trigger reconstruct_cleanup": "tests/provider/test_cleanup_runs.py",
    "airflow pools set": BUCKET,
    "airflow edge worker": "was run by hand: the Edge provider is no requirement of the tests",
    "docker compose exec scheduler airflow pools set": BUCKET,
    "docker compose exec scheduler airflow dags trigger reconstruct_batch": "tests/end_to_end/test_batches.py",
    ". ./.env": BUCKET,
    "export AWS_": BUCKET,
    "aws --endpoint-url http://localhost:9000 ": BUCKET,
    "token=$(curl": BUCKET,
    "curl": BUCKET,
    "curl -X PATCH": "tests/provider/test_approval.py",
    "aws ": "needs an AWS account",
    "kubectl": "needs a cluster",
    "python deploy/monitoring/kubernetes.py": "needs a cluster",
    "helm": "needs a cluster",
    "cosign": "needs a release",
    "gh ": "needs a release",
}
FENCED = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
PROGRAMS = "make|pip|python|airflow|aws|docker|kubectl|helm|cosign|gh|curl|export"
TYPED = re.compile(rf"(?:[A-Z][A-Z0-9_]*=\S* )*(?:{PROGRAMS}|\.) |token=")


def commands_of(page):
    """What a page has its reader type: commands in its indented and `sh` blocks, each on one line."""
    text = page.read_text(encoding="utf-8")
    fenced = [block for language, block in FENCED.findall(text) if language == "sh"]
    indented = re.findall(r"^ {4,}(.*\n)", FENCED.sub("", text), re.MULTILINE)
    lines = re.sub(r"\\\n", " ", "".join([*fenced, *indented])).splitlines()
    return [line for line in lines if TYPED.match(line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_command_is_run_somewhere_or_it_is_said_why_not(page):
    for command in commands_of(page):
        known = [start for start in COMMANDS if command.startswith(start)]
        assert known, f"nothing runs {command!r}"
        path, _, name = COMMANDS[max(known, key=len)].partition("::")
        if "/" in path:
            assert f"def {name}" in (ROOT / path).read_text(encoding="utf-8") or not name, command


def test_commands_are_found_in_every_kind_of_block():
    found = [command for page in PAGES for command in commands_of(page)]
    assert [start for start in COMMANDS if not any(command.startswith(start) for command in found)] == []


def test_troubleshooting_has_a_section_for_each_kind_of_failure():
    assert {code.value for code in FailureCode} <= headings(ROOT / "docs" / "troubleshooting.md")


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_fetches_nothing(tmp_path):
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", ROOT / "docs", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    pages = {str(page.relative_to(tmp_path)): page.read_text(encoding="utf-8") for page in tmp_path.rglob("*.html")}
    assert {f"{page.relative_to(ROOT / 'docs').with_suffix('')}.html" for page in ROOT.glob("docs/**/*.md")} <= set(
        pages
    )
    for name, page in pages.items():
        assert re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"(?:https?:)?//[^\"]*", page) == [], name
    assert 'href="captures.html"' in pages["index.html"]
    assert 'href="contributing.html"' in pages["index.html"]
