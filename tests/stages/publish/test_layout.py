"""Where a run's results end up for people."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_e2e3d.scenes.layout import lay_out
from airflow_provider_e2e3d.scenes.names import folder_of
from airflow_provider_e2e3d.scenes.record import Run
from e2e3d_stages.contract.messages import Advice, Infrastructure, JobRecord, Manifest, Program, StoredFile, Usage
from e2e3d_stages.contract.paths import folder_name, safe_path
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.leases import Watch

MORNING = dt.datetime(2026, 11, 1, 8, 0, tzinfo=dt.timezone.utc)
EVENING = MORNING + dt.timedelta(hours=10)
FILES = {
    "publish": ["index.html", "report.html", "thumbnail.jpg"],
    "train": ["scene.ply", "training.json"],
    "compress": ["scene.sog", "scene.spz", "compression.json"],
    "sfm": ["sparse/0/cameras.bin", "images/a.jpg", "photos.json"],
}

# What a run's record says, and which one is the latest, whatever the kind of store.
on_disk = pytest.mark.parametrize("store_uri", ["file"], indirect=True)


@pytest.fixture
def manifests(store: ArtifactStore, tmp_path: Path) -> dict[str, Manifest]:
    """Committed artifacts whose files hold their own names."""
    made = {}
    for stage, names in FILES.items():
        for name in names:
            (tmp_path / stage / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / stage / name).write_text(name)
        usage = Usage(
            started=MORNING, finished=MORNING, wall_seconds=1, stage_seconds=1, cpu_seconds=1, peak_memory_bytes=2048
        )
        made[stage] = Manifest(
            stage=stage,
            stage_version=1,
            key=f"key-of-{stage}",
            attempt=1,
            params={},
            inputs={},
            files=store.upload(tmp_path / stage, stage, f"key-of-{stage}", 1),
            metrics={"photos_supported": 31, "secret": 1},
            warnings=(Advice(code="blurred", message="Two photos are blurred."),) if stage == "sfm" else (),
            usage=usage,
            program=Program(version="1", python="3", platform="x", image=f"{stage}@sha256:1"),
        )
    return made


@pytest.fixture
def job(store: ArtifactStore) -> Callable[..., None]:
    """Leaves what collecting an attempt's job leaves: job(stage, attempt, price, owner=...)."""

    def leave(stage: str, attempt: int, price: float | None, owner: str = "me") -> None:
        claim = store.claim(stage, f"key-of-{stage}", owner, Watch(0))
        assert claim is not None
        assert claim.attempt == attempt
        record = JobRecord(profile="cloud", backend="ecs", handle={}, machine="large", billable_seconds=60, price=price)
        store.write_job(stage, f"key-of-{stage}", attempt, record)

    return leave


def run(id: str, **others: Any) -> Run:
    """A run of the scene `yard` that took an hour."""
    started = others.get("started", MORNING)
    usual = {"scene": "yard", "owner": "me", "started": started, "ended": started + dt.timedelta(hours=1)}
    return Run(id=id, **{**usual, "dag_id": "reconstruct", "profile": "local", **others})


def latest(store: ArtifactStore) -> dict:
    return json.loads(store.storage.read("scenes/yard/latest.json"))


def test_a_run_gets_the_pages_and_the_deliverables_and_nothing_else(store, manifests) -> None:
    uri = lay_out(store, run("run-1"), manifests)
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


@on_disk
def test_the_run_says_who_asked_for_what(store, manifests) -> None:
    asked = run("manual__2026-11-01T08:00:00+00:00", preset="draft", conf={"capture": "/photos/yard"})
    lay_out(store, asked, manifests)
    record = latest(store)
    told = {name: record[name] for name in ("scene", "run", "dag_id", "run_id", "profile", "preset", "conf")}
    assert told == {
        "scene": "yard",
        "run": folder_name("manual__2026-11-01T08:00:00+00:00"),
        "dag_id": "reconstruct",
        "run_id": "manual__2026-11-01T08:00:00+00:00",
        "profile": "local",
        "preset": "draft",
        "conf": {"capture": "/photos/yard"},
    }
    assert (record["started"], record["ended"]) == ("2026-11-01T08:00:00+00:00", "2026-11-01T09:00:00+00:00")
    assert record["seconds"] == 3600
    assert json.loads(store.storage.read(f"scenes/yard/{record['run']}/run.json")) == record


