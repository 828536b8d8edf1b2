"""What a run will take and cost, told before anything is spent, and refused above a limit."""

from __future__ import annotations

import datetime as dt
import io
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from PIL import Image

from airflow_provider_e2e3d.captures.headers import Content, look_at, size_of
from airflow_provider_e2e3d.captures.listing import capture_at
from airflow_provider_e2e3d.costs import budget as budgets
from airflow_provider_e2e3d.costs.budget import reserve
from airflow_provider_e2e3d.costs.estimate import Estimate, estimate, is_above
from airflow_provider_e2e3d.costs.history import KEPT, Measurement, remember, remembered
from airflow_provider_e2e3d.profiles.profile import Profile
from e2e3d_stages.contract.messages import InvalidRequest, now
from e2e3d_stages.registry import STAGES
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.base import Storage
from e2e3d_stages.store.opening import open_storage
from tests.airflow_runs import Outcome
from tests.provider.conftest import Script

Run = Callable[..., Outcome]
GPU = {
    "backend": "sagemaker",
    "image": "123456789012.dkr.ecr.eu-central-1.amazonaws.com/e2e3d/{container}:{version}",
    "RoleArn": "arn:aws:iam::123456789012:role/stages",
    "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 50},
}


def params(preset: str = "draft", **train: Any) -> dict[str, Any]:
    asked = {name: stage.resolve(preset, {}).model_dump(mode="json") for name, stage in STAGES.items()}
    asked["train"] |= train
    return asked


def profile(prices: dict[str, float] | None = None, **stages: dict[str, Any]) -> Profile:
    return Profile(
        store="s3://scenes/e2e3d",
        captures=("s3://uploads",),
        prices=prices or {},
        stages={"default": {"backend": "local"}, **stages},
    )


def capture(folder: Path, photos: int, size: tuple[int, int] = (1200, 900)) -> Storage:
    (folder / "deep" / "er").mkdir(parents=True, exist_ok=True)
    for number in range(photos):
        Image.new("RGB", size, (number, 0, 0)).save(folder / "deep" / "er" / f"{number}.jpg")
    return open_storage(folder.as_uri())


def seconds(found: Estimate) -> dict[str, float]:
    return {each.stage: each.seconds for each in found.stages}


def test_more_photos_and_more_steps_take_longer(tmp_path: Path) -> None:
    few, many = capture(tmp_path / "few", 10), capture(tmp_path / "many", 40)
    base = seconds(estimate(few, profile(), params(), []))
    more = seconds(estimate(many, profile(), params(), []))
    # All pairs are compared, so that four times the photos is more than four times the work.
    assert more["sfm"] > 4 * base["sfm"]
    assert more["train"] == base["train"]
    assert more["evaluate"] > base["evaluate"]
    longer = seconds(estimate(few, profile(), params(iterations=5000), []))
    assert longer["train"] > 1.9 * base["train"]
    assert {**longer, "train": 0} == {**base, "train": 0}
    assert seconds(estimate(few, profile(), params("high"), []))["train"] > 10 * base["train"]


def test_former_runs_correct_it_each_on_its_own_machine(tmp_path: Path) -> None:
    photos = capture(tmp_path / "photos", 10)
    rough = estimate(photos, profile(), params(), [])
    assert {each.basis for each in rough.stages} == {"rough"}
    history = [Measurement("train", None, expected, took) for expected, took in ((100, 50), (10, 5), (30, 900))]
    history.append(Measurement("train", "another", 100, 100_000))
    found = {each.stage: each for each in estimate(photos, profile(), params(), history).stages}
    assert found["train"].seconds == pytest.approx(seconds(rough)["train"] / 2, abs=0.1)
    assert found["train"].basis == "measured 3 times"
    assert found["sfm"].basis == "rough"


