"""Whoever may write to a store may have written anything: each question to it is answered, or refused in words."""

from __future__ import annotations

import json
import operator
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2e3d_stages.contract.messages import (
    Claim,
    Failure,
    FailureCode,
    Model,
    Progress,
    Request,
    StageError,
    now,
)
from e2e3d_stages.contract.paths import path_problem
from e2e3d_stages.program import run
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.leases import Watch
from tests.stages.test_paths import KEY, file_of, manifest_of
from tests.strategies import json_values

STAGE = "sfm"
FOLDER = f"artifacts/{STAGE}/{KEY}"
ATTEMPT = f"{FOLDER}/attempts/1"
REQUEST = Request(stage=STAGE, stage_version=1, key=KEY, attempt=1, params={})
WRITTEN: dict[str, dict[str, Any]] = {
    f"{FOLDER}/manifest.json": json.loads(manifest_of([file_of("scene", b"a scene")])),
    f"{FOLDER}/read.json": {"read": now().isoformat()},
    f"{FOLDER}/generations/1.json": {"owner": "a run"},
    f"{FOLDER}/checkpoints/2-1/checkpoint.json": {"step": 2, "files": [file_of("state", b"2")]},
}
MESSAGES: dict[str, Model] = {
    "claim.json": Claim(owner="a run", attempt=1, claimed=now()),
    "request.json": REQUEST,
    "progress.json": Progress(stage=STAGE, attempt=1, done=1, total=2, unit="steps", updated=now()),
    "failure.json": Failure(code=FailureCode.CRASH, message="It fell over.", attempt=1),
}
WRITTEN |= {f"{ATTEMPT}/{name}": message.model_dump(mode="json") for name, message in MESSAGES.items()}


def is_name(text: str) -> bool:
    """Whether a folder on a disk can be called so."""
    return "/" not in text and not path_problem(text)


@st.composite
def odd_files(draw: st.DrawFn) -> dict[str, bytes]:
    """What a store holds of an artifact, some of it missing, changed or no message at all."""
    files = {}
    for path, written in WRITTEN.items():
        fields = st.sampled_from(sorted(written)) | st.text(max_size=5)
        changed = st.dictionaries(fields, json_values, max_size=2).map(partial(operator.or_, written))
        told = (st.just(written) | changed | json_values).map(lambda it: json.dumps(it).encode())
        data = draw(told | st.binary(max_size=20) | st.none())
        if data is not None:
            files[path] = data
    for name in draw(st.lists(st.text(min_size=1, max_size=6).filter(is_name), max_size=2)):
        files |= {f"{FOLDER}/{part}/{name}/x": b"" for part in ("attempts", "checkpoints")}
        files[f"{FOLDER}/generations/{name}.json"] = b""
    return files


@pytest.mark.slow
@given(files=odd_files())
def test_every_question_to_an_odd_store_is_answered_or_refused_in_words(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = ArtifactStore.open(Path(folder, "store").as_uri())
        for path, data in files.items():
            store.storage.write(path, data)
        scratch = Path(folder, "scratch")
        for ask in (
            partial(store.reference, STAGE, KEY),
            partial(store.manifest, STAGE, KEY),
            partial(store.failure, STAGE, KEY, 1),
            lambda: str(store.progress(STAGE, KEY, 1)),
            partial(store.read_request, f"{ATTEMPT}/request.json"),
            partial(store.latest_generation, STAGE, KEY),
            partial(store.generation, STAGE, KEY, "another run"),
            partial(store.latest_checkpoint, STAGE, KEY, scratch),
            partial(store.use, STAGE, KEY),
            partial(store.claim, STAGE, KEY, "another run", Watch(0)),
            partial(store.heartbeat, STAGE, KEY, Claim(owner="a run", attempt=1, claimed=now())),
        ):
            with suppress(StageError):
                ask()


@pytest.mark.slow
@given(changes=st.dictionaries(st.sampled_from(sorted(Request.model_fields)), json_values, max_size=3))
def test_a_program_ends_with_a_status_of_its_own_whatever_its_request_says(changes: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = ArtifactStore.open(Path(folder, "store").as_uri())
        asked = {**REQUEST.model_dump(mode="json"), **changes}
        store.storage.write(f"{ATTEMPT}/request.json", json.dumps(asked).encode())
        ended = run(store.request_uri(STAGE, KEY, 1))
    assert ended in {code.exit_code for code in FailureCode} - {FailureCode.CRASH.exit_code}
