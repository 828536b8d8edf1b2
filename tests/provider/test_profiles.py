"""Profiles: what whoever runs Airflow writes, told by file and line when it cannot work."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_e2e3d.profiles.file import read_profiles
from airflow_provider_e2e3d.profiles.profile import CaptureSize, Profile
from e2e3d_stages.contract.messages import InvalidRequest
from e2e3d_stages.registry import STAGES
from tests.conftest import ROOT

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
        (("default:", "sfm:"), "compress, crop, evaluate, export, ingest, mesh, publish, render is not there"),
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


SIZED = GOOD.replace(
    "train: {backend: local, threads: 3}",
    """train:
      backend: local
      threads: 3
      sizes:
        - up_to: {photos: 100, long_side: 4000}
        - up_to: {photos: 500}
          threads: 8""",
)


@pytest.mark.parametrize(
    ("photos", "long_side", "threads"), [(100, 4000, 3), (101, 4000, 8), (100, 4001, 8), (500, 9000, 8)]
)
def test_the_first_size_that_fits_the_capture_is_taken(
    tmp_path: Path, photos: int, long_side: int, threads: int
) -> None:
    profile = read(tmp_path, SIZED)["local"]
    assert profile.settings("train", CaptureSize(photos=photos, long_side=long_side)).threads == threads


def test_a_capture_that_is_too_large_for_every_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidRequest, match=r"501 photos of up to 1000 px are too many .* for train is for up to 500 photos"
    ):
        read(tmp_path, SIZED)["local"].backend("train", CaptureSize(photos=501, long_side=1000))


def test_a_size_replaces_single_values_of_a_mapping(tmp_path: Path) -> None:
    text = GOOD.replace(
        "{backend: local, threads: 3}",
        "{backend: docker, labels: {a: '1', b: '2'}, sizes: [{labels: {b: '3'}}]}",
    )
    assert read(tmp_path, text)["local"].settings("train").model_dump()["labels"] == {"a": "1", "b": "3"}


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (("threads: 8", "threats: 8"), r":13: local\.stages\.train\.sizes\.1\.threats: "),
        (("{photos: 500}", "{fotos: 500}"), r":12: local\.stages\.train\.sizes\.1\.up_to\.fotos"),
        (("{photos: 500}", "{photos: 0}"), r":12: local\.stages\.train\.sizes\.1\.up_to\.photos: "),
        (("threads: 3", "threads: none"), r":9: local\.stages\.train\.threads: [^;]*$"),
    ],
)
def test_the_line_of_a_mistake_in_a_size_is_told(tmp_path: Path, change: tuple[str, str], place: str) -> None:
    with pytest.raises(InvalidRequest, match=r"profiles\.yaml" + place):
        read(tmp_path, SIZED.replace(*change))


def test_a_profile_s_image_is_that_of_every_stage_that_names_none(tmp_path: Path) -> None:
    text = GOOD.replace("  stages:", "  image: registry/{container}:{version}\n  stages:").replace(
        "local, thr", "docker, thr"
    )
    profile = read(tmp_path, text)["local"]
    assert profile.settings("train").model_dump()["image"] == "registry/{container}:{version}"
    assert profile.settings("sfm").model_dump().get("image") is None


def test_a_price_is_an_hour_s_for_the_machine_and_airflow_s_own_cost_nothing_more(tmp_path: Path) -> None:
    prices = "  prices: {ml.g5.xlarge: 1.8}\n  stages:"

    def price(machine: str, seconds: float | None = 600) -> float | None:
        text = GOOD.replace("  stages:", prices).replace("backend: local", f"backend: local{machine}", 1)
        profile = read(tmp_path, text)["local"]
        return profile.price(profile.backend("sfm"), seconds)

    assert price(", machine: ml.g5.xlarge") == 0.3
    assert price(", machine: ml.g6.xlarge") is None
    assert price(", machine: ml.g5.xlarge", None) is None
    assert price("") == 0


def test_variables_are_filled_in(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD.replace("/srv/store", "${STORE}"), STORE="/data")["local"].store == "file:///data"


@pytest.mark.parametrize(
    "capture",
    ["/srv/captures/a", "file:///srv/captures/a%20b", "s3://uploads/photos/a/", "s3://uploads/photos/{{ 1 }}"],
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
        "s3://uploads/photos/a//b",
        "s3://uploads/photos/a\n",
        "file:///srv/captures/%00",
        "/srv/captures/a\nb",
        "captures",
        "http://host/photos",
        "",
    ],
)
def test_a_capture_elsewhere_is_refused(tmp_path: Path, capture: str) -> None:
    with pytest.raises(InvalidRequest):
        read(tmp_path, GOOD)["local"].admit(capture)


@pytest.mark.parametrize(
    "root", ["/srv/captures", "/srv/captures/", "/srv/captures/a/..", "s3://uploads/photos", "s3://uploads/photos//"]
)
def test_a_root_holds_captures_and_is_none(tmp_path: Path, root: str) -> None:
    profile = read(tmp_path, GOOD)["local"]
    with pytest.raises(InvalidRequest, match="no capture itself"):
        profile.admit(root)
    assert profile.admit(root, or_root=True) in ("file:///srv/captures", "s3://uploads/photos")


def test_a_root_that_lies_in_another_is_a_capture_of_that_one(tmp_path: Path) -> None:
    profile = read(tmp_path, GOOD.replace("[file:///srv/captures,", "[file:///srv, file:///srv/captures,"))["local"]
    assert profile.admit("/srv/captures") == "file:///srv/captures"
    everything = read(tmp_path, GOOD.replace("file:///srv/captures", "file:///"))["local"]
    assert everything.admit("/srv") == "file:///srv"
    with pytest.raises(InvalidRequest):
        everything.admit("/")


def test_the_example_s_profiles_work_whatever_the_size_of_a_capture(tmp_path: Path) -> None:
    example = ROOT / "deploy" / "profiles.example.yaml"
    profiles = read_profiles(example, {})
    assert list(profiles) == ["kubernetes", "sagemaker", "ecs", "hybrid"]
    small, large = (CaptureSize(photos=photos, long_side=4000) for photos in (50, 2000))
    for name, profile in profiles.items():
        for stage in STAGES:
            settings = profile.backend(stage, small).settings
            assert settings.backend == {"hybrid": "sagemaker" if stage == "train" else "docker"}.get(name, name)
            machine = profile.backend(stage, large).machine
            assert machine is None or machine in profile.prices
    trained = [profiles["sagemaker"].backend("train", size).machine for size in (small, large)]
    assert trained == ["ml.g5.xlarge", "ml.g5.4xlarge"]
