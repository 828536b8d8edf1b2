"""Profiles: what whoever runs Airflow writes, told by file and line when it cannot work."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_e2e3d.profiles import Profile, read_profiles
from e2e3d_stages.contract import InvalidRequest

GOOD = """
local:
  store: file:///srv/store
  captures: [file:///srv/captures, s3://uploads/photos]
  stages:
    default: {backend: local}
    train: {backend: local, threads: 3}
"""


def read(tmp_path: Path, text: str, **variables: str) -> dict[str, Profile]:
    file = tmp_path / "profiles.yaml"
    file.write_text(text)
    return read_profiles(file, variables)


def test_each_stage_has_its_own_settings_and_default_stands_for_the_rest(tmp_path: Path) -> None:
    profile = read(tmp_path, GOOD)["local"]
    assert profile.settings("train").model_dump()["threads"] == 3
    assert profile.settings("sfm").model_dump()["threads"] is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("threads: 3", "threats: 3"), "threats"),
        (("threads: 3", "threads: none"), "threads"),
        (("backend: local, threads", "backend: locale, threads"), "no backend 'locale'"),
        (("train:", "training:"), "no stage training"),
        (("default:", "sfm:"), "compress, evaluate, ingest, publish is not there"),
        (("store: file:///srv/store", "stores: x"), "store"),
        (("captures: [", "captures: {["), "not YAML"),
        (("/srv/store", "${STORE}"), "STORE"),
    ],
)
def test_a_mistake_is_told_with_its_file(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        read(tmp_path, GOOD.replace(*change))
    assert words in refusal.value.message
    assert "profiles.yaml" in refusal.value.message


def test_the_line_of_a_mistake_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"profiles\.yaml:4: local\.captures: "):
        read(tmp_path, GOOD.replace("[file:///srv/captures, s3://uploads/photos]", "here"))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("memlimit: 2g", "did you mean mem_limit"),
        ("command: sh", "the stage's own"),
        ("threads: none", "valid integer"),
        ("auto_remove: maybe", "'force', 'success' or 'never'"),
    ],
)
def test_the_line_of_a_mistake_in_one_stage_s_settings_is_told(tmp_path: Path, setting: str, words: str) -> None:
    second = GOOD.replace("local:", "other:").rstrip() + f"\n    sfm:\n      backend: docker\n      {setting}\n"
    place = rf"profiles\.yaml:17: other\.stages\.sfm\.{setting.split(':')[0]}: "
    with pytest.raises(InvalidRequest, match=place + f".*{words}"):
        read(tmp_path, GOOD + second)


def test_variables_are_filled_in(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD.replace("/srv/store", "${STORE}"), STORE="/data")["local"].store == "file:///data"


@pytest.mark.parametrize(
    "capture", ["/srv/captures", "/srv/captures/a", "file:///srv/captures/a%20b", "s3://uploads/photos/a/"]
)
def test_a_capture_below_a_root_is_admitted(tmp_path: Path, capture: str) -> None:
    assert read(tmp_path, GOOD)["local"].admit(capture)


@pytest.mark.parametrize(
    "capture",
    [
        "/srv/captures2/a",
        "/srv/captures/../store",
        "file:///srv/captures/%2e%2e/store",
        "s3://uploads/photos2",
        "s3://uploads/photos/../x",
        "s3://uploads",
        "captures",
        "http://host/photos",
        "",
    ],
)
def test_a_capture_elsewhere_is_refused(tmp_path: Path, capture: str) -> None:
    with pytest.raises(InvalidRequest):
        read(tmp_path, GOOD)["local"].admit(capture)