def test_a_person_who_wants_to_be_asked_above_nothing_is_asked_however_short_former_runs_were(tmp_path: Path) -> None:
    history = [Measurement(stage, None, 100, 0.0) for stage in STAGES]
    photos = capture(tmp_path / "photos", 10)
    found = estimate(photos, profile(), params(), history).stages
    assert {each.basis for each in found} == {"measured 1 time"}
    assert all(is_above("0 min", [each]) for each in found)
    rented = profile({"ml.g5.xlarge": 3.6}, train=GPU)
    history = [Measurement("train", "ml.g5.xlarge", 100, 0.0)]
    (train,) = (each for each in estimate(photos, rented, params(), history).stages if each.stage == "train")
    assert is_above("0 USD", [train])


def test_what_is_billed_is_what_costs(tmp_path: Path) -> None:
    photos = capture(tmp_path / "photos", 10)
    rented = profile({"ml.g5.xlarge": 3.6}, train=GPU)
    rough = estimate(photos, rented, params(), [])
    train = next(each for each in rough.stages if each.stage == "train")
    # Airflow's own machines cost nothing more.
    assert rough.price == train.price == pytest.approx(train.seconds / 1000, abs=1e-3)
    # A GPU is not as slow as two cores.
    assert train.seconds < seconds(estimate(photos, profile(), params(), []))["train"] / 2
    history = [Measurement("train", "ml.g5.xlarge", 100, 100, billed=300)]
    billed = estimate(photos, rented, params(), history)
    assert seconds(billed) == seconds(rough)
    assert billed.price == pytest.approx(3 * train.price, abs=1e-3)


def test_what_is_too_dear_is_told_with_what_makes_it_so(tmp_path: Path) -> None:
    found = estimate(capture(tmp_path / "photos", 10), profile({"ml.g5.xlarge": 360}, train=GPU), params(), [])
    found.check(found.price or 0)
    with pytest.raises(
        InvalidRequest, match=r"may cost \$7.\d\d.*\(\$2.00\): train \$7.\d\d \(1 min \d\d s on ml.g5.xlarge"
    ) as told:
        found.check(2)
    assert "train_iterations" in told.value.hint


def test_a_machine_without_a_price_is_named(tmp_path: Path) -> None:
    found = estimate(capture(tmp_path / "photos", 10), profile(train=GPU), params(), [])
    assert found.price is None
    assert "unknown" in str(found)
    with pytest.raises(InvalidRequest, match=r"no price for train on ml.g5.xlarge"):
        found.check(1000)


def test_the_machine_is_the_one_for_the_captures_size(tmp_path: Path) -> None:
    sizes = [{"up_to": {"photos": 20}, "machine": "small"}, {"up_to": {"photos": 30}, "machine": "large"}]
    sized = profile({"small": 1, "large": 100}, sfm={"backend": "docker", "sizes": sizes})

    def sfm(photos: int) -> Any:
        found = estimate(capture(tmp_path / f"{photos}", photos), sized, params(), [])
        return next(each for each in found.stages if each.stage == "sfm")

    assert (sfm(10).machine, sfm(25).machine) == ("small", "large")
    assert sfm(25).price > 50 * sfm(10).price
    # sfm itself refuses, when ingest has counted.
    assert "too large" in sfm(35).basis
    assert sfm(35).price is None


