"""Photos that show the same count once; photos that are merely alike all count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ingest_photos import Ingest, save
from PIL import Image, ImageEnhance

from e2e3d_stages.contract.figures import UPLOADED
from e2e3d_stages.contract.messages import UnreadableCapture
from e2e3d_stages.ingest.copies import cells_of, copies


def photo(sample: Path, number: int = 9371) -> Image.Image:
    return Image.open(sample / f"IMG_{number}.jpg").convert("RGB")


def are_copies(one: Image.Image, other: Image.Image) -> bool:
    return bool(copies([(cells_of(image), image.width / image.height) for image in (one, other)]))


@pytest.mark.parametrize("share", [0.75, 0.5, 0.33, 0.25])
@pytest.mark.parametrize("quality", [40, 95])
def test_a_copy_at_another_size_or_quality_is_found(share: float, quality: int, sample: Path, tmp_path: Path) -> None:
    image = photo(sample)
    small = image.resize((round(share * image.width), round(share * image.height)), Image.Resampling.BILINEAR)
    small.save(tmp_path / "small.jpg", quality=quality)
    assert are_copies(image, Image.open(tmp_path / "small.jpg"))


def test_a_copy_that_was_brightened_is_found(sample: Path) -> None:
    assert are_copies(photo(sample), ImageEnhance.Brightness(photo(sample)).enhance(1.2))


@pytest.mark.parametrize("turn", [Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270])
def test_a_copy_that_was_turned_is_found(turn: Image.Transpose, sample: Path) -> None:
    assert are_copies(photo(sample), photo(sample).resize((1000, 750)).transpose(turn))


def test_neighbouring_photos_of_a_flight_are_no_copies(sample: Path) -> None:
    images = [Image.open(path) for path in sorted(sample.glob("*.jpg"))]
    assert copies([(cells_of(image), image.width / image.height) for image in images]) == {}


@pytest.mark.parametrize("step", [0.005, 0.01, 0.03])
def test_a_step_to_the_side_is_no_copy(step: float, sample: Path) -> None:
    image, shift = photo(sample), round(step * photo(sample).width)
    size = (image.width - 50, image.height - 50)
    assert not are_copies(image.crop((0, 0, *size)), image.crop((shift, 0, shift + size[0], size[1])))


def test_one_thing_that_turned_before_a_still_background_is_no_copy(sample: Path) -> None:
    image = photo(sample)
    middle = (image.width // 2 - 120, image.height // 2 - 120, image.width // 2 + 120, image.height // 2 + 120)
    turned = image.copy()
    turned.paste(image.crop(middle).rotate(20).crop((40, 40, 200, 200)), (middle[0] + 40, middle[1] + 40))
    assert not are_copies(image, turned)


def test_walls_and_fog_are_no_copies_of_one_another() -> None:
    rng = np.random.default_rng(0)
    walls = [Image.fromarray((200 + rng.normal(0, 2, (300, 400))).clip(0, 255).astype(np.uint8)) for _ in range(3)]
    assert copies([(cells_of(wall), 4 / 3) for wall in walls]) == {}


def test_pictures_of_another_shape_are_no_copies(sample: Path) -> None:
    image = photo(sample)
    assert not are_copies(image, image.resize((image.width, image.height // 2)))


def test_of_copies_the_one_with_the_most_pixels_stays_wherever_it_stands(
    sample: Path, ingest: Ingest, tmp_path: Path
) -> None:
    for number in (9371, 9374, 9377, 9380):
        image = photo(sample, number)
        save(tmp_path / "shoot" / "a web" / f"{number}.jpg", image.resize((500, 375), Image.Resampling.LANCZOS))
        save(tmp_path / "shoot" / "full" / f"IMG_{number}.jpg", image)
    result = ingest(tmp_path / "shoot")
    assert {kept["source"].split("/")[0] for kept in result.record["photos"]} == {"full"}
    assert set(result.dropped.values()) == {"duplicate"}
    # They are no photos that could not be placed.
    assert UPLOADED.of_metrics({"ingest": result.metrics}) == 4
    (warning,) = result.context.warnings
    assert "4 files were left out because they show the same as other photos: a web/9371.jpg" in warning.message
    assert "full/IMG_9371.jpg, at another size" in result.record["dropped"][0]["detail"]


def test_a_burst_from_one_place_is_told_as_what_it_is(sample: Path, ingest: Ingest, tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    pixels = np.asarray(photo(sample), float)
    for number in range(5):
        noisy = Image.fromarray((pixels + noise.normal(0, 4, pixels.shape)).clip(0, 255).astype(np.uint8))
        save(tmp_path / "burst" / f"B{number}.jpg", noisy)
    with pytest.raises(UnreadableCapture, match=r"1 of 5 files .* or from the very same place") as told:
        ingest(tmp_path / "burst")
    assert "the camera must move" in told.value.hint
