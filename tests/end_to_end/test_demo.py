"""`make demo` tells what it cannot take, and what to do about it."""

from __future__ import annotations

import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture
def demo(
    tmp_path: Path, airflow_database: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Path], tuple[int, str]]:
    """Run it for a capture, with a home of its own; returns its exit status and what it printed."""

    def run(capture: Path) -> tuple[int, str]:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        shutil.copy(airflow_database, home)
        (home / "migrated").touch()
        main = runpy.run_path(str(ROOT / "deploy" / "demo" / "demo.py"))["main"]
        main.__globals__["HOME"] = home
        monkeypatch.setattr(sys, "argv", ["demo.py", "run", "--capture", str(capture)])
        status = main()
        return status, capsys.readouterr().out

    return run


@pytest.mark.slow
def test_make_demo_names_each_file_that_it_cannot_take_and_says_what_to_do(
    demo: Callable[[Path], tuple[int, str]], tmp_path: Path
) -> None:
    capture = tmp_path / "holiday"
    capture.mkdir()
    (capture / "notes.jpg").write_text("not a photo")
    status, told = demo(capture)
    assert status == 1
    assert "notes.jpg" in told
    assert "The whole log: " in told
    assert "Traceback" not in told


@pytest.mark.slow
def test_make_demo_says_what_to_type_where_there_is_no_capture(
    demo: Callable[[Path], tuple[int, str]], tmp_path: Path
) -> None:
    status, told = demo(tmp_path / "nowhere")
    assert status == 2
    assert told.endswith("Say where the photos are: make demo CAPTURE=path/to/photos\n")
