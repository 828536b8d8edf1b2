"""Where a run's results end up for people."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest

from e2e3d_stages.contract import Manifest, Program, Usage
from e2e3d_stages.publish.layout import lay_out
from e2e3d_stages.store import ArtifactStore

MORNING = dt.datetime(2026, 11, 1, 8, 0, tzinfo=dt.timezone.utc)
EVENING = MORNING + dt.timedelta(hours=10)
FILES = {
    "publish": ["index.html", "report.html", "thumbnail.jpg"],
    "train": ["scene.ply", "training.json"],
    "compress": ["scene.sog", "scene.spz", "compression.json"],
    "sfm": ["sparse/0/cameras.bin", "images/a.jpg", "photos.json"],
}


@pytest.fixture
def manifests(store: ArtifactStore, tmp_path: Path) -> dict[str, Manifest]:
    """Committed artifacts whose files hold their own names."""
    made = {}
    for stage, names in FILES.items():
        for name in names:
            (tmp_path / stage / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / stage / name).write_text(name)
        usage = Usage(
            started=MORNING, finished=MORNING, wall_seconds=1, stage_seconds=1, cpu_seconds=1, peak_memory_bytes=1
        )
        made[stage] = Manifest(
            stage=stage,
            stage_version=1,
            key=f"key-of-{stage}",
            attempt=1,
            params={},
            inputs={},
            files=store.upload(tmp_path / stage, stage, f"key-of-{stage}", 1),
            metrics={"photos_given": 31, "secret": 1},
            usage=usage,
            program=Program(version="1", python="3", platform="x"),
        )
    return made


def latest(store: ArtifactStore) -> dict:
    return json.loads(store.storage.read("scenes/yard/latest.json"))


def test_a_run_gets_the_pages_and_the_deliverables_and_nothing_else(store, manifests) -> None:
    uri = lay_out(store, "yard", "run-1", manifests, started=MORNING, owner="me")
    assert uri == store.storage.uri_of("scenes/yard/run-1")
    laid = {entry.path.removeprefix("scenes/yard/run-1/") for entry in store.storage.list("scenes/yard/run-1")}
    assert laid == {
        "index.html",
        "report.html",
        "thumbnail.jpg",
        "scene.ply",
        "scene.sog",
        "scene.spz",
        "sparse/0/cameras.bin",
        "photos.json",
        "owner",
        "run.json",
    }
    assert store.storage.read("scenes/yard/run-1/scene.sog") == b"scene.sog"


def test_the_run_says_what_it_is_made_of_and_what_was_reused(store, manifests) -> None:
    lay_out(store, "yard", "run-1", manifests, started=MORNING, owner="me", reused={"sfm"})
    record = json.loads(store.storage.read("scenes/yard/run-1/run.json"))
    assert record["stages"]["sfm"] == {"key": "key-of-sfm", "attempt": 1, "reused": True}
    assert record["stages"]["train"]["reused"] is False
    assert record["metrics"] == {"photos_given": 31}


def test_laying_out_twice_changes_nothing(store, manifests) -> None:
    def everything() -> dict[str, bytes]:
        return {entry.path: store.storage.read(entry.path) for entry in store.storage.list("scenes")}

    lay_out(store, "yard", "run-1", manifests, started=MORNING, owner="me")
    once = everything()
    lay_out(store, "yard", "run-1", manifests, started=MORNING, owner="me")
    assert everything() == once


def test_a_run_that_is_done_again_keeps_nothing_of_the_first_try(store, manifests) -> None:
    lay_out(store, "yard", "run-1", manifests, started=MORNING, owner="me")
    compress = manifests["compress"]
    fewer = tuple(file for file in compress.files if file.path != "scene.spz")
    again = {**manifests, "compress": compress.model_copy(update={"files": fewer})}
    lay_out(store, "yard", "run-1", again, started=MORNING, owner="me")
    laid = {entry.path for entry in store.storage.list("scenes/yard/run-1")}
    assert "scenes/yard/run-1/scene.spz" not in laid
    assert "scenes/yard/run-1/scene.sog" in laid


def test_a_newer_run_becomes_the_latest(store, manifests) -> None:
    lay_out(store, "yard", "morning", manifests, started=MORNING, owner="me")
    lay_out(store, "yard", "evening", manifests, started=EVENING, owner="me")
    assert latest(store)["run"] == "evening"


def test_an_older_run_that_ends_late_does_not_become_the_latest(store, manifests) -> None:
    elsewhere = EVENING.astimezone(dt.timezone(dt.timedelta(hours=-8)))
    lay_out(store, "yard", "evening", manifests, started=elsewhere, owner="me")
    lay_out(store, "yard", "morning", manifests, started=MORNING, owner="me")
    assert latest(store)["run"] == "evening"
    assert store.storage.read("scenes/yard/morning/index.html") == b"index.html"


def test_scenes_do_not_share_their_latest(store, manifests) -> None:
    lay_out(store, "yard", "evening", manifests, started=EVENING, owner="me")
    lay_out(store, "roof", "morning", manifests, started=MORNING, owner="me")
    assert latest(store)["scene"] == "yard"
    assert json.loads(store.storage.read("scenes/roof/latest.json"))["run"] == "morning"


def test_runs_of_the_same_name_of_two_airflows_lie_beside_each_other(store, manifests) -> None:
    first = lay_out(store, "yard", "nightly", manifests, started=MORNING, owner="me")
    other = lay_out(store, "yard", "nightly", manifests, started=MORNING, owner="somebody else")
    assert first != other
    assert lay_out(store, "yard", "nightly", manifests, started=MORNING, owner="me") == first
    assert lay_out(store, "yard", "nightly", manifests, started=MORNING, owner="somebody else") == other
    assert len(list(store.storage.folders("scenes/yard"))) == 2


def test_of_two_runs_that_end_at_the_same_moment_the_newer_is_the_latest(store, manifests, monkeypatch) -> None:
    write, done = store.storage.write, []

    def write_after_another(path: str, data: bytes) -> None:
        if path.endswith("latest.json") and not done:
            done.append(path)
            lay_out(store, "yard", "evening", manifests, started=EVENING, owner="somebody else")
        write(path, data)

    monkeypatch.setattr(store.storage, "write", write_after_another)
    lay_out(store, "yard", "morning", manifests, started=MORNING, owner="me")
    assert done
    assert latest(store)["run"] == "evening"
