"""Figures read alike wherever they are shown: in Python, and in a browser's pages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from e2e3d_stages.contract.figures import FIGURES, Figure
from e2e3d_stages.contract.formatting import Format, formatted
from tests.conftest import ROOT

PAGES = ROOT / "airflow_provider_e2e3d" / "ui" / "pages"
CASES: list[tuple[Format, float | None, str]] = [
    ("count", 40_000, "40,000"),
    ("decibels", 32.449, "32.4 dB"),
    ("ratio", 0.9044, "0.904"),
    ("bytes", 0, "0 B"),
    ("bytes", 950, "950 B"),
    ("bytes", 51_234, "51.2 kB"),
    ("bytes", 512_600, "513 kB"),
    ("bytes", 2e6, "2.0 MB"),
    ("bytes", 999_600, "1.0 MB"),
    ("bytes", 1.5e9, "1.5 GB"),
    ("bytes", 3e15, "3000 TB"),
    ("seconds", 8.24, "8.2 s"),
    ("seconds", 9.96, "10 s"),
    ("seconds", 59.97, "1 min 0 s"),
    ("seconds", 250, "4 min 10 s"),
    ("seconds", 7500, "2 h 5 min"),
    ("seconds", 7199, "2 h 0 min"),
    ("dollars", 0, "$0.00"),
    ("dollars", 0.004, "< $0.01"),
    ("dollars", 1234.5, "$1,234.50"),
    ("bytes", None, "–"),
]


@pytest.mark.parametrize(("kind", "value", "text"), CASES)
def test_a_figure_reads_well(kind: Format, value: float | None, text: str) -> None:
    assert formatted(value, kind) == text


def test_a_browser_says_the_same(tmp_path: Path) -> None:
    script = tmp_path / "say.mjs"
    script.with_name("words.mjs").write_text((PAGES / "words.js").read_text())
    script.write_text(
        "import { figureText } from './words.mjs';\n"
        f"const cases = {json.dumps([[kind, value] for kind, value, _ in CASES])};\n"
        "const say = ([format, x]) => figureText({ format, stage: 'train', name: 'x' }, { metrics: { x } });\n"
        "console.log(JSON.stringify(cases.map(say)));\n"
    )
    node = Path(sys.executable).with_name("node")
    told = subprocess.run([node, script], check=True, capture_output=True, text=True).stdout
    assert json.loads(told) == [text for _, _, text in CASES]


def test_a_part_is_told_with_its_whole() -> None:
    record = {"metrics": {"photos_placed": 33, "photos_uploaded": 40}}
    placed = next(figure for figure in FIGURES if figure.name == "photos_placed")
    assert placed.text(record) == "33 of 40"
    assert placed.text({"metrics": {"photos_placed": 33}}) == "33"


def test_no_two_figures_share_a_name_and_each_is_of_a_stage_or_of_the_run() -> None:
    names = [figure.name for figure in FIGURES]
    assert len(set(names)) == len(names)
    of_runs: list[Figure] = [figure for figure in FIGURES if figure.stage is None]
    assert [figure.name for figure in of_runs] == ["seconds", "price"]