@pytest.mark.parametrize("where", ["file", "s3"])
def test_a_zip_is_counted_without_being_fetched(
    tmp_path: Path, where: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture(tmp_path / "photos", 12, size=(640, 800))
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as bundle:
        for file in sorted((tmp_path / "photos").rglob("*.jpg")):
            bundle.write(file, f"shoot/{file.name}")
        bundle.writestr("__MACOSX/shoot/._1.jpg", b"")
        bundle.writestr("shoot/readme.txt", "hello")
        bundle.writestr("shoot/large.mov", bytes(5_000_000))
    root = tmp_path.as_uri() if where == "file" else request.getfixturevalue("s3_root")
    if where == "s3":
        open_storage(root).upload(tmp_path / "photos.zip", "photos.zip")
    storage = open_storage(f"{root}/photos.zip")
    read: list[int] = []
    original = type(storage).read_part
    monkeypatch.setattr(type(storage), "read_part", lambda self, *part: read.append(part[2]) or original(self, *part))
    found = capture_at(storage)
    assert found is not None
    assert look_at(storage, found) == Content(12, films=1, side=800)
    assert sum(read) < 1_000_000
    assert len(read) < 10


def zipped(**files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as bundle:
        for name, data in files.items():
            bundle.writestr(name.replace("__", "."), data)
    return file.getvalue()


def test_zips_in_a_folder_and_in_a_zip_are_counted(tmp_path: Path) -> None:
    photos = capture(tmp_path / "shoot", 3, size=(640, 800))
    inner = zipped(a__jpg=b"", b__HEIC=b"", masks=b"", notes__txt=b"")
    more = zipped(c__jpg=b"", inner__zip=inner, nameless__jpg=b"")
    photos.write("more.zip", more.replace(b"nameless", b"\0ameless"))
    found = capture_at(photos)
    assert found is not None
    assert look_at(photos, found) == Content(6, side=800)


def test_panoramas_count_as_the_photos_that_they_become(tmp_path: Path) -> None:
    photos = capture(tmp_path / "around", 3, size=(2048, 1024))
    found = capture_at(photos)
    assert found is not None
    assert look_at(photos, found) == Content(12, side=512)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_a_photo_tells_its_size_by_its_first_bytes_and_nothing_by_fewer(kind: str) -> None:
    photo = io.BytesIO()
    Image.effect_noise((640, 480), 50).convert("RGB").save(photo, kind)
    assert size_of(photo.getvalue()[:20_000]) == (640, 480)
    assert size_of(photo.getvalue()[:10]) is None


@pytest.mark.slow
@hypothesis.given(
    start=st.sampled_from([b"", b"\xff\xd8", b"MM\x00*", b"RIFF", b"\x00\x00\x00\x18ftypheic"]), rest=st.binary()
)
def test_bytes_that_are_no_photo_tell_no_size_and_break_nothing(start: bytes, rest: bytes) -> None:
    assert min(size_of(start + rest) or (1,)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["first photo", "table of contents", "name"])
def test_what_is_damaged_in_a_zip_ends_no_run(damage: str, run: Run, script: Script, captures: Path) -> None:
    photo = io.BytesIO()
    Image.effect_noise((640, 480), 50).save(photo, "JPEG")
    with zipfile.ZipFile(captures / "odd.zip", "w", zipfile.ZIP_BZIP2) as bundle:
        for name in ("é1.jpg", "2.jpg"):
            bundle.writestr(name, photo.getvalue())
        end = bundle.infolist()[1].header_offset
    data = bytearray((captures / "odd.zip").read_bytes())
    if damage == "first photo":
        data[60 : end - 10] = bytes(end - 70)
    elif damage == "name":
        data = bytearray(bytes(data).replace("é1".encode(), b"\xe9\xe91"))
    else:
        data[-20:] = bytes(20)
    (captures / "odd.zip").write_bytes(data)
    outcome = run("plan", capture=str(captures / "odd.zip"))
    assert outcome.states["plan"] == "success", outcome.log[-3000:]
    assert ("There is no estimate" in outcome.log) == (damage == "table of contents")


def test_history_of_two_writers_at_once_is_whole_and_does_not_grow(store: ArtifactStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda number: remember(
                    store.storage, "gpu/cheap", Measurement("train", "ml.g5", 10, number), f"{number:032}"
                ),
                range(KEPT),
            )
        )
    assert sorted(each.took for each in remembered(store.storage, "gpu/cheap")) == list(range(KEPT))
    remember(store.storage, "gpu/cheap", Measurement("train", "ml.g5", 10, 99, billed=120), "f" * 32)
    remember(store.storage, "gpu/cheap", Measurement("sfm", None, 10, 1), "f" * 32)
    found = remembered(store.storage, "gpu/cheap")
    assert len(found) == KEPT + 1
    assert Measurement("train", "ml.g5", 10, 99, billed=120) in found
    assert Measurement("sfm", None, 10, 1) in found
    assert remembered(store.storage, "gpu") == []


@pytest.mark.slow
def test_a_run_tells_stores_and_hands_on_its_estimate_and_learns(run: Run, script: Script, tmp_path: Path) -> None:
    first = run("publish")
    assert first.state == "success", first.log[-3000:]
    told = Estimate.model_validate(first.results["plan"]["estimate"])
    assert (told.photos, told.price) == (1, 0)
    assert "at most: what is there is reused" in first.log
    (folder,) = (tmp_path / "store/scenes/statue").glob("*/")
    assert Estimate.model_validate_json((folder / "estimate.json").read_text()) == told
    assert (folder / "run.json").exists()

    second = Estimate.model_validate(run("plan").results["plan"]["estimate"])
    assert [each.basis for each in second.stages] == ["measured 1 time"] * 6
    # The programs of the tests take no time, whatever they are asked.
    assert second.seconds < told.seconds / 5


@pytest.mark.slow
def test_a_run_that_may_cost_more_than_it_may_is_refused_before_anything_is_spent(
    run: Run, script: Script, profiles: Path
) -> None:
    text = profiles.read_text()
    profiles.write_text(text.replace("backend: local,", "backend: local, machine: dear,"))
    unknown = run("ingest", max_cost=1)
    assert unknown.state == "failed"
    assert "no price for ingest on dear, sfm on dear" in unknown.log
    profiles.write_text(profiles.read_text() + "  prices: {dear: 1000}\n")
    outcome = run("ingest", max_cost=1)
    assert outcome.state == "failed"
    assert outcome.tries["plan"] == 1
    assert "more than max_cost allows ($1.00): train" in outcome.log
    assert script.calls == []


def test_no_conf_raises_what_the_profiles_owner_lets_a_run_cost(run: Run, script: Script, profiles: Path) -> None:
    text = profiles.read_text().replace("backend: local,", "backend: local, machine: dear,")
    profiles.write_text(text + "  prices: {dear: 1000}\n  max_cost: 1\n")
    outcome = run("ingest", max_cost=10_000)
    assert outcome.state == "failed"
    assert "more than the profile local's max_cost allows ($1.00)" in outcome.log
    assert script.calls == []


@pytest.fixture(params=["file", "s3"])
def budget(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str, float], None]:
    """Reserves what a run costs, of 10 dollars a day."""
    uri = tmp_path.as_uri() if request.param == "file" else request.getfixturevalue("s3_root")
    return lambda run, price: reserve(open_storage(uri), "cloud", run, price, 10)


