"""Panoramas: their sides stand at one place, and are placed together or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sfm_runs import Run

from e2e3d_stages.sfm.geodesy import fit_similarity
from e2e3d_stages.sfm.rigs import between, same_panorama, units_of
from tests.conftest import ROOT
from tests.panorama_room import panorama, seen

ROOM = ROOT / "sample" / "caliterra" / "images"
PLACES = [(0.9 * np.cos(turn), 0.2 * np.sin(2 * turn), 1.1 * np.sin(turn)) for turn in np.arange(6) * np.pi / 3]
PLACE_OF_THE_PHOTO = (0.3, 0.1, -0.4)


def side(source: str) -> dict[str, Any]:
    return {"panorama": {"source": source, "turn": np.eye(3).tolist()}}


def test_sides_of_one_panorama_are_compared_with_others_and_never_with_one_another() -> None:
    photos: list[dict[str, Any]] = [side("a"), {}, side("b"), side("a"), {}, side("b")]
    units = units_of(photos)
    assert units == [[0, 3], [1], [2, 5], [4]]
    assert between(units, [(0, 2), (1, 3)]) == [(0, 2), (0, 5), (1, 4), (2, 3), (3, 5)]
    assert same_panorama(photos[0], photos[3])
    assert not same_panorama(photos[0], photos[2])
    assert not same_panorama(photos[1], photos[4])


@pytest.mark.slow
def test_panoramas_and_photos_are_placed_where_they_were_taken(sfm: Callable[..., Run]) -> None:
    walls = [Image.open(path) for path in sorted(ROOM.glob("*.jpg"))[::5][:6]]
    pictures = {f"P{n}.jpg": panorama(walls, place, 15 * n, 800) for n, place in enumerate(PLACES)}
    pictures["Z.jpg"] = photo(walls)
    run = sfm(pictures, first_octave=-1, orientations=1, max_features=4096)
    assert run.metrics["photos_supported"] == 25
    assert {view["fx"] for view in run.views[:24]} == {200}
    rotations = np.array([view["world_to_camera"] for view in run.views])[:, :3, :3]
    for number in range(6):
        of_one = slice(4 * number, 4 * number + 4)
        assert np.ptp(run.centers[of_one], axis=0).max() < 1e-6
        forward = rotations[of_one, 2]
        assert forward @ forward.T == pytest.approx(np.kron([[1, -1], [-1, 1]], np.eye(2)), abs=1e-6)
    there, truth = run.centers[::4], np.array([*PLACES, PLACE_OF_THE_PHOTO])
    fit = fit_similarity(there, truth)
    assert np.linalg.norm(fit(there) - truth, axis=1).max() < 0.02
    # The room's floor is level.
    assert abs((fit.rotation @ [0, 1, 0])[1]) > 0.999


@pytest.mark.slow
def test_the_poles_of_panoramas_with_masks_are_placed_with_their_sides(sfm: Callable[..., Run]) -> None:
    walls = [Image.open(path) for path in sorted(ROOM.glob("*.jpg"))[::5][:6]]
    mask = Image.new("L", (1600, 800), 255)
    # Whoever carries the camera.
    mask.paste(0, (700, 700, 900, 800))
    pictures = {f"P{n}.jpg": panorama(walls, place, 15 * n, 800) for n, place in enumerate(PLACES)}
    pictures |= {f"P{n}_mask.png": mask for n in range(len(PLACES))}
    run = sfm(pictures, first_octave=-1, orientations=1, max_features=4096)
    assert run.metrics["photos_supported"] == 36
    downward = np.array([view["world_to_camera"] for view in run.views]).reshape(6, 6, 4, 4)[:, 5, 2, :3]
    assert downward == pytest.approx(np.tile([0, 1, 0], (6, 1)), abs=0.01)
    assert sum("masked" in view for view in run.views) >= 6
    centers = run.centers.reshape(6, 6, 3)
    assert np.ptp(centers, axis=1).max() < 1e-6
    truth = np.array(PLACES)
    fit = fit_similarity(centers[:, 0], truth)
    assert np.linalg.norm(fit(centers[:, 0]) - truth, axis=1).max() < 0.02


def photo(walls: list[Image.Image]) -> Image.Image:
    """What a camera that sees no more than others sees of the room."""
    x, y = np.meshgrid(np.arange(400) + 0.5 - 200, np.arange(300) + 0.5 - 150)
    rays = np.stack([x / 320, y / 320, np.ones_like(x)], axis=-1)
    angle = np.radians(20)
    turn = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
    return Image.fromarray(seen(walls, PLACE_OF_THE_PHOTO, rays @ turn))
