"""What every stage program does, whatever the stage: fetch, verify, report, upload, commit, or say why not."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from e2e3d_stages import sagemaker
from e2e3d_stages.contract.messages import (
    Failure,
    FailureCode,
    Infrastructure,
    Input,
    Interrupted,
    InvalidRequest,
    OutOfMemory,
    Request,
    StageError,
    UnreadableCapture,
)
from e2e3d_stages.contract.spec import PRESETS, Limit
from e2e3d_stages.program import run
from e2e3d_stages.registry import STAGES, stage_named
from e2e3d_stages.runtime import context, watchdog
from e2e3d_stages.runtime.context import StageContext
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.captures import list_capture_files
from e2e3d_stages.store.leases import Watch
from tests.conftest import until

KEY = "0123456789abcdef" * 2

StageProgram = Callable[[StageContext], dict[str, Any]]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[[StageProgram], None]:
    """Lets a function stand in for ingest's own program."""

    def put(program: StageProgram) -> None:
        module = types.ModuleType("e2e3d_stages.ingest.stage")
        module.run = program  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return put


def ask(store: ArtifactStore, **changes: Any) -> str:
    """Store a request for ingest; returns its URI."""
    request = Request(
        stage="ingest",
        stage_version=STAGES["ingest"].version,
        key=KEY,
        attempt=1,
        params=STAGES["ingest"].resolve("draft", {}).model_dump(mode="json"),
    ).model_copy(update=changes)
    store.write_request(request)
    return store.request_uri(request.stage, request.key, request.attempt)


def test_a_stage_leaves_files_metrics_warnings_and_what_it_took(
    store: ArtifactStore, play: Callable[[StageProgram], None]
) -> None:
    def program(job: StageContext) -> dict[str, Any]:
        (job.output / "images").mkdir()
        (job.output / "images" / "a.jpg").write_bytes(b"jpeg")
        time.sleep(0.01)
        job.progress(1, 1, "photos")
        job.warn("blur", "One photo is blurred.", "Take it again.")
        return {"photos": 1}

    play(program)
    assert run(ask(store)) == 0
    manifest = store.manifest("ingest", KEY)
    assert manifest is not None
    assert [file.path for file in manifest.files] == ["images/a.jpg"]
    assert manifest.metrics == {"photos": 1}
    assert manifest.warnings[0].advice == "Take it again."
    assert manifest.usage.peak_memory_bytes > 10_000_000
    assert manifest.usage.wall_seconds >= manifest.usage.stage_seconds > 0


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (UnreadableCapture("Two photos only.", hint="Take more."), FailureCode.UNREADABLE_CAPTURE, 2),
        (OutOfMemory("No memory left."), FailureCode.OUT_OF_MEMORY, 4),
        (MemoryError(), FailureCode.OUT_OF_MEMORY, 4),
        (Infrastructure("The bucket is gone."), FailureCode.INFRASTRUCTURE, 5),
        (OSError(errno.ENOSPC, "No space left on device"), FailureCode.INFRASTRUCTURE, 5),
        (StageError("Diverged."), FailureCode.CRASH, 1),
        (ZeroDivisionError("division by zero"), FailureCode.CRASH, 1),
    ],
)
def test_a_failure_says_what_happened_and_its_exit_status_says_whether_to_retry(
    tmp_path: Path,
    play: Callable[[StageProgram], None],
    error: Exception,
    code: FailureCode,
    exit_code: int,
) -> None:
    def program(job: StageContext) -> dict[str, Any]:
        raise error

    play(program)
    store = ArtifactStore.open(tmp_path.as_uri())
    assert run(ask(store)) == exit_code
    failure = store.failure("ingest", KEY, 1)
    assert failure is not None
    assert failure.code is code
    assert failure.message
    assert store.manifest("ingest", KEY) is None


def test_another_version_of_stage_or_contract_is_refused(tmp_path: Path) -> None:
    store = ArtifactStore.open(tmp_path.as_uri())
    for change in ({"stage_version": 99}, {"contract_version": 99}):
        assert run(ask(store, **change)) == 2
        failure = store.failure("ingest", KEY, 1)
        assert failure is not None
        assert "99" in failure.message


