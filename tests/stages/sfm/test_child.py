from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sfm_runs import make_context

from e2e3d_stages.contract.messages import Interrupted, OutOfMemory, StageError
from e2e3d_stages.runtime.context import StageContext
from e2e3d_stages.sfm import stage
from e2e3d_stages.sfm.stage import supervise


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StageContext]:
    monkeypatch.setattr(stage, "POLL_SECONDS", 0.01)
    context = make_context(tmp_path / "context", "sfm", {})
    yield context
    context.close()


def python(code: str) -> list[str]:
    return [sys.executable, "-c", f"import os, sys, time\n{code}"]


def test_a_killed_child_means_out_of_memory(context: StageContext) -> None:
    with pytest.raises(OutOfMemory, match="out of memory") as error:
        supervise(python("os.kill(os.getpid(), 9)"), context)
    assert "fewer features" in error.value.hint


def test_a_failed_allocation_means_out_of_memory(context: StageContext) -> None:
    with pytest.raises(OutOfMemory):
        supervise(python('print("what(): std::bad_alloc", flush=True); os.abort()'), context)


def test_an_abort_is_reported_with_the_last_lines_of_the_log(context: StageContext) -> None:
    with pytest.raises(StageError, match=r"SIGABRT: Check failed: x > 0") as error:
        supervise(python("print('start'); print('Check failed: x > 0', flush=True); os.abort()"), context)
    assert not isinstance(error.value, OutOfMemory)
    assert error.value.details["log"] == ["start", "Check failed: x > 0"]


def test_an_exception_in_the_child_is_a_stage_error(context: StageContext) -> None:
    with pytest.raises(StageError, match="status 1: ValueError: bad"):
        supervise(python("raise ValueError('bad')"), context)


def test_a_stopped_stage_stops_its_child_at_once(context: StageContext) -> None:
    threading.Timer(0.1, context.stop).start()
    started = time.monotonic()
    with pytest.raises(Interrupted):
        supervise(python("time.sleep(60)"), context)
    assert time.monotonic() - started < 3
    assert not psutil.Process().children()


def test_the_childs_progress_is_passed_on(context: StageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        context, "progress", lambda done, total, unit, *, phase: seen.append((phase, done, total, unit))
    )
    lines = '{"phase": "matching", "done": 3, "total": 9, "unit": "pairs"}\\n'
    supervise(python(f"open({str(context.scratch / 'events.jsonl')!r}, 'a').write('{lines}')"), context)
    assert seen == [("matching", 3, 9, "pairs")]


@pytest.mark.parametrize(("everywhere", "kept"), [(1, True), (9, False)])
def test_all_that_photos_show_is_tried_where_masks_leave_too_little(
    everywhere: int, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from e2e3d_stages.sfm import export, reconstruct
    from e2e3d_stages.sfm.params import Params

    (tmp_path / "features.db").write_text("masked")
    task = reconstruct.Task(tmp_path, [{"name": f"{n}.jpg"} for n in range(10)], Params(), 1, tmp_path, tmp_path)
    task.masks = export.Masks(tmp_path, cut_out=True)

    def extract(task: reconstruct.Task, phase: str) -> None:
        assert task.look_everywhere
        task.database.write_text("everything")

    monkeypatch.setattr(reconstruct, "extract", extract)
    monkeypatch.setattr(reconstruct, "match_all", lambda *_: None)
    monkeypatch.setattr(reconstruct, "reconstruct", lambda task, _: (str(task.look_everywhere), []))
    monkeypatch.setattr(reconstruct, "_missing", lambda task, _: [0] * (everywhere if task.look_everywhere else 9))
    monkeypatch.setattr(reconstruct.Task, "read_ids", lambda _: None)
    assert reconstruct.reconstruct_masked(task, []) == (str(kept), [])
    assert task.look_everywhere is kept
    assert task.database.read_text() == ("everything" if kept else "masked")


@pytest.mark.parametrize(("left", "filtered"), [(30, True), (9, False)], ids=["a turntable", "a burst"])
def test_what_stood_still_is_left_out_unless_nothing_else_is_there(
    left: int, filtered: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pycolmap

    from e2e3d_stages.sfm import reconstruct
    from e2e3d_stages.sfm.params import Params

    photos = [{"name": f"{n}.jpg", "source": f"{n}.jpg", "taken": None, "width": 9, "height": 9} for n in range(10)]
    task = reconstruct.Task(tmp_path, photos, Params(), 1, tmp_path, tmp_path)
    pycolmap.Database.open(task.database).close()
    verified: list[bool] = []
    monkeypatch.setattr(reconstruct, "match", lambda *_: None)
    monkeypatch.setattr(reconstruct, "background_stood_still", lambda *_: True)
    monkeypatch.setattr(pycolmap, "verify_matches", lambda *a: verified.append(a[2].filter_stationary_matches))
    monkeypatch.setattr(reconstruct, "verified_pairs", lambda _: {(0, n): 20 for n in range(1, left + 1)})
    reconstruct.match_all(task, [(0, 5)], "matching")
    assert task.leave_out_still is filtered
    assert verified == ([True] if filtered else [True, False])


def test_photos_that_stand_in_two_models_are_of_one_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from e2e3d_stages.sfm import reconstruct
    from e2e3d_stages.sfm.params import Params

    def model(*numbers: int) -> Any:
        images = {n: SimpleNamespace(name=f"{n}.jpg", num_points3D=90, has_pose=True) for n in numbers}
        return SimpleNamespace(images=images)

    task = reconstruct.Task(tmp_path, [{"name": f"{n}.jpg"} for n in range(8)], Params(), 1, tmp_path, tmp_path)
    monkeypatch.setattr(reconstruct, "verified_pairs", lambda _: {(n, n + 1): 80 for n in range(7)})
    within = reconstruct.gather_evidence(task, [model(*range(8)), model(2, 3, 4)])
    assert not any(item.other_model for item in within.values())
    beside = reconstruct.gather_evidence(task, [model(*range(5)), model(3, 4, 5, 6)])
    assert [name for name, item in beside.items() if item.other_model] == ["5.jpg", "6.jpg"]