def test_the_runs_of_a_day_cost_no_more_than_the_profile_may_spend(
    budget: Callable[[str, float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    budget("barn/1", 6)
    with pytest.raises(InvalidRequest, match=r"may cost \$5\.00, and of the \$10\.00 .* a day \$4\.00 are left"):
        budget("town/1", 5)
    # Neither what was refused nor what is done again counts.
    budget("barn/1", 6)
    budget("town/2", 4)
    with pytest.raises(InvalidRequest):
        budget("town/3", 0.01)
    monkeypatch.setattr(budgets, "now", lambda: now() + dt.timedelta(days=1))
    budget("town/3", 10)


def test_of_runs_that_begin_at_once_no_more_begin_than_may(budget: Callable[[str, float], None]) -> None:
    def begins(number: int) -> bool:
        try:
            budget(f"barn/{number}", 3)
        except InvalidRequest:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(begins, range(8))) <= 3


def test_a_capture_that_cannot_be_looked_at_is_refused_under_a_limit(run: Run, script: Script, captures: Path) -> None:
    (captures / "broken.zip").write_bytes(b"PK no zip")
    outcome = run("ingest", capture=str(captures / "broken.zip"), max_cost=1)
    assert outcome.state == "failed"
    assert (outcome.states["plan"], outcome.tries["plan"]) == ("failed", 1)
    assert "is not a zip that can be read" in outcome.log
