"""Photos that see all around become the sides of what they see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from film_files import film, walk
from ingest_photos import Ingest, Ingested, picture
from PIL import Image

from e2e3d_stages.ingest.panoramas import closes
from tests.panorama_room import panorama, seen

# Walls that are smooth, so that colours between pixels are no matter.
WALLS = [picture(seed, 800, 600) for seed in range(6)]
PLACES = [(0.0, 0.0, 0.0), (0.5, 0.2, 0.3), (-0.4, 0.1, 0.9)]
FULL = b'<rdf:Description GPano:ProjectionType="equirectangular" GPano:UsePanoramaViewer="True"/>'


@pytest.fixture
def around(tmp_path: Path) -> Path:
    """A capture of three panoramas."""
    folder = tmp_path / "around"
    folder.mkdir()
    for number, place in enumerate(PLACES):
        panorama(WALLS, place).save(folder / f"R{number}.jpg", quality=95)
    return folder


@pytest.mark.slow
def test_a_panorama_becomes_four_photos_that_see_what_a_camera_there_would(around: Path, ingest: Ingest) -> None:
    done = ingest(around)
    assert done.metrics["photos"] == 12
    for number, place in enumerate(PLACES):
        turns = []
        for face in range(1, 5):
            source = f"R{number}.jpg/face {face}"
            photo, image = done.photo(source), done.image(source)
            assert photo["panorama"]["source"] == f"R{number}.jpg"
            assert (photo["width"], photo["height"], photo["focal_px"]) == (256, 256, 128)
            turns.append(np.array(photo["panorama"]["turn"]))
            x, y = np.meshgrid(np.arange(256) + 0.5 - 128, np.arange(256) + 0.5 - 128)
            rays = np.stack([x / 128, y / 128, np.ones_like(x)], axis=-1) @ turns[-1]
            off = np.abs(np.asarray(image, float) - seen(WALLS, place, rays).astype(float))
            # Where two walls meet, a pixel is of both.
            assert np.median(off) < 4
            assert np.mean(off > 30) < 0.02
        looking = np.stack([turn[2] for turn in turns])
        assert looking @ looking.T == pytest.approx(np.kron([[1, -1], [-1, 1]], np.eye(2)), abs=1e-9)


def above(place: tuple[float, float, float]) -> tuple[int, ...]:
    """The colour of the ceiling over a place."""
    return tuple(map(int, seen(WALLS, place, np.array([1e-6, -1.0, 1e-6]))))


def counted(result: Ingested, source: str) -> np.ndarray:
    """Where a side counts."""
    path = result.context.output / "masks" / f"{result.photo(source)['name']}.png"
    return np.asarray(Image.open(path)) if path.exists() else np.ones((256, 256), bool)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["mask", "alpha"])
def test_what_a_panoramas_mask_hides_counts_on_none_of_its_sides(how: str, around: Path, ingest: Ingest) -> None:
    mask = Image.new("L", (1024, 512), 255)
    # What is more than 15 degrees below the horizon.
    mask.paste(0, (0, 299, 1024, 512))
    if how == "mask":
        (around / "masks").mkdir()
        mask.resize((2048, 1024)).save(around / "masks" / "R0.png")
    else:
        image = Image.open(around / "R0.jpg")
        image.putalpha(mask)
        image.save(around / "R0.png")
        (around / "R0.jpg").unlink()
    done = ingest(around)
    source = f"R0.{'jpg' if how == 'mask' else 'png'}/face"
    # Its poles are looked at: it says what of them does not count.
    assert {photo["source"] for photo in done.record["photos"] if "R0" in photo["source"]} == {
        # Of what it sees below nothing does.
        f"{source} {face}"
        for face in range(1, 6)
    }
    assert done.image(f"{source} 5").getpixel((128, 128)) == pytest.approx(above(PLACES[0]), abs=6)
    assert counted(done, f"{source} 5").all()
    for face in range(1, 5):
        below = counted(done, f"{source} {face}")
        # 15 degrees are 128 px times their tangent straight ahead, and farther away at the edges.
        assert [int(below[:, column].sum()) for column in (0, 128)] == pytest.approx([128 + 48, 128 + 34], abs=3)
        assert counted(done, f"R2.jpg/face {face}").all()


@pytest.mark.slow
def test_a_mask_of_one_half_of_a_panorama_hides_a_side_and_halves_of_others(around: Path, ingest: Ingest) -> None:
    mask = Image.new("L", (1024, 512), 255)
    mask.paste(0, (0, 0, 512, 512))
    mask.save(around / "R1_mask.png")
    done = ingest(around)
    seen_of_it = [photo["source"] for photo in done.record["photos"] if "R1" in photo["source"]]
    shares = sorted(counted(done, source).mean() for source in seen_of_it)
    assert shares == pytest.approx([0.5, 0.5, 0.5, 0.5, 1], abs=0.02)


@pytest.mark.slow
def test_each_side_has_a_camera_of_its_own_that_panoramas_share(around: Path, ingest: Ingest) -> None:
    cameras = [photo["camera"] for photo in ingest(around).record["photos"]]
    assert cameras == [0, 1, 2, 3] * 3


@pytest.mark.slow
def test_sides_are_at_most_as_large_as_photos(around: Path, ingest: Ingest) -> None:
    done = ingest(around, max_size=128 + 192)
    assert {photo["width"] for photo in done.record["photos"]} == {256}
    assert max(done.image("R0.jpg/face 1").size) == 256


def test_wide_pictures_whose_ends_do_not_meet_are_photos(capture: Path, ingest: Ingest) -> None:
    picture(77, 1024, 512).save(capture / "wide.jpg")
    done = ingest(capture)
    assert done.metrics["photos"] == 4
    assert "panorama" not in done.photo("wide.jpg")


def test_what_is_said_in_xmp_is_believed_of_pictures_of_that_shape(capture: Path, ingest: Ingest) -> None:
    picture(77, 1024, 512).save(capture / "wide.jpg", xmp=FULL)
    picture(78, 1000, 400).save(capture / "part.jpg", xmp=FULL)
    done = ingest(capture)
    assert "panorama" in done.photo("wide.jpg/face 1")
    assert "panorama" not in done.photo("part.jpg")


@pytest.mark.slow
def test_a_film_that_sees_all_around_becomes_the_sides_of_its_frames(tmp_path: Path, ingest: Ingest) -> None:
    way = [panorama(WALLS, (step / 12 - 0.9, 0, 0), height=256) for step in range(24)]
    film(tmp_path / "film" / "walk.mp4", way)
    done = ingest(tmp_path / "film", frames=40, max_size=512)
    frames = {photo["panorama"]["source"] for photo in done.record["photos"]}
    assert 8 <= len(frames) <= 10
    assert done.metrics["photos"] == 4 * len(frames)
    assert {(photo["width"], photo["height"]) for photo in done.record["photos"]} == {(128, 128)}
    assert len(set(done.record["films"][0]["frames"].values())) == len(frames)


@pytest.mark.slow
def test_a_wide_film_of_one_side_is_one_and_no_larger_than_photos(tmp_path: Path, ingest: Ingest) -> None:
    film(tmp_path / "film" / "walk.mp4", [each.resize((1024, 512)) for each in walk(24)])
    done = ingest(tmp_path / "film", frames=10, max_size=640)
    assert "panorama" not in done.record["photos"][0]
    assert {photo["width"] for photo in done.record["photos"]} == {640}


def test_plain_pictures_say_nothing_of_their_ends() -> None:
    assert not closes(Image.new("RGB", (1024, 512), "grey"))
    assert closes(panorama(WALLS, PLACES[1]))
    assert not closes(panorama(WALLS, PLACES[1]).crop((0, 0, 700, 350)))
