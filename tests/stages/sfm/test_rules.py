from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from e2e3d_stages.sfm.frame import estimate_up, georeferenced, heights_above_ground, upright
from e2e3d_stages.sfm.geodesy import Similarity, fit_gps, fit_similarity, to_enu, walked
from e2e3d_stages.sfm.motion import spread_out, turn_explains
from e2e3d_stages.sfm.pairs import choose_pairs, order_taken, sequential_pairs
from e2e3d_stages.sfm.params import PRESETS, Params
from e2e3d_stages.sfm.retrieval import alike
from e2e3d_stages.sfm.stillness import background_stood_still
from e2e3d_stages.sfm.support import Evidence, Quality, likely_reason

GOOD = Quality(blur=100, brightness=120, features=5000)


@pytest.mark.parametrize(
    ("evidence", "supported"),
    [
        (Evidence(True, 15, (15, 15)), True),
        (Evidence(True, 14, (200, 200)), False),
        (Evidence(True, 21, (54,)), True),
        (Evidence(True, 21, (49,)), False),
        (Evidence(True, 400, ()), False),
        (Evidence(False, 0, (500, 500)), False),
    ],
)
def test_a_photo_needs_points_and_matches_to_be_believed(evidence: Evidence, supported: bool) -> None:
    assert evidence.supported is supported


@pytest.mark.parametrize(
    ("evidence", "quality", "reason"),
    [
        (Evidence(False, 0, ()), GOOD, "no overlap"),
        (Evidence(False, 0, (), matching=11), GOOD, "matches 11 photos, of which none could be placed"),
        (Evidence(False, 0, (17,)), GOOD, "too little overlap: 17 matches"),
        (Evidence(True, 4, (17,)), GOOD, "too few points (4 points"),
        (Evidence(False, 0, (), other_model=True), GOOD, "belongs to a separate part"),
        (Evidence(False, 0, ()), Quality(20, 120, 5000), "blurred (sharpness 20, the set's median is 100)"),
        (Evidence(False, 0, ()), Quality(100, 8, 5000), "too dark"),
        (Evidence(False, 0, ()), Quality(100, 245, 5000), "too bright"),
        (Evidence(False, 0, ()), Quality(100, 120, 40), "little texture"),
    ],
)
def test_the_likely_reason_names_the_photos_own_fault_first(evidence: Evidence, quality: Quality, reason: str) -> None:
    assert (likely_reason(evidence, quality, [100, 90, 110]) or "").startswith(reason)


def test_a_used_photo_has_no_reason_however_blurred() -> None:
    assert likely_reason(Evidence(True, 300, (80, 90)), Quality(1, 120, 5000), [100, 90, 110]) is None