def test_an_unknown_stage_is_refused_with_those_that_there_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ArtifactStore.open(tmp_path.as_uri())
    assert run(ask(store, stage="polish")) == 2
    assert "There is no stage 'polish'." in caplog.text
    with pytest.raises(InvalidRequest, match="stage 'polish'") as refusal:
        stage_named("polish")
    assert "publish" in refusal.value.hint


def test_an_unknown_parameter_and_a_request_that_is_not_there_are_refused(tmp_path: Path) -> None:
    store = ArtifactStore.open(tmp_path.as_uri())
    assert run(ask(store, params={"max_sise": 100})) == 2
    failure = store.failure("ingest", KEY, 1)
    assert failure is not None
    assert "'max_sise'" in failure.message
    assert run(store.request_uri("ingest", "0" * 32, 1)) == 2


def test_an_input_that_is_not_what_was_asked_for_is_refused(tmp_path: Path) -> None:
    store = ArtifactStore.open(tmp_path.as_uri())
    uri = ask(
        store,
        stage="sfm",
        stage_version=STAGES["sfm"].version,
        params={},
        inputs={"ingest": Input(key=KEY, digest="0")},
    )
    assert run(uri) == 5


def test_the_second_of_two_attempts_leaves_the_firsts_artifact(
    store: ArtifactStore, play: Callable[[StageProgram], None]
) -> None:
    play(lambda job: {"made_by": 1})
    assert run(ask(store)) == 0
    play(lambda job: {"made_by": 2})
    assert run(ask(store, attempt=2)) == 0
    manifest = store.manifest("ingest", KEY)
    assert manifest is not None
    assert manifest.metrics == {"made_by": 1}


def test_a_retry_resumes_from_the_checkpoint_and_a_commit_clears_it(
    store: ArtifactStore, play: Callable[[StageProgram], None]
) -> None:
    def dies(job: StageContext) -> dict[str, Any]:
        with job.checkpoint(40) as folder:
            (folder / "state").write_text("forty")
        raise RuntimeError("killed")

    def resumes(job: StageContext) -> dict[str, Any]:
        step, folder = job.latest_checkpoint() or (0, Path())
        return {"from": step, "state": (folder / "state").read_text()}

    play(dies)
    assert run(ask(store)) == 1
    play(resumes)
    assert run(ask(store, attempt=2)) == 0
    manifest = store.manifest("ingest", KEY)
    assert manifest is not None
    assert manifest.metrics == {"from": 40, "state": "forty"}
    assert store.latest_checkpoint("ingest", KEY, Path("/nowhere")) is None


def test_a_program_whose_attempt_was_overtaken_starts_nothing(
    store: ArtifactStore, play: Callable[[StageProgram], None]
) -> None:
    play(lambda job: pytest.fail("it must not work"))
    uri = ask(store)
    for owner in ("me", "another"):
        assert store.claim("ingest", KEY, owner, Watch(0))
    assert run(uri) == FailureCode.INTERRUPTED.exit_code
    failure = store.failure("ingest", KEY, 1)
    assert failure is not None
    assert "Attempt 2 has taken over" in failure.message


