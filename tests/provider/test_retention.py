"""What may go from a store, on a disk and in a bucket; the clock is moved on, since a store's times are its own."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from airflow_provider_e2e3d.retention import Garbage, remove, survey
from e2e3d_stages.contract.messages import (
    Claim,
    Failure,
    FailureCode,
    Input,
    InvalidRequest,
    Manifest,
    Overtaken,
    Program,
    Request,
    StageName,
    StoredFile,
    Usage,
    now,
)
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.base import Storage
from e2e3d_stages.store.leases import Watch

DAY = dt.timedelta(days=1)
LIMITS = {"attempt_days": 7, "artifact_days": 30}


def attempt(store: ArtifactStore, stage: StageName, key: str, *, fails: bool = True, **inputs: str) -> int:
    """An attempt with a file and a checkpoint that ended, or that is still held."""
    claim = store.claim(stage, key, "somebody", Watch(0))
    assert claim is not None
    number = claim.attempt
    named = {name: Input(key=other, digest="") for name, other in inputs.items()}
    store.write_request(
        Request.model_validate(
            {"stage": stage, "stage_version": 1, "key": key, "attempt": number, "params": {}, "inputs": named}
        )
    )
    store.storage.write(f"{store.attempt_folder(stage, key, number)}/files/half", bytes(1000))
    store.storage.write(f"{store.folder(stage, key)}/checkpoints/1-{number}/state", bytes(500))
    if fails:
        store.write_failure(stage, key, Failure(code=FailureCode.CRASH, message="It fell over.", attempt=number))
    return number


def artifact(store: ArtifactStore, stage: StageName, key: str, **inputs: str) -> int:
    """An artifact with one file of 1,000 bytes, made of others."""
    claim = store.claim(stage, key, "somebody", Watch(0))
    assert claim is not None
    store.storage.write(f"{store.attempt_folder(stage, key, claim.attempt)}/files/result", bytes(1000))
    usage = Usage(started=now(), finished=now(), wall_seconds=1, stage_seconds=1, cpu_seconds=1, peak_memory_bytes=1)
    manifest = Manifest.model_validate(
        {
            "stage": stage,
            "stage_version": 1,
            "key": key,
            "attempt": claim.attempt,
            "params": {},
            "inputs": {name: {"key": other, "digest": ""} for name, other in inputs.items()},
            "files": (StoredFile(path="result", size=1000, sha256=""),),
            "metrics": {},
            "usage": usage,
            "program": Program(version="1", python="3", platform="x"),
        }
    )
    assert store.commit(manifest)
    return claim.attempt


def scene(store: ArtifactStore, name: str, **made: str) -> None:
    """A run's record, as `lay_out` leaves it."""
    record = {"stages": {stage: {"key": key, "attempt": 1, "reused": False} for stage, key in made.items()}}
    store.storage.write(f"scenes/{name}/a-run/run.json", json.dumps(record).encode())


def spare_after(store: ArtifactStore, days: float, **limits: int) -> dict[str, Garbage]:
    """What may go when so much time has passed."""
    return {found.path: found for found in survey(store, at=now() + days * DAY, **{**LIMITS, **limits})}


def paths(store: ArtifactStore) -> set[str]:
    return {entry.path for entry in store.storage.list()}


def without_own(found: set[str], number: int) -> set[str]:
    """What is there but for the clean-up's own attempt, which keeps who slept for days from going on."""
    own = {path for path in found if f"/attempts/{number}/" in path}
    assert {path.rpartition("/")[2] for path in own} == {"claim.json", "failure.json"}
    return found - own


def test_a_failed_attempt_and_its_checkpoints_go_when_they_are_old_enough(store: ArtifactStore) -> None:
    attempt(store, "sfm", "a")
    assert spare_after(store, 6.9) == {}
    found = spare_after(store, 7.1)
    assert set(found) == {"artifacts/sfm/a/attempts/1", "artifacts/sfm/a/checkpoints"}
    assert found["artifacts/sfm/a/attempts/1"].size > 1000
    assert found["artifacts/sfm/a/checkpoints"].size == 500
    assert found["artifacts/sfm/a/attempts/1"].age.days == 7
    assert set(spare_after(store, 3.1, attempt_days=3)) == set(found)
    assert all(remove(store, spare) for spare in found.values())
    # Whoever slept through it finds itself overtaken, and whoever comes is kept waiting by nobody.
    assert paths(store) == {f"artifacts/sfm/a/attempts/3/{name}.json" for name in ("claim", "failure")}
    with pytest.raises(Overtaken):
        store.check_newest("sfm", "a", 1)
    (own,) = spare_after(store, 7.1).values()
    assert remove(store, own)
    assert paths(store) == set()


