"""Photos of which a part does not count."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sfm_runs import Run

# Photos are matched and placed for real.
pytestmark = pytest.mark.slow


def test_nothing_is_found_where_a_photo_does_not_count_and_its_mask_is_undistorted_with_it(
    sfm: Callable[..., Run], pictures: dict[str, Image.Image], tmp_path: Path
) -> None:
    cut = {}
    for place, (name, image) in enumerate(list(pictures.items())[:5]):
        alpha = Image.new("L", image.size, 255)
        alpha.paste(0, (0, 0, image.width // 3 + place, image.height))
        cut[name.replace(".jpg", ".png")] = image.convert("RGBA")
        cut[name.replace(".jpg", ".png")].putalpha(alpha)
    run = sfm(cut)
    assert run.metrics["photos_supported"] == 5
    points = run.points
    for number, view in enumerate(run.views):
        assert view["masked"] == "unknown"
        with (
            Image.open(run.output / "masks" / f"{view['name']}.png") as mask,
            Image.open(run.output / "images" / view["name"]) as photo,
        ):
            assert mask.size == photo.size
            kept = np.asarray(mask)
            grey = np.abs(np.asarray(photo.convert("RGB"), int) - 128).max(axis=2) < 12
        # What alpha hid is grey in the photo, and black in the mask.
        assert (kept == ~grey).mean() > 0.97
        pose = np.array(view["world_to_camera"])
        seen = points["xyz"][points["point"][points["view"] == number]] @ pose[:3, :3].T + pose[:3, 3]
        column = seen[:, 0] / seen[:, 2] * view["fx"] + view["cx"]
        assert column.min() > view["width"] / 3 - 4


def test_photos_without_masks_beside_some_that_have_them_are_placed_too(
    sfm: Callable[..., Run], pictures: dict[str, Image.Image]
) -> None:
    some = dict(list(pictures.items())[:6])
    for name in list(some)[:2]:
        mask = Image.new("L", some[name].size, 255)
        mask.paste(0, (0, 0, mask.width // 4, mask.height))
        some[name.replace(".jpg", "_mask.png")] = mask
    run = sfm(some)
    assert run.metrics["photos_supported"] == 6
    assert ["masked" in view for view in run.views] == [True] * 2 + [False] * 4