@on_disk
def test_the_run_says_what_it_is_made_of_and_what_was_reused(store, manifests) -> None:
    lay_out(store, run("run-1", reused={"sfm"}), manifests)
    record = latest(store)
    sfm = record["stages"]["sfm"]
    assert (sfm["key"], sfm["attempt"], sfm["reused"]) == ("key-of-sfm", 1, True)
    assert (sfm["seconds"], sfm["peak_memory_bytes"], sfm["image"], sfm["version"]) == (1, 2048, "sfm@sha256:1", "1")
    assert sfm["warnings"] == [{"code": "blurred", "message": "Two photos are blurred.", "advice": ""}]
    assert record["stages"]["train"]["reused"] is False
    assert record["metrics"] == {"photos_placed": 31, "gaussians": None, "sog_bytes": None}
    assert record["files"]["scene.sog"] == len("scene.sog")


def test_the_report_is_told_which_run_it_is_of_and_its_artifact_stays_as_it_is(store, manifests) -> None:
    place = store.file_path(manifests["publish"], "report.html")
    page = b"<p>before</p><!--run-->what was made<!--/run--><p>after</p>"
    store.storage.write(place, page)
    made = StoredFile(path="report.html", size=len(page), sha256=hashlib.sha256(page).hexdigest())
    files = [made if file.path == made.path else file for file in manifests["publish"].files]
    manifests["publish"] = manifests["publish"].model_copy(update={"files": tuple(files)})
    lay_out(store, run("run-1", profile="cloud"), manifests)
    laid = store.storage.read("scenes/yard/run-1/report.html").decode()
    assert laid.startswith("<p>before</p><!--run-->")
    assert laid.endswith("<!--/run--><p>after</p>")
    assert "what was made" not in laid
    assert "<dd>cloud</dd>" in laid
    assert store.storage.read(place) == page


@on_disk
def test_a_run_costs_what_ran_and_not_what_was_reused(store, manifests, job) -> None:
    for stage, price in {"sfm": 0.25, "train": 1.5, "compress": 0.125, "publish": 0.0625}.items():
        job(stage, 1, price)
    lay_out(store, run("run-1", reused={"sfm", "compress"}), manifests)
    assert latest(store)["price"] == 1.5625
    sfm = latest(store)["stages"]["sfm"]
    assert (sfm["price"], sfm["billed_seconds"]) == (0.25, 60)
    assert (sfm["backend"], sfm["machine"]) == ("ecs", "large")


@on_disk
def test_a_run_of_which_one_part_has_no_price_has_none(store, manifests, job) -> None:
    for stage in ("sfm", "train", "compress"):
        job(stage, 1, 1.0)
    job("publish", 1, None)
    lay_out(store, run("run-1"), manifests)
    assert latest(store)["price"] is None


@on_disk
def test_what_the_same_task_lost_before_costs_too(store, manifests, job) -> None:
    job("train", 1, 3.0, owner="somebody else")
    job("train", 2, 1.0)
    job("train", 3, 0.5)
    train = manifests["train"].model_copy(update={"attempt": 3, "files": ()})
    lay_out(store, run("run-1"), {**manifests, "train": train})
    told = latest(store)["stages"]["train"]
    assert (told["price"], told["billed_seconds"]) == (1.5, 120)


@pytest.mark.slow
def test_laying_out_twice_changes_nothing(store, manifests) -> None:
    def everything() -> dict[str, bytes]:
        return {entry.path: store.storage.read(entry.path) for entry in store.storage.list("scenes")}

    lay_out(store, run("run-1"), manifests)
    once = everything()
    lay_out(store, run("run-1"), manifests)
    assert everything() == once


