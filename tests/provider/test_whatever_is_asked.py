"""Whatever a person, a file or a folder says is taken, or refused in words; nothing else ends with it."""

from __future__ import annotations

import json
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_e2e3d import retention
from airflow_provider_e2e3d.captures.headers import look_at, size_of
from airflow_provider_e2e3d.captures.listing import captures_below
from airflow_provider_e2e3d.pipelines.batch.requested import requested_scenes
from airflow_provider_e2e3d.pipelines.form import reconstruction_params
from airflow_provider_e2e3d.profiles.file import read_profiles
from airflow_provider_e2e3d.profiles.profile import Profile
from airflow_provider_e2e3d.scenes.names import SLUG, folder_of, scene_of, scenes_of
from e2e3d_stages.contract.messages import InvalidRequest, StageError, now
from e2e3d_stages.contract.paths import path_problem
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.opening import open_storage
from tests.strategies import json_values


@pytest.mark.slow
@given(captures=st.lists(st.text() | st.text().map("s3://bucket/{}".format), unique=True, max_size=6))
def test_every_capture_has_a_scene_of_its_own_that_can_be_a_folder(captures: list[str]) -> None:
    scenes = scenes_of(captures)
    assert set(scenes) == set(captures)
    for capture, scene in scenes.items():
        assert re.fullmatch(SLUG, scene_of(capture))
        assert re.fullmatch(SLUG, scene)


@given(run=st.text())
def test_every_run_has_a_folder_whatever_its_id_is(run: str) -> None:
    folder = folder_of("scene", run)
    assert not path_problem(folder)
    assert folder.count("/") == 2


@pytest.mark.slow
@given(content=st.dictionaries(st.text(max_size=5) | st.integers(), json_values, max_size=3) | json_values | st.text())
def test_a_profile_file_is_read_or_refused_in_words(content: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "profiles.yaml"
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        file.write_text(text, encoding="utf-8", errors="surrogatepass")
        with suppress(InvalidRequest):
            read_profiles(file, {})


SETTINGS = st.sampled_from(sorted(Profile.model_fields))


@pytest.mark.slow
@given(values=st.dictionaries(SETTINGS, json_values, max_size=3))
def test_a_profile_with_odd_values_is_refused_in_words(values: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "profiles.yaml"
        profile = {"store": "file:///store", "captures": ["file:///captures"], **values}
        file.write_text(yaml.safe_dump({"local": profile}), encoding="utf-8", errors="surrogatepass")
        with suppress(InvalidRequest):
            read_profiles(file, {})


COLUMNS = st.sampled_from(["capture", "scene", "train_iterations", "force"]) | st.text()
ROWS = st.lists(
    st.dictionaries(
        st.sampled_from(["capture", "scene", "train_iterations", "force"]) | st.text(), json_values, max_size=4
    )
    | json_values,
    max_size=3,
)


@pytest.mark.slow
@given(
    rows=ROWS, data=st.binary(max_size=40), name=st.sampled_from(["list.json", "list.csv", "bytes.csv", "bytes.json"])
)
def test_a_list_of_captures_is_read_row_by_row_or_refused_in_words(rows: list[Any], data: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lines = "capture,scene\n" + "\n".join(f"{row!r},x" for row in rows)
        text = (json.dumps(rows) if name.endswith("json") else lines).encode(errors="surrogatepass")
        root = Path(folder)
        (root / name).write_bytes(data if name.startswith("bytes") else text)
        profile = Profile(store=(root / "store").as_uri(), captures=(root.as_uri(),))
        with suppress(InvalidRequest):
            list(requested_scenes((root / name).as_uri(), profile, reconstruction_params(), open_storage))


NAMES = st.text(st.characters(blacklist_characters="/\x00"), min_size=1, max_size=8) | st.sampled_from(
    ["a.zip", "photo.jpg", ".hidden", "dji", "é\udce9", "images", "masks"]
)


@given(
    files=st.dictionaries(
        st.lists(NAMES.filter(lambda name: name not in (".", "..")), min_size=1, max_size=3).map("/".join),
        st.binary(max_size=90),
        max_size=6,
    )
)
def test_whatever_lies_among_captures_each_is_listed_and_looked_at_by_itself(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "whole").mkdir()
        (root / "whole" / "1.jpg").write_bytes(b"\xff\xd8\xff" + bytes(2000))
        for path, data in files.items():
            with suppress(OSError, UnicodeEncodeError):
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(data)
        found = list(captures_below(open_storage(root.as_uri())))
        assert "whole" in {capture.name for capture in found}
        for capture in found:
            json.dumps(capture.fingerprint + capture.name).encode()
            with suppress(StageError):
                look_at(open_storage(capture.uri), capture)


@given(
    data=st.binary(max_size=60) | st.sampled_from([b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"II*\x00"]),
    more=st.binary(),
)
def test_a_header_tells_a_size_or_nothing(data: bytes, more: bytes) -> None:
    assert min(size_of(data + more) or (1,)) > 0


KEY = "0123456789abcdef" * 2


@pytest.mark.slow
@given(
    record=json_values
    | st.fixed_dictionaries({"stages": json_values | st.dictionaries(st.text(), json_values, max_size=2)}),
    manifest=json_values | st.fixed_dictionaries({"inputs": json_values, "attempt": json_values}),
)
def test_a_clean_up_removes_nothing_where_it_cannot_read_what_is_needed(record: Any, manifest: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = ArtifactStore.open(Path(folder).as_uri())
        store.storage.write("scenes/a/b/run.json", json.dumps(record).encode())
        store.storage.write(f"artifacts/sfm/{KEY}/manifest.json", json.dumps(manifest).encode())
        for attempt in ("1", "2", "²", "x"):
            store.storage.write(f"artifacts/sfm/{KEY}/attempts/{attempt}/files/a", b"a")
        at = now().replace(year=2100)
        with suppress(StageError):
            for spare in retention.survey(store, at=at, attempt_days=1, artifact_days=1):
                with suppress(StageError):
                    retention.remove(store, spare)
