from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from e2e3d_stages.compress.cleaning import clean
from e2e3d_stages.splats.gaussians import Gaussians

LIMITS = {"min_opacity": 1 / 255, "floater_distance": 100.0, "max_floaters": 0.01}


def with_values(given: Gaussians, **changes: tuple[int, float]) -> Gaussians:
    """A copy in which one row of each named field holds one value."""
    fields = {}
    for name, (row, value) in changes.items():
        fields[name] = getattr(given, name).copy()
        fields[name][row] = value
    return replace(given, **fields)


def test_every_removal_is_counted_under_its_reason(make_gaussians: Any) -> None:
    given = make_gaussians(1000, 1)
    given = replace(given, opacities=np.full(1000, 2, dtype=np.float32))
    broken = with_values(given, means=(0, np.nan), sh=(1, np.inf), quats=(2, 0.0), opacities=(3, -9.0))
    broken = with_values(broken, scales=(4, 9.0))
    broken.means[5] = [1e6, 0, 0]

    kept, removals = clean(broken, **LIMITS)

    assert [(r.reason, r.count, r.removed) for r in removals] == [
        ("not_finite", 3, True),
        ("invisible", 1, True),
        ("floating", 2, True),
    ]
    np.testing.assert_array_equal(kept.means, given.means[6:])


def test_a_sound_scene_is_left_whole(make_gaussians: Any) -> None:
    given = make_gaussians(1000, 0)
    given = replace(given, opacities=np.full(1000, -5.5, dtype=np.float32))  # opacity 0.0041, just above 1/255

    kept, removals = clean(given, **LIMITS)

    assert len(kept) == 1000
    assert [r.count for r in removals] == [0, 0, 0]


def test_a_horizon_fifty_times_as_far_is_no_floater(make_gaussians: Any) -> None:
    given = make_gaussians(1000, 0)
    given = replace(given, opacities=np.full(1000, 2, dtype=np.float32))
    median = np.median(np.linalg.norm(given.means - np.median(given.means, axis=0), axis=1))
    given.means[:5] = [50 * median, 0, 0]

    assert len(clean(given, **LIMITS)[0]) == 1000


def test_what_looks_floating_in_great_number_is_a_background_and_stays(make_gaussians: Any) -> None:
    given = make_gaussians(1000, 0)
    given = replace(given, opacities=np.full(1000, 2, dtype=np.float32))
    given.means[:50] *= 1e5

    kept, removals = clean(given, **LIMITS)

    assert len(kept) == 1000
    assert (removals[2].count > 10, removals[2].removed) == (True, False)
    assert "background" in removals[2].why


def test_nothing_left_is_no_error_here(make_gaussians: Any) -> None:
    given = replace(make_gaussians(5, 0), opacities=np.full(5, -20, dtype=np.float32))

    assert len(clean(given, **LIMITS)[0]) == 0
