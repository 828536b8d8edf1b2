"""Films: which frames are taken of them, how they look, and what is said of those that cannot be used."""

from __future__ import annotations

import errno
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from film_files import DEEP, PLAIN, film, walk
from ingest_photos import Ingest, Ingested, picture, save
from PIL import Image, ImageFilter

from e2e3d_stages.contract.messages import Infrastructure, InvalidRequest, UnreadableCapture
from e2e3d_stages.ingest import films, pixels, stage
from e2e3d_stages.ingest.params import Params


def seconds(result: Ingested, source: str = "walk.mp4") -> list[float]:
    """The times of the frames that were taken of a film."""
    return next(list(each["frames"].values()) for each in result.record["films"] if each["source"] == source)


def prepared(result: Ingested, place: int = 0) -> Any:
    """A prepared picture, as signed numbers."""
    return np.asarray(Image.open(result.context.output / "images" / result.record["photos"][place]["name"]), int)


def details(result: Ingested) -> dict[str, str]:
    return {item["source"]: item["detail"] for item in result.record["dropped"]}


# Which frames


def test_a_film_becomes_photos_in_windows_of_equal_time_by_its_time_stamps(tmp_path: Path, ingest: Ingest) -> None:
    # Two fast seconds and two slow ones: by their numbers most frames would be of the first half.
    times = [place / 30 for place in range(60)] + [2 + place / 6 for place in range(12)]
    film(tmp_path / "capture" / "walk.mp4", walk(72), times)
    result = ingest(tmp_path / "capture", frames=10)
    taken = seconds(result)
    assert len(taken) == 10
    assert [int(time / (4 / 10)) for time in taken] == pytest.approx(list(range(10)), abs=1)
    assert sum(time < 2 for time in taken) in (5, 6)
    assert result.metrics["frames"] == result.metrics["photos"] == 10
    assert result.dropped == {}


@pytest.mark.slow
def test_the_sharpest_frame_of_each_window_is_taken(tmp_path: Path, ingest: Ingest) -> None:
    pictures = [
        each if place % 5 == 3 else each.filter(ImageFilter.GaussianBlur(4))
        for place, each in enumerate(walk(50, detail=5))
    ]
    film(tmp_path / "capture" / "walk.mp4", pictures)
    assert seconds(ingest(tmp_path / "capture", frames=10)) == pytest.approx([0.15 + 0.25 * each for each in range(10)])


@pytest.mark.slow
def test_nothing_is_taken_before_the_camera_moves_and_one_frame_where_it_rests(tmp_path: Path, ingest: Ingest) -> None:
    way = walk(40)
    pictures = [way[0]] * 20 + way[:20] + [way[20]] * 20 + way[20:] + [way[-1]] * 20
    film(tmp_path / "capture" / "walk.mp4", pictures)
    taken = seconds(ingest(tmp_path / "capture", frames=30))
    assert min(taken) >= 1
    assert sum(2 <= time < 2.95 for time in taken) == 1
    assert sum(time >= 4 for time in taken) <= 1
    assert sum(1 <= time < 2 for time in taken) >= 4


def test_a_long_film_gives_at_most_300_frames_and_a_short_one_not_each_of_its_own() -> None:
    usual = Params().frames
    assert films.windows([600], usual) == [300]
    assert films.windows([60], usual) == [240]
    assert films.windows([30], usual) == [150]
    assert films.windows([2], usual) == [20]
    assert films.windows([60, 30, 30], usual) == [150, 75, 75]
    assert sum(films.windows([60, 60], 11)) == 11


def test_start_and_end_say_which_part_of_each_film_is_used(tmp_path: Path, ingest: Ingest) -> None:
    film(tmp_path / "capture" / "walk.mp4", walk(80))
    taken = seconds(ingest(tmp_path / "capture", start=1.0, end=2.5, frames=15))
    assert 1 <= min(taken) < 1.2
    assert 2.3 < max(taken) <= 2.5


def test_an_end_before_the_start_is_refused(tmp_path: Path, ingest: Ingest) -> None:
    film(tmp_path / "capture" / "walk.mp4", walk(5))
    with pytest.raises(InvalidRequest, match="end at 1 s and to begin at 2 s"):
        ingest(tmp_path / "capture", start=2.0, end=1.0)