@pytest.mark.slow
def test_a_run_that_is_done_again_keeps_nothing_of_the_first_try(store, manifests) -> None:
    lay_out(store, run("run-1"), manifests)
    compress = manifests["compress"]
    fewer = tuple(file for file in compress.files if file.path != "scene.spz")
    again = {**manifests, "compress": compress.model_copy(update={"files": fewer})}
    lay_out(store, run("run-1"), again)
    laid = {entry.path for entry in store.storage.list("scenes/yard/run-1")}
    assert "scenes/yard/run-1/scene.spz" not in laid
    assert "scenes/yard/run-1/scene.sog" in laid


# [scheduler] allowed_run_id_pattern, which takes a line break at the end, too; a site may allow anything.
ALPHABET = st.text(st.sampled_from("AZaz09_.~:+-\n"), min_size=1, max_size=8)
IDS = ALPHABET | st.text(min_size=1, max_size=250) | st.text(st.sampled_from("aA:-"), min_size=240, max_size=250)


@given(one=IDS, other=IDS)
@example(one="manual__2026-11-26T18:41:32+00:00", other="manual__2026-11-26T18-41-32-00-00")
@example(one="run", other="Run")
@example(one="a:b", other=folder_name("a:b"))
@example(one=".", other="...")
@example(one="a", other="a\n")
@example(one="x" * 250, other="x" * 249)
def test_no_two_runs_share_a_folder_whatever_their_ids_are(one: str, other: str) -> None:
    names = [folder_name(each) for each in (one, other)]
    # Nor where a file system makes no difference between small and capital letters.
    assert (names[0].casefold() == names[1].casefold()) == (one == other)
    for each, name in zip((one, other), names, strict=True):
        assert folder_of("yard", each) == safe_path(f"scenes/yard/{name}")
        assert "/" not in name
        assert name not in ("latest.json", "owner", "run.json")
        assert name.isascii()
        assert name[0].isalnum() or name[0] == "_"
        assert len(name) <= 117


@pytest.mark.parametrize(
    ("run_id", "starts"),
    [
        ("manual__2026-11-26T18:41:32+00:00", "manual__2026-11-26T18-41-32-00-00."),
        ("scheduled__2026-11-26T00:00:00+00:00", "scheduled__2026-11-26T00-00-00-00-00."),
        ("page-2__manual__2026-11-26T18:41:32.123456+00:00", "page-2__manual__2026-11-26T18-41-32-123456-00-00."),
        ("upload__old-town__0123456789ab", "upload__old-town__0123456789ab"),
    ],
)
def test_a_usual_runs_folder_can_be_read(run_id: str, starts: str) -> None:
    assert folder_name(run_id).startswith(starts)


@pytest.mark.slow
def test_runs_of_any_ids_take_nothing_away_from_one_another(store, manifests) -> None:
    def files(folder: str) -> dict[str, bytes]:
        return {entry.path: store.storage.read(entry.path) for entry in store.storage.list(folder)}

    laid: dict[str, bytes] = {}
    ids = ["run-1", ".", "latest.json", "run-1/", "owner", "RUN-1", "run-3"]
    for number, run_id in enumerate(ids, 1):
        started = EVENING + dt.timedelta(hours=number)
        uri = lay_out(store, run(run_id, started=started, owner=f"owner-{number}"), manifests)
        assert latest(store)["uri"] == uri
        assert len(list(store.storage.folders("scenes/yard"))) == number, run_id
        laid |= files(uri.removeprefix(store.storage.uri).strip("/"))
    assert files("scenes/yard") == {**laid, "scenes/yard/latest.json": store.storage.read("scenes/yard/latest.json")}


