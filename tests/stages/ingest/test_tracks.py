"""Subtitles of drones: where each frame of a film was taken."""

from __future__ import annotations

from pathlib import Path

import pytest
from film_files import film, walk
from ingest_photos import Ingest

from e2e3d_stages.ingest.tracks import place_at, read_track
from e2e3d_stages.store.captures import Source


def subtitles(
    count: int, words: str = "[latitude: {lat:.6f}] [longitude: -98.400000] [rel_alt: 1.200 abs_alt: 311.5]"
) -> str:
    """One each tenth of a second, as DJI writes them, going north."""
    return "".join(
        f"{n + 1}\n00:00:{n // 10:02},{n % 10}00 --> 00:00:{n // 10:02},{n % 10}99\n"
        f'<font size="28">FrameCnt: {n}, DiffTime: 33ms\n[iso: 100] {words.format(lat=30 + n / 1000)} </font>\n\n'
        for n in range(count)
    )


def test_each_frame_has_the_place_that_was_told_next_to_it(tmp_path: Path, ingest: Ingest) -> None:
    film(tmp_path / "flight" / "DJI_0001.MP4", walk(40))
    (tmp_path / "flight" / "DJI_0001.SRT").write_text(subtitles(20))
    done = ingest(tmp_path / "flight", frames=10)
    photos = done.record["photos"]
    assert done.metrics["photos_with_gps"] == len(photos) >= 8
    for photo in photos:
        seconds = done.record["films"][0]["frames"][photo["name"]]
        assert photo["gps"]["lat"] == pytest.approx(30 + round(seconds * 10) / 1000, abs=0.00101)
        assert (photo["gps"]["lon"], photo["gps"]["alt"]) == (-98.4, 311.5)
    assert done.dropped == {}


def track(tmp_path: Path, content: str | bytes) -> list[tuple[float, dict[str, float | None]]]:
    path = tmp_path / "note.srt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_track(Source("note.srt", path)))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00" * 100,
        "1\n00:00:01,000 --> 00:00:02,000\nLook at that!\n",
        subtitles(3, "[latitude: 0.000000] [longitude: 0.000000]"),
        subtitles(3, "[latitude: 91.5] [longitude: 3.0]"),
        subtitles(3, "[latitude: nan] [longitude: inf]"),
        subtitles(3, "[latitude: 30.1]"),
        "00:00:00,000 -->" * 10_000,
        "latitude: 30.1 longitude: 3.1",
    ],
)
def test_subtitles_that_tell_no_place_tell_nothing(content: str | bytes, tmp_path: Path) -> None:
    assert track(tmp_path, content) == []


def test_a_bad_line_spoils_only_itself_and_old_spellings_are_read(tmp_path: Path) -> None:
    lines = subtitles(3, "[latitude : {lat:.3f}] [longtitude : 8.5]").replace("30.001", "x")
    assert [(seconds, gps["lat"], gps["lon"]) for seconds, gps in track(tmp_path, lines)] == [
        (0, 30, 8.5),
        (0.2, 30.002, 8.5),
    ]


def test_a_moment_far_from_all_that_was_told_has_no_place(tmp_path: Path) -> None:
    found = track(tmp_path, subtitles(3))
    assert place_at(found, 0.14) == found[1][1]
    assert place_at(found, 1.1) == found[2][1]
    assert place_at(found, 1.3) is None
    assert place_at([], 0) is None


def test_subtitles_of_another_film_say_nothing(tmp_path: Path, ingest: Ingest) -> None:
    film(tmp_path / "flight" / "DJI_0001.MP4", walk(40))
    (tmp_path / "flight" / "DJI_0002.SRT").write_text(subtitles(20))
    assert ingest(tmp_path / "flight", frames=10).metrics["photos_with_gps"] == 0