def test_several_films_and_photos_make_one_capture(capture: Path, ingest: Ingest) -> None:
    film(capture / "day2" / "b.mov", walk(20, seed=1))
    film(capture / "a.mkv", walk(20, seed=2))
    result = ingest(capture, frames=20)
    assert result.metrics["photos"] == 23
    assert [each["source"] for each in result.record["films"]] == ["a.mkv", "day2/b.mov"]
    assert result.record["photos"][0]["source"] == "IMG_1.jpg"
    assert re.fullmatch(r"a\.mkv/0000\.\d{3} s", result.record["photos"][3]["source"])


def test_one_film_is_a_capture(tmp_path: Path, ingest: Ingest) -> None:
    assert ingest(film(tmp_path / "walk.mp4", walk(40))).metrics["frames"] == 20


def test_the_film_of_a_live_photo_is_none(capture: Path, ingest: Ingest) -> None:
    film(capture / "IMG_1.mov", walk(20))
    result = ingest(capture)
    assert result.record["films"] == []
    assert result.metrics["photos"] == 3
    assert result.context.warnings == []


# How they look


@pytest.mark.slow
@pytest.mark.parametrize("rotation", [90, 180, 270])
@pytest.mark.parametrize("kind", [PLAIN, DEEP], ids=["H.264", "HEVC 10 bit"])
def test_frames_are_turned_once(tmp_path: Path, ingest: Ingest, rotation: int, kind: dict[str, Any]) -> None:
    upright = walk(20)
    stored = [each.rotate(-rotation, expand=True) for each in upright]
    film(tmp_path / "capture" / "walk.mp4", stored, kind=kind, rotation=rotation)
    result = ingest(tmp_path / "capture")
    at = round(seconds(result)[0] * 20)
    assert np.abs(prepared(result) - np.asarray(upright[at], int)).mean() < 6


def light_of(image: Image.Image) -> Any:
    """Linear light of an sRGB picture in the primaries of BT.2020, white is 1."""
    encoded = np.asarray(image, float) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]).T


def as_hlg(image: Image.Image) -> Any:
    """How a film in HLG has an sRGB picture whose white is 203 cd/m² on a display of 1000 (BT.2100, BT.2408)."""
    shown = light_of(image) * 203 / 1000
    luminance = np.maximum(shown @ [0.2627, 0.678, 0.0593], 1e-9)[..., None]
    scene = shown * luminance ** ((1 - 1.2) / 1.2)
    logarithm = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), logarithm)


