"""Levels of detail: what is in their files is what was to be shown."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2e3d_stages.compress.merging import covariances, halved, merged, quaternions, rotations
from e2e3d_stages.compress.streaming import write_levels
from e2e3d_stages.splats import sog
from e2e3d_stages.splats.gaussians import Gaussians, joined
from e2e3d_stages.splats.streamed import META, level_in_one_file

COUNT, CHUNK, COARSEST = 2500, 700, 200


class Levels:
    """Written levels, read back by what `lod-meta.json` says of them."""

    def __init__(self, given: Gaussians, folder: Path) -> None:
        def encode(some: Gaussians, path: Path, parts: Any) -> None:
            sog.encode(some, path, parts=parts)

        self.counts = write_levels(given, folder, encode, chunk=CHUNK, coarsest=COARSEST)
        self.folder = folder
        self.meta = json.loads((folder / META).read_text())
        self.files = [sog.decode(folder / name) for name in self.meta["filenames"]]

    def nodes(self, node: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        node = node or self.meta["tree"]
        return [node, *(below for child in node.get("children", ()) for below in self.nodes(child))]

    def leaves(self) -> list[dict[str, Any]]:
        return [node for node in self.nodes() if "lods" in node]

    def stretch(self, at: dict[str, int]) -> Gaussians:
        return self.files[at["file"]].select(np.arange(at["offset"], at["offset"] + at["count"]))

    def level(self, level: int) -> Gaussians:
        return joined([self.stretch(leaf["lods"][str(level)]) for leaf in self.leaves()])


@pytest.fixture(scope="module")
def given(make_gaussians: Any) -> Gaussians:
    return make_gaussians(COUNT, 1)


@pytest.fixture(scope="module")
def levels(given: Gaussians, tmp_path_factory: pytest.TempPathFactory) -> Levels:
    return Levels(given, tmp_path_factory.mktemp("scene") / "streamed")


def test_every_gaussian_is_once_in_the_finest_level(levels: Levels, given: Gaussians) -> None:
    finest = levels.level(0)
    assert len(finest) == COUNT
    # By place: what is left of a Gaussian after SOG's steps is nearer to itself than to any other.
    apart = np.linalg.norm(finest.means[:, None] - given.means[None], axis=2)
    assert sorted(apart.argmin(axis=1)) == list(range(COUNT))
    assert apart.min(axis=1).max() < 1e-3


def test_every_place_of_every_file_belongs_to_one_box(levels: Levels) -> None:
    taken = [np.zeros(len(file), int) for file in levels.files]
    for leaf in levels.leaves():
        for at in leaf["lods"].values():
            taken[at["file"]][at["offset"] : at["offset"] + at["count"]] += 1
    assert all((each == 1).all() for each in taken)
    assert all(len(file) <= CHUNK for file in levels.files)


def test_each_level_has_half_of_the_one_before_and_says_so(levels: Levels) -> None:
    held = [len(levels.level(level)) for level in range(levels.meta["lodLevels"])]
    assert held == levels.meta["counts"] == levels.counts
    assert sum(held) == levels.meta["count"]
    for finer, coarser in pairwise(held):
        assert finer / 2 <= coarser <= finer / 2 + len(levels.leaves())
    assert held[-1] <= COARSEST < held[-2]


def test_a_box_holds_what_is_in_it_at_every_level(levels: Levels) -> None:
    for leaf in levels.leaves():
        low, high = np.array(leaf["bound"]["min"]), np.array(leaf["bound"]["max"])
        for at in leaf["lods"].values():
            inside = levels.stretch(at)
            reach = np.sqrt(np.einsum("nii->ni", covariances(inside)))
            # SOG's scales have 256 steps.
            assert (inside.means - 0.9 * reach >= low).all()
            assert (inside.means + 0.9 * reach <= high).all()
    for node in levels.nodes():
        for child in node.get("children", ()):
            assert (np.array(child["bound"]["min"]) >= node["bound"]["min"]).all()
            assert (np.array(child["bound"]["max"]) <= node["bound"]["max"]).all()


def test_boxes_part_the_scene(levels: Levels) -> None:
    sizes = [np.ptp(levels.stretch(leaf["lods"]["0"]).means, axis=0) for leaf in levels.leaves()]
    whole = np.ptp(levels.level(0).means, axis=0)
    assert len(sizes) == 4
    assert np.mean([np.prod(size) for size in sizes]) < 0.5 * np.prod(whole)


def test_only_the_coarsest_level_goes_without_colours_by_direction(levels: Levels) -> None:
    last = str(levels.meta["lodLevels"] - 1)
    coarsest = {leaf["lods"][last]["file"] for leaf in levels.leaves()}
    assert {place for place, file in enumerate(levels.files) if file.sh_degree == 0} == coarsest
    assert len(coarsest) < len(levels.files)


def test_a_level_in_one_file_is_the_whole_scene(levels: Levels) -> None:
    path = level_in_one_file(levels.folder)
    found = sog.decode(path)
    assert len(found) == levels.counts[2]
    assert len(found) <= CHUNK < levels.counts[1]
    np.testing.assert_allclose(found.means.std(axis=0), levels.level(0).means.std(axis=0), rtol=0.1)


def test_a_scene_that_fits_is_one_box_of_one_level(make_gaussians: Any, tmp_path: Path) -> None:
    small = Levels(make_gaussians(150, 1), tmp_path / "streamed")
    assert (small.counts, small.meta["filenames"]) == ([150], ["0_0.sog"])
    assert "lods" in small.meta["tree"]
    assert small.files[0].sh_degree == 1
    assert level_in_one_file(small.folder).name == "0_0.sog"


# Merging


@pytest.mark.parametrize("count", [1, 2, 3, 1000, 1001])
def test_half_of_them_are_left(make_gaussians: Any, count: int) -> None:
    left = halved(make_gaussians(count, 1))
    assert len(left) == -(-count // 2)
    assert all(np.isfinite(field).all() for field in (left.means, left.scales, left.quats, left.opacities, left.sh))
    np.testing.assert_allclose(np.linalg.norm(left.quats, axis=1), 1, atol=1e-5)


def test_gaussians_in_one_place_can_be_halved_too(make_gaussians: Any) -> None:
    given = make_gaussians(200, 0)
    there = replace(given, means=np.zeros_like(given.means), scales=np.full_like(given.scales, -200))
    assert len(halved(there)) == 100


def test_the_alike_are_merged_and_not_a_neighbour_of_another_colour(make_gaussians: Any) -> None:
    one = make_gaussians(1, 0)
    twins = joined([one] * 4)
    twins.means[:] = [[0, 0, 0], [0.1, 0, 0], [0.2, 0, 0], [0.3, 0, 0]]
    twins.scales[:] = np.log(0.1)
    twins.sh[:, 0] = [[1, 0, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1]]
    left = halved(twins)
    assert sorted(left.sh[:, 0].round(3).tolist()) == [[0, 0, 1], [1, 0, 0]]


def test_two_equal_ones_become_one_that_looks_like_them(make_gaussians: Any) -> None:
    given = replace(make_gaussians(50, 2), opacities=np.full(50, -2, np.float32))
    both = merged(given, given)
    np.testing.assert_allclose(both.means, given.means, atol=1e-5)
    np.testing.assert_allclose(covariances(both), covariances(given), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(both.sh, given.sh, atol=1e-6)
    opacity = 1 / (1 + np.exp(-both.opacities))
    np.testing.assert_allclose(opacity, 2 / (1 + np.exp(2)), rtol=1e-3)


def test_two_apart_become_one_that_reaches_over_both(make_gaussians: Any) -> None:
    given = make_gaussians(50, 0)
    given.scales[:] = np.log(0.1)
    other = replace(given, means=given.means + np.array([1, 0, 0], np.float32))
    both = merged(given, other)
    np.testing.assert_allclose(both.means, given.means + [0.5, 0, 0], atol=1e-5)
    np.testing.assert_allclose(covariances(both)[:, 0, 0], 0.1**2 + 0.5**2, rtol=1e-3)
    np.testing.assert_allclose(covariances(both)[:, 1, 1], 0.1**2, rtol=1e-3)


def test_the_stronger_of_two_decides(make_gaussians: Any) -> None:
    given = make_gaussians(20, 0)
    strong, weak = replace(given, opacities=given.opacities * 0 + 6), replace(given, opacities=given.opacities * 0 - 6)
    weak = replace(weak, means=weak.means + 1, sh=weak.sh + 1)
    both = merged(strong, weak)
    np.testing.assert_allclose(both.means, strong.means, atol=0.02)
    np.testing.assert_allclose(both.sh, strong.sh, atol=0.02)


def test_a_rotation_survives_being_a_matrix(make_gaussians: Any) -> None:
    given = make_gaussians(500, 0)
    given.quats[:4] = np.eye(4)
    back = quaternions(rotations(given))
    assert np.abs((back * given.quats).sum(axis=1)).min() > 1 - 1e-6