def test_a_new_try_keeps_the_checkpoints_that_it_may_go_on_from(store: ArtifactStore) -> None:
    attempt(store, "train", "a")
    later = now() + 8 * DAY
    attempt(store, "train", "a")
    assert survey(store, at=later - 2 * DAY, **LIMITS) == []


def test_what_lost_against_an_artifact_goes_and_the_artifact_stays(store: ArtifactStore) -> None:
    attempt(store, "sfm", "a")
    assert artifact(store, "sfm", "a") == 2
    scene(store, "yard", sfm="a")
    found = spare_after(store, 8)
    assert set(found) == {"artifacts/sfm/a/attempts/1", "artifacts/sfm/a/checkpoints"}
    assert all(remove(store, spare) for spare in found.values())
    assert {"artifacts/sfm/a/manifest.json", "artifacts/sfm/a/attempts/2/files/result"} <= paths(store)
    assert spare_after(store, 1000) == {}


def test_an_artifact_that_nobody_needs_goes_whole_and_one_of_a_scene_never(store: ArtifactStore) -> None:
    artifact(store, "sfm", "lonely")
    artifact(store, "sfm", "shown")
    scene(store, "yard", sfm="shown")
    before = paths(store)
    assert spare_after(store, 30.9) == {}
    (spare,) = spare_after(store, 31.1).values()
    assert (spare.what, spare.path) == ("artifact", "artifacts/sfm/lonely")
    assert set(spare_after(store, 11.1, artifact_days=10)) == {spare.path}
    assert paths(store) == before
    assert remove(store, spare)
    assert without_own(paths(store), 2) == {path for path in before if "lonely" not in path}


def test_what_an_artifact_of_a_scene_was_made_of_stays(store: ArtifactStore) -> None:
    artifact(store, "ingest", "photos")
    artifact(store, "sfm", "poses", ingest="photos")
    artifact(store, "train", "splats", sfm="poses")
    artifact(store, "train", "others", sfm="poses")
    scene(store, "yard", train="splats")
    assert set(spare_after(store, 40)) == {"artifacts/train/others"}


def test_the_newest_result_of_a_scene_stays_when_its_run_was_removed(store: ArtifactStore) -> None:
    artifact(store, "sfm", "a")
    scene(store, "yard", sfm="a")
    store.storage.copy("scenes/yard/a-run/run.json", "scenes/yard/latest.json")
    store.storage.delete("scenes/yard/a-run")
    assert spare_after(store, 1000) == {}


def test_reuse_makes_an_artifact_young_again_and_is_written_once_a_day(store: ArtifactStore) -> None:
    artifact(store, "sfm", "a")
    later = survey(store, at=now() + 40 * DAY, **LIMITS)
    assert [spare.path for spare in later] == ["artifacts/sfm/a"]
    store.note_read("sfm", "a")
    (noted,) = [entry for entry in store.storage.list("artifacts/sfm/a") if entry.path.endswith("read.json")]
    store.note_read("sfm", "a")
    assert [entry for entry in store.storage.list("artifacts/sfm/a") if entry.path.endswith("read.json")] == [noted]
    store.storage.write(noted.path, json.dumps({"read": (now() - 1.1 * DAY).isoformat()}).encode())
    store.note_read("sfm", "a")
    assert now() - dt.datetime.fromisoformat(json.loads(store.storage.read(noted.path))["read"]) < DAY


def test_what_was_reused_since_the_survey_is_not_removed(store: ArtifactStore) -> None:
    artifact(store, "sfm", "a")
    (spare,) = spare_after(store, 40).values()
    store.note_read("sfm", "a")
    before = paths(store)
    manifest = store.manifest("sfm", "a")
    assert not remove(store, spare)
    assert without_own(paths(store), 2) == before
    assert store.manifest("sfm", "a") == manifest
    (own,) = spare_after(store, 8).values()
    assert remove(store, own)
    assert paths(store) == before


def test_an_attempt_holds_what_it_reads_until_it_is_old_itself(store: ArtifactStore) -> None:
    artifact(store, "ingest", "photos")
    attempt(store, "sfm", "a", fails=False, ingest="photos")
    # Somebody claimed the next one, and has not said yet what it reads.
    assert store.claim("sfm", "a", "another", Watch(0))
    assert spare_after(store, 999, attempt_days=1000) == {}
    assert len(spare_after(store, 1000)) == 4


