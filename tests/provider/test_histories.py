"""Thousands of histories in which machines, clocks, network and bucket do what they can: what is promised is kept.

`E2E3D_HISTORIES` says how many `make soak` tries on all cores, and `E2E3D_FIRST_HISTORY` the seed of the first.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from e2e3d_stages.contract.messages import Manifest
from e2e3d_stages.store import leases
from e2e3d_stages.store.artifacts import ArtifactStore
from tests.simulator import FAULTS, Fault, Plan, drawn, history, shrunk

CHUNK = 1000


def broken_in(seeds: range) -> str | None:
    """The first history of these that breaks a promise, and the smallest that does so, too."""
    for seed in seeds:
        if broken := history(drawn(seed)):
            smallest = shrunk(drawn(seed), broken)
            return f"History {seed} breaks a promise: {broken}\nThe smallest that does: {smallest}"
    return None


def cpu_seconds_of(seeds: range) -> tuple[str | None, float]:
    """`broken_in`, and what it took of this process's core."""
    begun = time.process_time()
    return broken_in(seeds), time.process_time() - begun


@pytest.mark.slow
def test_whatever_happens_one_job_makes_the_artifact_and_nothing_that_counts_is_lost() -> None:
    assert (told := broken_in(range(1000))) is None, told


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_it_is_so_in_many_more_histories() -> None:
    first = int(os.environ.get("E2E3D_FIRST_HISTORY", 1000))
    end = first + int(os.environ.get("E2E3D_HISTORIES", 1_000_000))
    chunks = [range(start, min(start + CHUNK, end)) for start in range(first, end, CHUNK)]
    seconds, begun = 0.0, time.monotonic()
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as cores:
        for chunk, (told, took) in zip(chunks, cores.map(cpu_seconds_of, chunks), strict=True):
            seconds += took
            if told:
                cores.shutdown(cancel_futures=True)
                pytest.fail(told)
            if chunk is chunks[-1] or chunk.stop % 10_000 == 0:
                tried, passed = chunk.stop - first, time.monotonic() - begun
                print(
                    f"{tried:,} histories, from {first} on: {passed:.0f} s, {seconds / tried * 1000:.1f} ms of CPU each"
                )


def test_the_same_seed_is_the_same_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 10)
    told = [history(drawn(seed)) for seed in range(40)]
    assert any(told)
    assert told == [history(drawn(seed)) for seed in range(40)]


def test_a_lease_that_is_too_short_is_found_and_told_in_the_smallest_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 10)
    seed = next(seed for seed in range(100) if history(drawn(seed)))
    told = broken_in(range(seed, seed + 1)) or ""
    assert told.startswith(f"History {seed} breaks a promise: ")
    assert "The smallest that does: Plan(" in told


@pytest.mark.slow
def test_silence_while_the_store_was_away_is_found_to_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LONGEST_GAP_SECONDS", 1e9)
    outages = (Fault(60, "away", 175),)
    assert "a living attempt was overtaken" in {
        (history(Plan(seed, starts=(0, 5), faults=outages)) or "").split(":")[0] for seed in range(40)
    }


def test_an_attempt_that_does_not_look_whether_it_was_overtaken_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ArtifactStore, "check_newest", lambda *_: None)
    # The owner and its job sleep, and another comes meanwhile.
    plans = [
        Plan(0, starts=(0, 60), faults=(Fault(first, "pause", 300), Fault(first + 1, "pause", 300)))
        for first in range(10, 40)
    ]
    assert "two jobs at one time" in {(history(plan) or "").split(":")[0] for plan in plans}


def test_a_commit_that_replaces_an_artifact_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(store: ArtifactStore, manifest: Manifest) -> bool:
        store._save(f"{store.folder(manifest.stage, manifest.key)}/manifest.json", manifest)
        return True

    # A job and its owner sleep between the last look at who is newest and the commit; another makes the artifact.
    plans = [
        Plan(0, starts=(0, 200), faults=(Fault(first, "pause", 600), Fault(first + 1, "pause", 600)))
        for first in range(70, 82)
    ]
    assert {history(plan) for plan in plans} == {None}
    monkeypatch.setattr(ArtifactStore, "commit", replace)
    assert "a manifest was replaced" in {history(plan) for plan in plans}


def test_a_store_that_keeps_one_checkpoint_only_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    save = ArtifactStore.save_checkpoint

    def save_one(store: ArtifactStore, stage: str, key: str, attempt: int, step: int, source: Path) -> None:
        save(store, stage, key, attempt, step, source)
        store.storage.delete(f"{store.folder(stage, key)}/checkpoints/{step - 1}-{attempt}")

    plans = [Plan(0, faults=(Fault(first, "rot"),)) for first in range(20, 60)]
    assert {history(plan) for plan in plans} == {None}
    monkeypatch.setattr(ArtifactStore, "save_checkpoint", save_one)
    assert "work was lost" in {(history(plan) or "").split(":")[0] for plan in plans}


def test_a_store_that_drops_what_it_has_just_saved_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    save = ArtifactStore.save_checkpoint

    def save_in_vain(store: ArtifactStore, stage: str, key: str, attempt: int, step: int, source: Path) -> None:
        save(store, stage, key, attempt, step, source)
        store.storage.delete(f"{store.folder(stage, key)}/checkpoints/{step}-{attempt}")

    monkeypatch.setattr(ArtifactStore, "save_checkpoint", save_in_vain)
    assert history(Plan(0)) == "work was lost: step 1 was removed, and 0 is left"


def test_two_checkpoints_are_no_promise_against_two_that_are_damaged() -> None:
    """The third newest is dropped though the newest two were damaged since they were written: the soak found it."""
    faults = ((22, "busy"), (29, "crash after"), (62, "rot"), (77, "rot"), (78, "key stays"))
    plan = Plan(2594178, starts=(9.7,), cleanings=(15.7, 9.0), faults=tuple(Fault(*each) for each in faults))
    assert history(plan) is None


def test_in_a_bucket_that_ignores_conditions_nobody_claims_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = [Plan(seed, starts=(0, 0.1, 0.2), conditional=False) for seed in range(40)]
    assert {history(plan) for plan in plans} == {None}
    monkeypatch.setattr(ArtifactStore, "probe_once", lambda _store: None)
    assert "two owners of" in {(history(plan) or "")[:13] for plan in plans}


def test_what_goes_wrong_does() -> None:
    assert {fault.kind for seed in range(1000) for fault in drawn(seed).faults} == set(FAULTS)