@pytest.mark.slow
def test_only_what_an_earlier_try_of_the_run_named_is_removed(store, manifests) -> None:
    place = lay_out(store, run("run-1"), manifests).removeprefix(store.storage.uri).strip("/")
    store.storage.write(f"{place}/notes.txt", b"somebody's own")
    store.storage.write("scenes/yard/beside", b"theirs")
    record = json.loads(store.storage.read(f"{place}/run.json"))
    record["files"] |= {"../beside": 1, "owner": 1, "old.spz": 1}
    store.storage.write(f"{place}/old.spz", b"of an earlier try")
    store.storage.write(f"{place}/run.json", json.dumps(record).encode())
    lay_out(store, run("run-1"), manifests)
    assert store.storage.read(f"{place}/notes.txt") == b"somebody's own"
    assert store.storage.read("scenes/yard/beside") == b"theirs"
    assert f"{place}/old.spz" not in {entry.path for entry in store.storage.list(place)}
    of_another = json.dumps({"run_id": "run-2", "files": {"notes.txt": 1}}).encode()
    for broken in (of_another, b"{", b"[]", b"{}", b'{"run_id": "run-1", "files": 7}', b"7"):
        store.storage.write(f"{place}/run.json", broken)
        lay_out(store, run("run-1"), manifests)
        assert store.storage.read(f"{place}/notes.txt") == b"somebody's own"


@on_disk
def test_a_newer_run_becomes_the_latest(store, manifests) -> None:
    lay_out(store, run("morning"), manifests)
    lay_out(store, run("evening", started=EVENING), manifests)
    assert latest(store)["run"] == "evening"


@on_disk
def test_an_older_run_that_ends_late_does_not_become_the_latest(store, manifests) -> None:
    elsewhere = EVENING.astimezone(dt.timezone(dt.timedelta(hours=-8)))
    lay_out(store, run("evening", started=elsewhere), manifests)
    lay_out(store, run("morning"), manifests)
    assert latest(store)["run"] == "evening"
    assert store.storage.read("scenes/yard/morning/index.html") == b"index.html"


@on_disk
def test_scenes_do_not_share_their_latest(store, manifests) -> None:
    lay_out(store, run("evening", started=EVENING), manifests)
    lay_out(store, run("morning", scene="roof"), manifests)
    assert latest(store)["scene"] == "yard"
    assert json.loads(store.storage.read("scenes/roof/latest.json"))["run"] == "morning"


@pytest.mark.slow
def test_runs_of_the_same_name_of_two_airflows_lie_beside_each_other(store, manifests) -> None:
    first = lay_out(store, run("nightly"), manifests)
    other = lay_out(store, run("nightly", owner="somebody else"), manifests)
    assert first != other
    assert lay_out(store, run("nightly"), manifests) == first
    assert lay_out(store, run("nightly", owner="somebody else"), manifests) == other
    assert len(list(store.storage.folders("scenes/yard"))) == 2


@pytest.mark.slow
def test_of_two_runs_that_end_at_the_same_moment_the_newer_is_the_latest(store, manifests, monkeypatch) -> None:
    write, done = store.storage.write, []

    def write_after_another(path: str, data: bytes) -> None:
        if path.endswith("latest.json") and not done:
            done.append(path)
            lay_out(store, run("evening", started=EVENING, owner="somebody else"), manifests)
        write(path, data)

    monkeypatch.setattr(store.storage, "write", write_after_another)
    lay_out(store, run("morning"), manifests)
    assert done
    assert latest(store)["run"] == "evening"


@pytest.mark.parametrize("name", ["index.html", "report.html"])
def test_a_file_that_is_no_longer_what_its_stage_made_is_laid_out_for_nobody(
    store: ArtifactStore, manifests: dict[str, Manifest], name: str
) -> None:
    store.storage.write(store.file_path(manifests["publish"], name), b"<script>")
    with pytest.raises(Infrastructure, match=f"{name} is damaged"):
        lay_out(store, run("today"), manifests)
    laid = {entry.path.rpartition("/")[2] for entry in store.storage.list("scenes")}
    assert not {name, "run.json", "latest.json"} & laid


def test_the_record_says_by_digest_what_was_laid_out(store: ArtifactStore, manifests: dict[str, Manifest]) -> None:
    lay_out(store, run("today"), manifests)
    folder = folder_of("yard", "today")
    record = json.loads(store.storage.read(f"{folder}/run.json"))
    # The report is told afterwards which run it belongs to.
    assert record["sha256"].keys() == record["files"].keys() - {"report.html"}
    assert all(store.storage.sha256(f"{folder}/{name}") == digest for name, digest in record["sha256"].items())