def test_an_attempt_that_somebody_took_up_since_the_survey_is_not_removed(store: ArtifactStore) -> None:
    attempt(store, "sfm", "a")
    found = spare_after(store, 8)
    attempt(store, "sfm", "a", fails=False)
    before = paths(store)
    assert not any(remove(store, spare) for spare in found.values())
    assert paths(store) == before


def test_generations_stay_so_that_force_is_not_forgotten(store: ArtifactStore) -> None:
    artifact(store, "sfm", "a")
    assert store.generation("sfm", "a", "somebody") == 1
    (spare,) = spare_after(store, 40).values()
    assert remove(store, spare)
    assert store.latest_generation("sfm", "a") == 1


def test_captures_scenes_and_ledgers_are_never_spare(store: ArtifactStore) -> None:
    for path in ("captures/statue/1.jpg", "batches/nightly/ledger.json", "scenes/yard/a-run/index.html"):
        store.storage.write(path, b"x")
    assert spare_after(store, 10_000) == {}


def test_with_a_scene_that_cannot_be_read_nothing_is_known_to_be_spare(store: ArtifactStore) -> None:
    artifact(store, "sfm", "a")
    store.storage.write("scenes/yard/a-run/run.json", b"{}")
    with pytest.raises(InvalidRequest, match=r"yard/a-run/run.json"):
        spare_after(store, 40)


def test_what_a_killed_writer_left_on_a_disk_goes_when_it_is_old_and_nothing_beside_it(tmp_path: Path) -> None:
    store = ArtifactStore.open(tmp_path.as_uri())
    artifact(store, "sfm", "a")
    scene(store, "yard", sfm="a")
    before = paths(store)
    left = tmp_path / "artifacts" / "sfm" / "a" / "attempts" / "1" / "files" / ".writing-0123"
    left.write_bytes(bytes(100))
    assert spare_after(store, 6.9) == {}
    (spare,) = spare_after(store, 7.1).values()
    assert (spare.what, spare.size) == ("file", 100)
    assert remove(store, spare)
    assert not left.exists()
    assert paths(store) == before


class Disturbed:
    """A storage in which something happens before one of the questions to it.

    :param when: before which of them, counted from zero.
    """

    def __init__(self, storage: Storage, when: int, happens: Callable[[], object]) -> None:
        self._storage, self.left, self.happens = storage, when, happens

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        if name in ("read", "write", "create", "list", "folders", "remove"):
            if self.left == 0:
                self.happens()
            self.left -= 1
        return found


@pytest.mark.parametrize("what", ["artifact", "attempt", "checkpoints"])
def test_a_run_that_comes_at_any_moment_of_a_removal_loses_nothing(what: str, tmp_path: Path) -> None:
    came, step = 0, 0
    while True:
        store = ArtifactStore.open((tmp_path / str(step)).as_uri())
        artifact(store, "sfm", "a") if what == "artifact" else attempt(store, "sfm", "a")
        (spare,) = (found for found in spare_after(store, 40).values() if found.what == what)
        got: list[object] = []

        def come(store: ArtifactStore = store, got: list[object] = got) -> None:
            """As StageOperator does: take the artifact, else make it, else wait."""
            if reference := store.use("sfm", "a"):
                got.append(reference)
            elif claim := store.claim("sfm", "a", "a run", Watch()):
                request = {"stage": "sfm", "stage_version": 1, "key": "a", "attempt": claim.attempt, "params": {}}
                store.write_request(Request.model_validate(request))
                got.append(claim)

        disturbed = Disturbed(store.storage, step, come)
        gone = remove(ArtifactStore(cast(Storage, disturbed)), spare)
        if disturbed.left >= 0:
            break
        if got and isinstance(got[0], Claim):
            came += 1
            store.heartbeat("sfm", "a", got[0])
            assert store.storage.read(f"{store.attempt_folder('sfm', 'a', got[0].attempt)}/request.json")
        elif got and got[0]:
            manifest = store.manifest("sfm", "a")
            assert manifest is not None
            assert not gone
            assert len(store.storage.read(store.file_path(manifest, "result"))) == 1000
        else:
            # It waited for the clean-up, and for no longer than that.
            assert store.use("sfm", "a") or store.claim("sfm", "a", "a run", Watch())
        step += 1
    assert came or what == "artifact"
    assert step >= 5