def test_small_sets_are_compared_exhaustively_and_large_ones_by_neighbourhood() -> None:
    grid = [np.array([10.0 * (n % 10), 10.0 * (n // 10), 0]) for n in range(100)]
    limits: dict[str, Any] = {"order": range(100), "alike": list, "exhaustive_limit": 60, "neighbors": 8}
    assert choose_pairs("auto", [None] * 20, **limits)[0] == "exhaustive"
    assert len(choose_pairs("auto", [None] * 20, **limits)[1]) == 190
    mode, pairs = choose_pairs("auto", grid, **limits)
    assert mode == "spatial"
    assert {(44, 45), (44, 54), (44, 55), (34, 44)} <= set(pairs)
    assert len(pairs) < 800
    assert choose_pairs("auto", [*grid[:50], *[None] * 50], **limits)[0] == "sequential"
    every = {place for pair in choose_pairs("spatial", [*grid[:90], *[None] * 10], **limits)[1] for place in pair}
    assert every == set(range(100))


def test_sequential_pairs_reach_far_enough_to_close_a_loop() -> None:
    pairs = sequential_pairs(100, 8)
    assert {(0, 1), (0, 4), (0, 8), (0, 64)} <= set(pairs)
    assert (0, 7) not in pairs
    assert all(0 <= a < b < 100 for a, b in pairs)


def named(*names: str, taken: list[str | None] | None = None) -> list[dict[str, Any]]:
    """Photos as ingest records them, in natural order."""
    times = taken or [None] * len(names)
    return [{"source": name, "taken": time} for name, time in zip(names, times, strict=True)]


def test_photos_without_gps_are_compared_in_the_order_they_were_taken_in() -> None:
    times: list[str | None] = [f"2024-05-01T10:00:{59 - second:02}.500000" for second in range(60)]
    order = order_taken(named(*(f"{n * 2654435761 % 2**32:08x}.jpg" for n in range(60)), taken=times))
    assert order == list(range(59, -1, -1))
    walk = [*range(0, 60, 2), *range(1, 60, 2)]
    mode, pairs = choose_pairs("auto", [None] * 60, walk, list, exhaustive_limit=9, neighbors=8)
    assert mode == "sequential"
    assert {(0, 2), (57, 59), (1, 58)} <= set(pairs)
    assert (2, 3) not in pairs


@pytest.mark.parametrize(
    ("names", "known"),
    [
        ([f"IMG_{n}.jpg" for n in range(9371, 9400)], True),
        ([f"a/P81019-1510{n}.jpg" for n in range(14, 60, 3)], True),
        ([f"frame_{n:05}.png" for n in range(0, 300, 10)], True),
        ([f"{n * 2654435761 % 2**32:08x}.jpg" for n in range(1, 40)], False),
        ([f"{n * 2654435761 % 10**9}.jpg" for n in range(1, 40)], False),
        (["left.jpg", "right.jpg", "above.jpg"], False),
    ],
)
def test_names_tell_an_order_when_they_count_up(names: list[str], known: bool) -> None:
    order = order_taken(named(*names))
    assert order == (list(range(len(names))) if known else None)


def test_times_that_are_nearly_all_the_same_tell_no_order() -> None:
    assert order_taken(named("b.jpg", "c.jpg", "d.jpg", taken=["2024-05-01T00:00:00"] * 3)) is None
    assert order_taken(named("b.jpg", "c.jpg", taken=["2024-05-01T00:00:00", "2024-05-01T00:00:01+02:00"])) is None


def test_a_clock_that_was_never_set_tells_an_order_too() -> None:
    assert order_taken(named("b.jpg", "c.jpg", taken=["0001-01-01T00:00:02", "0001-01-01T00:00:00"])) == [1, 0]


def test_photos_in_no_order_are_compared_with_those_that_look_alike() -> None:
    rng = np.random.default_rng(0)
    things = [rng.integers(0, 120, (150, 128)) for _ in range(10)]
    # Forty photos in a random order; each shows one thing and half of the next, through some noise.
    walk = rng.permutation(40)

    def descriptors(place: int) -> np.ndarray:
        step = walk[place] / 4
        shown = np.concatenate([things[int(step)], things[(int(step) + 1) % 10][: int(150 * (step % 1))]])
        return (shown + rng.integers(0, 12, shown.shape)).astype(np.uint8)

    mode, pairs = choose_pairs(
        "auto", [None] * 40, None, lambda: alike(40, descriptors, 6, seed=0), exhaustive_limit=9, neighbors=6
    )
    assert mode == "retrieval"
    assert len(pairs) <= 6 * 40
    assert all(0 <= a < b < 40 for a, b in pairs)
    apart = [min(abs(walk[a] - walk[b]), 40 - abs(walk[a] - walk[b])) for a, b in pairs]
    assert np.mean(np.array(apart) <= 6) > 0.9
    assert len({place for pair in pairs for place in pair}) == 40


def test_photos_without_features_are_compared_all_the_same() -> None:
    assert alike(3, lambda place: np.zeros((0, 128), np.uint8), 2, seed=0) == [(0, 1), (0, 2), (1, 2)]


def look(eye: np.ndarray, target: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Camera-to-world rotation of a camera held level."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(down, forward)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward], axis=1)


def tilted() -> np.ndarray:
    """A frame as arbitrary as a mapper's."""
    rotation = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0]
    return rotation * np.sign(np.linalg.det(rotation))


def angle(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))))


def scene_of(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Rotations and centres of level cameras in a world whose up is -Y."""
    random = np.random.default_rng(0)
    down = np.array([0.0, 1, 0])
    if kind == "half an orbit, looking down":
        turns = np.linspace(0, np.pi, 12)
        eyes = np.stack([4 * np.cos(turns), np.full(12, -3.0), 4 * np.sin(turns)], axis=1)
        rotations = [look(eye, random.normal(0, 0.1, 3), down) for eye in eyes]
    elif kind == "along a wall":
        eyes = np.stack([np.linspace(0, 8, 12), random.normal(0, 0.1, 12), np.zeros(12)], axis=1)
        rotations = [look(eye, eye + [0, 0, 5.0], down) for eye in eyes]
    else:  # a drone over a field, nose along the strips, turning at their ends or not
        eyes = np.array([[strip * 5.0, -20.0, 4.0 * row] for strip in range(3) for row in range(5)])
        turning = kind == "a turning drone"
        noses = [np.array([0.0, 0, -1 if turning and n // 5 % 2 else 1]) for n in range(15)]
        below = eyes + [0, 9.0, 0] + random.normal(0, 0.3, eyes.shape)
        rotations = [look(eye, target, nose) for eye, target, nose in zip(eyes, below, noses, strict=True)]
    return np.array(rotations), eyes


@pytest.mark.parametrize(
    ("kind", "walked", "source"),
    [
        ("half an orbit, looking down", 0, "horizon"),
        ("along a wall", 50, "camera"),
        ("a turning drone", 0, "nadir"),
        ("a drone that keeps its heading", 50, "nadir"),
    ],
)
def test_up_is_found_for(kind: str, walked: float, source: str) -> None:
    rotations, centers = scene_of(kind)
    frame = tilted()
    up, up_from = estimate_up(frame @ rotations, centers @ frame.T, walked)
    assert up_from == source
    assert angle(up, frame @ [0, -1, 0]) < 5


def test_the_upright_frame_has_up_at_minus_y_and_the_subject_at_the_origin() -> None:
    up = np.array([0.6, 0.0, 0.8])
    points = np.random.default_rng(1).normal(3, 1, (101, 3))
    world = upright(up, np.array([0.0, 1.0, 0.0]), points, distance=2.0)
    assert np.allclose(world.rotation @ up, [0, -1, 0])
    assert np.allclose(world.rotation @ [0, 1, 0], [0, 0, 1])
    assert np.linalg.det(world.rotation) == pytest.approx(1)
    assert world.scale == 2.5
    assert np.allclose(world(np.median(points, axis=0)[None]), 0)


def test_cameras_are_as_high_above_the_ground_as_they_were_whatever_else_there_is() -> None:
    random = np.random.default_rng(3)
    frame = tilted()
    ground = random.uniform(-5, 5, (300, 3)) * [1, 0, 1] + random.normal(0, 0.01, (300, 3))
    # A wall with more points than the ground, and what was seen through a window.
    wall = random.uniform([-5, -3, 4], [5, 0, 4], (600, 3))
    far = random.uniform(20, 40, (60, 3))
    cameras = np.stack([np.linspace(-3, 3, 9), np.full(9, -1.6), np.full(9, -4)], 1) + random.normal(0, 0.05, (9, 3))
    points = np.concatenate([ground, wall, far])
    heights = heights_above_ground(cameras @ frame.T, points @ frame.T, frame @ [0, -1, 0], distance=5.0)
    assert heights is not None
    assert heights == pytest.approx(-cameras[:, 1], abs=0.03)
    assert heights_above_ground(cameras, wall, np.array([0, -1.0, 0]), distance=5.0) is None


def test_east_north_up_agree_with_the_size_of_a_degree() -> None:
    origin = np.array([30.0, -98.0, 300.0])
    enu = to_enu(np.array([[30.001, -98.0, 300.0], [30.0, -97.999, 300.0], [30.0, -98.0, 310.0]]), origin)
    assert enu == pytest.approx(np.array([[0, 110.85, 0], [96.49, 0, 0], [0, 0, 10]]), abs=0.05)


def flight(seed: int = 0) -> tuple[np.ndarray, np.ndarray, Similarity]:
    """Camera centres in a mapper's frame, their true places in metres, and the way from one to the other."""
    random = np.random.default_rng(seed)
    enu = random.uniform(0, 100, (20, 3)) * [1, 1, 0.1]
    rotation = tilted()
    truth = Similarity(7.0, rotation, np.array([5.0, -3.0, 20.0]))
    return (enu - truth.translation) @ rotation / 7.0, enu, truth


def test_gps_with_some_gross_errors_is_fitted() -> None:
    centers, enu, truth = flight()
    enu = enu + np.random.default_rng(2).normal(0, 0.5, enu.shape)
    enu[:5] += [80, -50, 30]
    fit = fit_gps(centers, enu, up=truth.rotation.T @ [0, 0, 1])
    assert fit.problem == ""
    assert fit.inlier_share == 0.75
    assert fit.similarity is not None
    assert fit.similarity.scale == pytest.approx(7, rel=0.02)
    assert np.allclose(fit.similarity.rotation, truth.rotation, atol=0.03)


def test_noisy_gps_is_refused() -> None:
    centers, enu, truth = flight()
    fit = fit_gps(centers, enu + np.random.default_rng(2).normal(0, 15, enu.shape), up=truth.rotation.T @ [0, 0, 1])
    assert "m off (median)" in fit.problem
    assert fit.residual is not None
    assert fit.residual > 5


@pytest.mark.parametrize("wild", [(2500.0, 0, 0), (0, 0, -330.0), (8e6, 3e6, -6e6)], ids=["east", "altitude 0", "far"])
def test_one_wild_fix_makes_noisy_gps_no_better_and_good_gps_no_worse(wild: tuple[float, float, float]) -> None:
    centers, enu, truth = flight()
    up = truth.rotation.T @ [0, 0, 1]
    noise = np.random.default_rng(2).normal(0, 1, enu.shape)
    enu[7] += wild
    assert "m off (median)" in fit_gps(centers, enu + 10 * noise, up=up).problem
    good = fit_gps(centers, enu + 0.5 * noise, up=up)
    assert good.problem == ""
    assert good.inlier_share == 0.95
    assert good.extent == pytest.approx(130, rel=0.2)
    assert good.similarity is not None
    assert good.similarity.scale == pytest.approx(7, rel=0.01)


def test_a_fit_follows_the_positions_that_are_exact() -> None:
    centers, enu, truth = flight()
    up = truth.rotation.T @ [0, 0, 1]
    exact = np.arange(20) % 3 == 0
    rng = np.random.default_rng(3)
    enu = enu + np.where(exact[:, None], rng.normal(0, 0.02, enu.shape), rng.normal(0.8, 1, enu.shape))
    fits = [fit_gps(centers, enu, up, deviations=each).similarity for each in (None, np.where(exact, 0.02, 5.0))]
    off = [np.linalg.norm(fit(centers[exact]) - enu[exact], axis=1).max() for fit in fits if fit]
    assert off[0] > 0.3
    assert off[1] < 0.06


def test_how_far_a_capture_reaches_is_not_said_by_one_wild_fix() -> None:
    _, enu, _ = flight()
    assert walked(np.zeros((0, 2))) == 0
    reach = walked(enu[:, :2])
    assert reach == pytest.approx(np.linalg.norm(np.ptp(enu[:, :2], axis=0)))
    assert walked(np.vstack([enu[:, :2], [[9e5, 0]]])) == pytest.approx(reach)


def test_gps_that_tilts_the_scene_is_refused() -> None:
    centers, enu, truth = flight()
    assert "tilt the scene by 90 degrees" in fit_gps(centers, enu, up=truth.rotation.T @ [1, 0, 0]).problem


def test_cameras_on_a_line_and_too_few_cameras_are_refused() -> None:
    line = np.linspace(0, 1, 10)[:, None] * [[3.0, 4.0, 0.0]]
    assert fit_gps(line, line * 10, up=np.array([0.0, 0, 1])).problem == "the cameras stand on a line"
    assert "only 4 placed photos have" in fit_gps(np.eye(4, 3), np.eye(4, 3), up=np.array([0.0, 0, 1])).problem
    assert "only 1 placed photo has" in fit_gps(np.eye(1, 3), np.eye(1, 3), up=np.array([0.0, 0, 1])).problem


def test_a_georeferenced_scene_is_in_metres_upright_and_maps_back() -> None:
    centers, enu, _ = flight()
    world, scene_to_enu = georeferenced(fit_similarity(centers, enu), centers)
    scene = world(centers)
    assert np.allclose(scene @ scene_to_enu[:3, :3].T + scene_to_enu[:3, 3], enu)
    assert np.allclose(np.median(scene, axis=0), 0, atol=1e-6)
    assert np.allclose(scene[:, 1] - scene[0, 1], -(enu[:, 2] - enu[0, 2]))


def test_every_preset_is_valid_and_less_memory_means_fewer_features() -> None:
    for overrides in PRESETS.values():
        assert Params(**overrides).neighbors <= 12
    smaller = Params(max_features=3000).smaller()
    assert smaller is not None
    assert smaller.max_features == 2048
    assert smaller.smaller() is None


def test_only_a_fast_try_has_a_thorough_one_after_it() -> None:
    assert Params().thorough() is None
    for fast in (Params(orientations=1, max_features=4096), Params(first_octave=0)):
        thorough = fast.thorough()
        assert thorough is not None
        assert (thorough.orientations, thorough.first_octave, thorough.max_features) == (2, -1, 8192)


def seen_from(points: np.ndarray, center: tuple[float, float, float], degrees: float) -> np.ndarray:
    """Directions of points from a camera that stands somewhere, turned about its vertical axis."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
    there = (points - center) @ turn.T
    noise = np.random.default_rng(1).normal(0, 0.5 / 800, (len(points), 2))
    return np.column_stack([there[:, :2] / there[:, 2:] + noise, np.ones(len(points))])


@pytest.mark.parametrize(
    ("step", "flat", "turned"),
    [(0.0, False, True), (0.01, False, True), (0.3, False, False), (0.3, True, False), (1.0, True, False)],
    ids=["turned", "turned beside the lens", "walked", "walked along a wall", "far along a wall"],
)
def test_a_camera_that_only_turned_is_told_from_one_that_walked(step: float, flat: bool, turned: bool) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform((-2, -2, 4), (2, 2, 4 if flat else 9), (200, 3))
    first, second = seen_from(points, (0, 0, 0), 0), seen_from(points, (step, 0, 0), 12)
    # A tenth of the matches is wrong.
    second[:20] = second[20:40]
    second[100:110] = np.nan
    assert turn_explains(first, second, 1 / 800, 1000) is turned
    assert not turn_explains(first * np.nan, second, 1 / 800, 1000)


def test_pairs_to_look_at_come_from_the_whole_walk() -> None:
    pairs = [(place, place + 1) for place in range(1000)]
    chosen = spread_out(pairs, 300)
    assert 200 <= len(chosen) <= 300
    assert chosen[0] == (0, 1)
    assert chosen[-1][0] > 990
    assert spread_out(pairs[:5], 300) == pairs[:5]


def moved(still: int, others: int) -> np.ndarray:
    """By how many pixels the matches of a pair moved: some hardly, others far."""
    rng = np.random.default_rng(still + others)
    return np.concatenate([rng.normal(0, 0.5, (still, 2)), rng.uniform(20, 300, (others, 2))])


ALL_PAIRS = [(a, b) for a in range(12) for b in range(a + 1, 12)]


def test_a_background_that_stood_still_is_told_from_a_camera_that_moved() -> None:
    assert background_stood_still(ALL_PAIRS, None, lambda _pair: moved(60, 100))
    assert not background_stood_still(ALL_PAIRS, None, lambda _pair: moved(30, 170))
    assert not background_stood_still(ALL_PAIRS, None, lambda _pair: moved(14, 0))
    assert not background_stood_still(ALL_PAIRS, None, lambda _pair: None)
    assert not background_stood_still([], None, lambda _pair: moved(60, 100))


def test_a_slow_walk_is_no_turntable_in_whatever_order_it_lies() -> None:
    order = np.random.default_rng(0).permutation(12).tolist()
    ranks = {place: rank for rank, place in enumerate(order)}

    def moves(pair: tuple[int, int]) -> np.ndarray:
        apart = abs(ranks[pair[0]] - ranks[pair[1]])
        return moved(90, 10) if min(apart, 12 - apart) <= 2 else moved(2, 98)

    assert not background_stood_still(ALL_PAIRS, order, moves)
    # Were those that follow one another asked, they would say otherwise.
    followers = [(a, b) for a, b in ALL_PAIRS if min(abs(ranks[a] - ranks[b]), 12 - abs(ranks[a] - ranks[b])) <= 2]
    assert not background_stood_still(followers, order, moves)
    assert background_stood_still(followers, None, lambda _pair: moved(90, 10))
