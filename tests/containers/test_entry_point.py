"""What a container's arguments mean."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from e2e3d_stages import __main__ as entry_point
from e2e3d_stages import sagemaker
from e2e3d_stages.contract.messages import InvalidRequest


@pytest.fixture
def sagemaker_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for /opt/ml."""
    monkeypatch.setattr(sagemaker, "HYPERPARAMETERS", tmp_path / "hyperparameters.json")
    monkeypatch.setattr(sagemaker, "FAILURE", tmp_path / "failure")
    monkeypatch.setattr(sys, "argv", ["e2e3d_stages", "train"])
    # The program sets up its log anew.
    monkeypatch.setattr(logging.root, "handlers", [])
    return tmp_path


def test_sagemaker_passes_the_address_as_a_hyperparameter(sagemaker_folder: Path) -> None:
    given = {"request_uri": json.dumps("s3://a/request.json")}
    (sagemaker_folder / "hyperparameters.json").write_text(json.dumps(given))
    assert sagemaker.request_uri() == "s3://a/request.json"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"request_uri": "s3://not/json"}', '{"request_uri": "7"}'])
def test_hyperparameters_without_an_address_are_refused(sagemaker_folder: Path, content: str) -> None:
    (sagemaker_folder / "hyperparameters.json").write_text(content)
    with pytest.raises(InvalidRequest) as refusal:
        sagemaker.request_uri()
    assert "request_uri" in refusal.value.message + refusal.value.hint


def test_train_outside_of_sagemaker_ends_with_the_status_of_a_request_that_cannot_work(
    sagemaker_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry_point.main() == 2
    assert "hyperparameter request_uri" in capsys.readouterr().out


def test_sagemaker_is_told_why_a_job_fails_also_where_its_store_is_not_there(sagemaker_folder: Path) -> None:
    uri = json.dumps((sagemaker_folder / "artifacts" / "ingest" / "request.json").as_uri())
    (sagemaker_folder / "hyperparameters.json").write_text(json.dumps({"request_uri": uri}))
    assert entry_point.main() == 2
    assert (sagemaker_folder / "failure").read_text().startswith("There is no request at file://")


@pytest.mark.slow
def test_the_check_tries_the_stages_that_it_is_given_and_says_with_what() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "e2e3d_stages", "check", "ingest", "sfm", "compress", "publish"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["ingest", "sfm", "compress", "publish"]
    assert "pycolmap" in lines[1]


@pytest.mark.slow
def test_the_check_names_every_stage_that_cannot_run_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "pycolmap.py").write_text("raise ImportError('no such thing')")
    done = subprocess.run(
        [sys.executable, "-m", "e2e3d_stages", "check", "sfm", "ingest"],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    first, second = done.stdout.splitlines()
    assert first == "sfm cannot run here: ImportError: no such thing"
    assert second.startswith("ingest: ")


def test_a_store_is_checked_for_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["e2e3d_stages", "check-store", tmp_path.as_uri()])
    assert entry_point.main() == 0
    assert capsys.readouterr().out.splitlines()[0] == "create: what is there is never replaced"
    monkeypatch.setattr(sys, "argv", ["e2e3d_stages", "check-store", "ftp://somewhere"])
    assert entry_point.main() == 2
    assert "neither file:// nor s3://" in capsys.readouterr().out