def test_a_program_that_is_overtaken_saves_stops_and_commits_nothing(
    store: ArtifactStore, play: Callable[[StageProgram], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(context, "PROGRESS_EVERY_SECONDS", 0.02)
    monkeypatch.setattr(context, "LOOK_EVERY_SECONDS", 0)

    def program(job: StageContext) -> dict[str, Any]:
        assert store.claim("ingest", KEY, "another", Watch(0))
        until(lambda: job.stopping)
        with job.checkpoint(40) as folder:
            (folder / "state").write_text("forty")
        return {}

    play(program)
    assert store.claim("ingest", KEY, "me", Watch())
    assert run(ask(store)) == FailureCode.INTERRUPTED.exit_code
    assert store.manifest("ingest", KEY) is None
    assert (store.latest_checkpoint("ingest", KEY, tmp_path / "in") or (0,))[0] == 40


def test_a_program_that_slept_while_it_stored_its_files_commits_nothing(
    store: ArtifactStore, play: Callable[[StageProgram], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = ArtifactStore.upload

    def overtaken(*args: Any) -> Any:
        assert store.claim("ingest", KEY, "another", Watch(0))
        return upload(*args)

    monkeypatch.setattr(ArtifactStore, "upload", overtaken)
    play(lambda job: {})
    assert store.claim("ingest", KEY, "me", Watch())
    assert run(ask(store)) == FailureCode.INTERRUPTED.exit_code
    assert store.manifest("ingest", KEY) is None


def test_progress_never_goes_back_and_tells_rate_and_eta(
    tmp_path: Path, play: Callable[[StageProgram], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(context, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(context, "PROGRESS_EVERY_SECONDS", 0.01)
    store = ArtifactStore.open(tmp_path.as_uri())
    seen = []

    def program(job: StageContext) -> dict[str, Any]:
        for done in (0, 10, 5, 20):
            job.progress(done, 100, "steps", psnr=done / 2)
            clock[0] += 0.3
            until(lambda psnr=done / 2: (told := store.progress("ingest", KEY, 1)) and told.figures == {"psnr": psnr})
            seen.append(store.progress("ingest", KEY, 1))
        return {}

    play(program)
    assert run(ask(store)) == 0
    last = seen[-1]
    assert [item.done for item in seen if item] == [0, 10, 10, 20]
    assert last is not None
    assert last.rate is not None
    assert last.rate == pytest.approx(20 / 0.9)
    assert last.eta_seconds == pytest.approx(80 / last.rate)
    assert last.figures == {"psnr": 10}
    assert "20/100 steps (20 %)" in str(last)


def test_the_time_left_goes_by_what_happened_of_late(
    tmp_path: Path, play: Callable[[StageProgram], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(context, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(context, "PROGRESS_EVERY_SECONDS", 0.01)
    store = ArtifactStore.open(tmp_path.as_uri())
    told = []

    def program(job: StageContext) -> dict[str, Any]:
        for done in range(601):
            job.progress(done, 1000, "steps")
            # Ten steps a second, then one.
            clock[0] += 0.1 if done < 550 else 1
        while not told or told[-1] is None or told[-1].done < 600:
            told.append(store.progress("ingest", KEY, 1))
        return {}

    play(program)
    assert run(ask(store)) == 0
    assert told[-1].rate == pytest.approx(1, abs=0.1)
    assert told[-1].eta_seconds == pytest.approx(400 / told[-1].rate)


@pytest.mark.slow
def test_every_part_of_the_work_tells_how_far_it_is(
    tmp_path: Path, play: Callable[[StageProgram], None], monkeypatch: pytest.MonkeyPatch, s3_root: str
) -> None:
    told = []
    write = ArtifactStore.write_progress
    monkeypatch.setattr(ArtifactStore, "write_progress", lambda *words: told.append(words[-1]) or write(*words))
    monkeypatch.setattr(context, "PROGRESS_EVERY_SECONDS", 0.01)
    capture = ArtifactStore.open(f"{s3_root}/capture").storage
    for number in range(4):
        capture.write(f"{number}.jpg", bytes(300_000))

    def program(job: StageContext) -> dict[str, Any]:
        job.progress(1, 1, "photos", phase="preparing photos")
        until(lambda: told and told[-1].phase == "preparing photos")
        (job.output / "model").write_bytes(bytes(500_000))
        return {}

    play(program)
    assert (
        run(ask(ArtifactStore.open(tmp_path.as_uri()), capture=capture.uri, listing=list_capture_files(capture))) == 0
    )
    last = {item.phase: (item.done, item.total, item.unit) for item in told}
    assert list(last) == ["fetching photos", "preparing photos", "storing"]
    assert last["preparing photos"] == (1, 1, "photos")
    assert last["storing"] == (0.5, 0.5, "MB")
    assert last["fetching photos"][1:] == (1.2, "MB")
    phases = told[-1].phases
    assert [phase.name for phase in phases] == list(last)
    assert all(before.finished <= after.started for before, after in pairwise(phases))
    assert all(phase.started <= phase.finished for phase in phases)


def test_what_a_stage_shows_lies_beside_its_progress_and_is_no_part_of_the_artifact(
    store: ArtifactStore, play: Callable[[StageProgram], None]
) -> None:
    def program(job: StageContext) -> dict[str, Any]:
        job.show("preview.jpg", b"first")
        job.show("preview.jpg", b"last")
        return {}

    play(program)
    assert run(ask(store)) == 0
    assert store.storage.read(f"{store.attempt_folder('ingest', KEY, 1)}/preview.jpg") == b"last"
    manifest = store.manifest("ingest", KEY)
    assert manifest is not None
    assert manifest.files == ()


def test_what_cannot_be_shown_ends_no_work(
    tmp_path: Path, play: Callable[[StageProgram], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise Infrastructure("The bucket did not answer.")

    def program(job: StageContext) -> dict[str, Any]:
        job.show("preview.jpg", b"picture")
        return {}

    monkeypatch.setattr(ArtifactStore, "show", broken)
    play(program)
    store = ArtifactStore.open(tmp_path.as_uri())
    assert run(ask(store)) == 0
    assert store.manifest("ingest", KEY) is not None


def test_sigterm_lets_the_stage_stop_by_itself(tmp_path: Path) -> None:
    store = ArtifactStore.open((tmp_path / "store").as_uri())
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, time, types\n"
        "from e2e3d_stages import program\n"
        "def run(job):\n"
        "    print('started', flush=True)\n"
        "    while not job.stopping: time.sleep(0.01)\n"
        "    with job.checkpoint(7) as folder: (folder / 'state').write_text('x')\n"
        "    job.check_stop()\n"
        "module = types.ModuleType('e2e3d_stages.ingest.stage'); module.run = run\n"
        "sys.modules[module.__name__] = module\n"
        "sys.exit(program.run(sys.argv[1]))\n"
    )
    with subprocess.Popen([sys.executable, str(script), ask(store)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(20) == FailureCode.INTERRUPTED.exit_code
    failure = store.failure("ingest", KEY, 1)
    assert failure is not None
    assert failure.code is FailureCode.INTERRUPTED
    assert (store.latest_checkpoint("ingest", KEY, tmp_path) or (0,))[0] == 7


def test_sigterm_during_a_transfer_is_an_interruption_too(
    tmp_path: Path, play: Callable[[StageProgram], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore.open(tmp_path.as_uri())
    uri = ask(store)

    def interrupted_upload(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    play(lambda job: {})
    monkeypatch.setattr(ArtifactStore, "upload", interrupted_upload)
    assert run(uri) == FailureCode.INTERRUPTED.exit_code
    failure = store.failure("ingest", KEY, 1)
    assert failure is not None
    assert failure.code is FailureCode.INTERRUPTED


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the process would have ended with."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(watchdog, "LOOK_EVERY_SECONDS", 0.01)
    return codes


@pytest.mark.parametrize("in_time", [False, True])
def test_a_stopped_stage_is_ended_after_the_grace_period_unless_it_left_in_time(
    tmp_path: Path,
    play: Callable[[StageProgram], None],
    monkeypatch: pytest.MonkeyPatch,
    exits: list[int],
    in_time: bool,
) -> None:
    monkeypatch.setattr(watchdog, "GRACE_SECONDS", 60 if in_time else 0.1)

    def program(context: StageContext) -> dict[str, Any]:
        context.stop()
        until(lambda: in_time or exits)
        context.check_stop()
        return {}

    play(program)
    assert run(ask(ArtifactStore.open(tmp_path.as_uri()))) == FailureCode.INTERRUPTED.exit_code
    # Nothing is left that would end this process later.
    assert not any(thread.name == "watchdog" for thread in threading.enumerate())
    assert set(exits) == (set() if in_time else {FailureCode.INTERRUPTED.exit_code})


def test_a_stage_that_hears_no_signal_is_ended_after_the_grace_period(
    tmp_path: Path, play: Callable[[StageProgram], None], monkeypatch: pytest.MonkeyPatch, exits: list[int]
) -> None:
    monkeypatch.setattr(watchdog, "GRACE_SECONDS", 0.1)
    sleep = ctypes.CDLL(None).usleep

    def program(context: StageContext) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGTERM)
        # Deep in a library: Python's own handler of the signal waits for it to return.
        while not exits:
            sleep(20_000)
        return {}

    monkeypatch.setattr(StageContext, "stop", lambda self: None)
    play(program)
    run(ask(ArtifactStore.open(tmp_path.as_uri())))
    assert set(exits) == {FailureCode.INTERRUPTED.exit_code}


@pytest.mark.parametrize(
    ("longest", "silent", "words"), [(86_400, 0.2, "said nothing new for"), (0.2, 3_600, "took longer than")]
)
def test_a_stage_that_hangs_is_ended_and_says_so(
    tmp_path: Path,
    play: Callable[[StageProgram], None],
    monkeypatch: pytest.MonkeyPatch,
    exits: list[int],
    longest: float,
    silent: float,
    words: str,
) -> None:
    monkeypatch.setitem(STAGES, "ingest", replace(STAGES["ingest"], longest=Limit(seconds=60, silent=silent)))
    store = ArtifactStore.open(tmp_path.as_uri())
    failures: list[Failure | None] = []

    def program(context: StageContext) -> dict[str, Any]:
        context.progress(1, 2, "photos")
        while not exits:
            # A number that does not change is no news.
            context.progress(1, 2, "photos")
            time.sleep(0.01)
        failures.append(store.failure("ingest", KEY, 1))
        return {}

    play(program)
    run(ask(store, longest_seconds=longest))
    assert exits[0] == FailureCode.CRASH.exit_code
    assert failures[0] is not None
    assert words in failures[0].message
    assert "newest checkpoint" in failures[0].hint


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_stage_that_hangs_ends_also_where_its_reason_cannot_be_stored(
    tmp_path: Path, play: Callable[[StageProgram], None], monkeypatch: pytest.MonkeyPatch, exits: list[int]
) -> None:
    def away(*_: object) -> None:
        raise Infrastructure("The store does not answer.")

    def program(_context: StageContext) -> dict[str, Any]:
        monkeypatch.setattr(ArtifactStore, "write_failure", away)
        until(lambda: exits)
        return {}

    play(program)
    run(ask(ArtifactStore.open(tmp_path.as_uri()), longest_seconds=0.1))
    assert exits[0] == FailureCode.CRASH.exit_code


def test_sagemaker_is_told_why_an_attempt_ends(
    tmp_path: Path, play: Callable[[StageProgram], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def program(job: StageContext) -> dict[str, Any]:
        raise UnreadableCapture("There are only 2 photos.", hint="Take more. " * 1000)

    play(program)
    monkeypatch.setattr(sagemaker, "FAILURE", tmp_path / "failure")
    store = ArtifactStore.open(tmp_path.as_uri())
    assert run(ask(store), ends=sagemaker.ends) == 2
    assert store.failure("ingest", KEY, 1) is not None
    told = (tmp_path / "failure").read_text()
    assert told.startswith("There are only 2 photos. Take more.")
    assert len(told) <= 1024


def test_an_interruption_ends_no_attempt_on_sagemaker_which_starts_the_job_again(
    tmp_path: Path, play: Callable[[StageProgram], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def program(job: StageContext) -> dict[str, Any]:
        raise Interrupted("The stage was stopped.")

    play(program)
    monkeypatch.setattr(sagemaker, "FAILURE", tmp_path / "failure")
    store = ArtifactStore.open(tmp_path.as_uri())
    assert run(ask(store), ends=sagemaker.ends) == FailureCode.INTERRUPTED.exit_code
    assert store.failure("ingest", KEY, 1) is None
    assert not (tmp_path / "failure").exists()


def test_a_folder_of_sagemaker_that_cannot_be_written_changes_nothing(
    tmp_path: Path, play: Callable[[StageProgram], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def program(job: StageContext) -> dict[str, Any]:
        raise OutOfMemory("No memory left.")

    play(program)
    monkeypatch.setattr(sagemaker, "FAILURE", tmp_path / "nowhere" / "failure")
    store = ArtifactStore.open(tmp_path.as_uri())
    assert run(ask(store), ends=sagemaker.ends) == 4
    assert store.failure("ingest", KEY, 1) is not None


def test_every_preset_of_every_stage_is_valid_and_documented() -> None:
    for stage in STAGES.values():
        for preset in PRESETS:
            assert json.dumps(stage.resolve(preset, {}).model_dump(mode="json"))
        for name, field in stage.params.model_fields.items():
            assert field.title, f"{stage.name}.{name} has no title"
            assert field.description, f"{stage.name}.{name} has no description"