def as_pq(image: Image.Image) -> Any:
    """How a film in PQ has an sRGB picture whose white is 203 cd/m² (SMPTE ST 2084)."""
    power = (light_of(image) * 203 / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


@pytest.mark.slow
@pytest.mark.parametrize(("transfer", "encode"), [(18, as_hlg), (16, as_pq)], ids=["HLG", "PQ"])
def test_a_high_dynamic_range_film_looks_as_its_scene_does_in_srgb(
    tmp_path: Path, ingest: Ingest, transfer: int, encode: Any
) -> None:
    # Not so bright that it is compressed.
    seen = [each.point(lambda value: 20 + value * 0.75) for each in walk(20)]
    deep = [(encode(each) * 65535 + 0.5).astype(np.uint16) for each in seen]
    film(tmp_path / "capture" / "walk.mov", deep, kind=DEEP, colours=(9, transfer, 9))
    result = ingest(tmp_path / "capture")
    at = round(seconds(result, "walk.mov")[0] * 20)
    difference = np.abs(prepared(result) - np.asarray(seen[at], int))
    assert difference.mean() < 2
    assert np.percentile(difference, 99) < 12


def test_highlights_of_a_film_stay_apart_instead_of_all_being_white(tmp_path: Path, ingest: Ingest) -> None:
    ramp = np.tile(np.linspace(0.5, 1, 400)[None, :, None], (300, 1, 3))
    way = np.asarray(walk(20, size=(400, 100)), float) / 510
    deep = [(65535 * np.concatenate([each, ramp])).astype(np.uint16) for each in way]
    film(tmp_path / "capture" / "walk.mov", deep, kind=DEEP, colours=(9, 18, 9))
    row = prepared(ingest(tmp_path / "capture"))[300, :, 1]
    assert row[-1] == 255 or row[-1] >= 250
    assert row[200] < row[300] <= row[-1]
    assert np.all(np.diff(np.convolve(row, np.ones(20) / 20, "valid")) > -0.5)


@pytest.mark.slow
@pytest.mark.parametrize("told", [1, 2], ids=["told", "untold"])
def test_a_large_film_has_the_colours_of_bt709_whether_it_says_so_or_not(
    tmp_path: Path, ingest: Ingest, told: int
) -> None:
    seen = walk(20, size=(1280, 720))
    film(tmp_path / "capture" / "walk.mp4", seen, colours=(told, told, told))
    result = ingest(tmp_path / "capture")
    at = round(seconds(result)[0] * 20)
    assert np.abs(prepared(result) - np.asarray(seen[at], int)).mean(axis=(0, 1)).max() < 4


def test_place_time_and_camera_of_a_film_are_kept(tmp_path: Path, ingest: Ingest) -> None:
    told = {
        "com.apple.quicktime.location.ISO6709": "+48.1234-011.5678+520.5/",
        "com.apple.quicktime.make": "Apple",
        "com.apple.quicktime.model": "iPhone 15",
        "com.apple.quicktime.creationdate": "2024-05-01T10:00:00+0200",
    }
    film(tmp_path / "capture" / "walk.mov", walk(20), metadata=told)
    result = ingest(tmp_path / "capture")
    first, second = result.record["photos"][:2]
    assert first["gps"] == {"lat": 48.1234, "lon": -11.5678, "alt": 520.5}
    # It says where it began, and not where each frame was taken.
    assert second["gps"] is None
    assert first["taken"] < second["taken"] < "2024-05-01T10:00:02+02:00"
    assert [(each["make"], each["model"]) for each in result.record["cameras"]] == [("Apple", "iPhone 15")]


def test_a_film_that_tells_nonsense_of_its_place_and_time_is_used_all_the_same(tmp_path: Path, ingest: Ingest) -> None:
    told = {
        "com.apple.quicktime.location.ISO6709": f"+48.1234-011.5678+{'9' * 400}/",
        "com.apple.quicktime.creationdate": "9999-12-31T23:59:59.900000+0000",
    }
    film(tmp_path / "capture" / "walk.mov", walk(20), metadata=told)
    first, *others = ingest(tmp_path / "capture").record["photos"]
    assert abs(first["gps"]["alt"]) < 100_000
    assert others[-1]["taken"] is None


def test_frames_that_show_the_same_are_no_photos_to_upload_again(tmp_path: Path, ingest: Ingest) -> None:
    there = walk(20)
    film(tmp_path / "capture" / "walk.mp4", [*there, *reversed(there)])
    result = ingest(tmp_path / "capture")
    assert result.record["dropped"] == []
    assert not {advice.code for advice in result.context.warnings} & {"dropped", "duplicate"}


# Those that cannot be used


@pytest.mark.slow
def test_bad_films_spoil_only_themselves_and_say_what_they_are(capture: Path, ingest: Ingest) -> None:
    whole = film(capture / "walk.mp4", walk(40)).read_bytes()
    (capture / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (capture / "text.mov").write_text("no film at all")
    (capture / "empty.webm").write_bytes(b"")
    (capture / "leads.mp4").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    (capture / "leads2.mp4").write_text(f"ffconcat version 1.0\nfile {capture}/walk.mp4\n")
    (capture / "two.insv").write_bytes(whole)
    film(capture / "still.mp4", [picture(5)] * 40)
    film(capture / "tiny.mp4", walk(20, size=(160, 120)))
    result = ingest(capture)
    assert result.metrics["frames"] == 20
    assert result.dropped == {
        "cut.mp4": "unreadable",
        "text.mov": "unreadable",
        "empty.webm": "unreadable",
        "leads.mp4": "unreadable",
        "leads2.mp4": "unreadable",
        "two.insv": "unsupported_format",
        "still.mp4": "unused_film",
        "tiny.mp4": "too_small",
    }
    assert "not uploaded whole" in details(result)["cut.mp4"]
    assert details(result)["still.mp4"] == "the camera does not move in it"
    assert "export it as MP4" in details(result)["two.insv"]


def test_a_film_without_pictures_says_so(capture: Path, ingest: Ingest) -> None:
    import av

    with av.open(str(capture / "sound.mp4"), "w") as out:
        stream = out.add_stream("aac", rate=44_100, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 44_100), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 44_100
        out.mux(stream.encode(sound))
        out.mux(stream.encode())
    assert details(ingest(capture)) == {"sound.mp4": "it has no pictures, only sound or data"}


def test_a_film_that_is_shorter_than_its_start_says_so(capture: Path, ingest: Ingest) -> None:
    film(capture / "walk.mp4", walk(20))
    assert "it ends after 1.0 s, before ingest_start" in details(ingest(capture, start=30.0))["walk.mp4"]


def test_a_film_alone_that_never_moves_fails_with_the_reason(tmp_path: Path, ingest: Ingest) -> None:
    film(tmp_path / "capture" / "still.mp4", [picture(5)] * 40)
    with pytest.raises(UnreadableCapture, match="the camera does not move in it"):
        ingest(tmp_path / "capture")


@pytest.mark.slow
def test_a_damaged_place_in_a_film_costs_only_that_place(tmp_path: Path, ingest: Ingest) -> None:
    path = film(tmp_path / "capture" / "walk.mkv", walk(60), kind={**PLAIN, "options": {"g": "10", "bf": "0"}})
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300] = bytes(300)
    path.write_bytes(data)
    taken = seconds(ingest(tmp_path / "capture"), "walk.mkv")
    assert min(taken) < 0.3
    assert max(taken) > 2.7


def test_films_whose_pictures_take_too_much_memory_are_left_out(
    capture: Path, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    film(capture / "walk.mp4", walk(5, size=(800, 600)))
    monkeypatch.setattr(stage, "Memory", lambda: pixels.Memory(16_000_000))
    result = ingest(capture)
    assert result.dropped == {"walk.mp4": "too_large"}
    assert result.metrics["photos"] == 3


@pytest.mark.slow
def test_of_a_film_few_frames_are_kept_at_a_time(tmp_path: Path) -> None:
    import gc
    import weakref

    class Each:
        def __init__(self, place: int) -> None:
            self.seconds, self.sharpness = place / 100, place % 7
            self.grey = np.asarray(picture(place).convert("L"))

    alive: list[weakref.ref[Each]] = []

    def frames() -> Any:
        for place in range(300):
            each = Each(place)
            alive.append(weakref.ref(each))
            assert sum(one() is not None for one in alive[-60:]) <= 6
            yield each

    assert len(list(map(lambda each: each.seconds, films.moving(films.sharpest(frames(), 0, 0.2))))) == 15
    gc.collect()


# What is asked


def test_what_concerns_films_is_in_a_key_only_where_it_asks_for_something_else() -> None:
    assert Params().keyed() == {"max_size": 1600, "min_size": 320, "poses": ""}
    for name, value in (("frames", 100), ("start", 1.0), ("end", 9.0)):
        assert Params(**{name: value}).keyed()[name] == value


def test_a_capture_of_photos_has_no_frames(capture: Path, ingest: Ingest) -> None:
    save(capture / "IMG_11.jpg", picture(11))
    result = ingest(capture)
    assert result.record["films"] == []
    assert result.metrics["frames"] == 0


@pytest.mark.parametrize("whole", [0.0, 0.05, 0.5, 0.95])
def test_a_sick_disk_is_no_damaged_film(
    whole: float, tmp_path: Path, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = film(tmp_path / "capture" / "walk.mkv", walk(40)).read_bytes()

    class Sick(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() >= whole * len(data):
                raise OSError(errno.EIO, "the disk says")
            return super().read(min(size or 512, 512))

    well = Path.open

    def opened(path: Path, *mode: str, **options: Any) -> Any:
        return Sick(data) if path.name == "walk.mkv" and mode == ("rb",) else well(path, *mode, **options)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(Infrastructure, match=r"^walk.mkv could not be read: the disk says\.$"):
        ingest(tmp_path / "capture")
