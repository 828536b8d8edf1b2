"""The child process of the stage: from photos to an undistorted model in the world frame, in one reading.

`python -m e2e3d_stages.sfm.reconstruct TASK.json`. Progress goes to `events.jsonl`, the figures to `metrics.json`.
"""

from __future__ import annotations

import ctypes
import json
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray
from PIL import Image, ImageStat

from e2e3d_stages.contract.messages import Failure, InvalidRequest, UnreadableCapture
from e2e3d_stages.sfm import export
from e2e3d_stages.sfm.frame import estimate_up, georeferenced, heights_above_ground, upright
from e2e3d_stages.sfm.geodesy import (
    MAX_TILT_DEGREES,
    USUAL_DEVIATION,
    Fit,
    Similarity,
    fit_gps,
    fit_local,
    to_enu,
    walked,
)
from e2e3d_stages.sfm.measured import Measured, Sighting, place_in, read_measured
from e2e3d_stages.sfm.motion import spread_out, turn_explains
from e2e3d_stages.sfm.own_poses import place_as_told, read_model, take_over
from e2e3d_stages.sfm.pairs import Pair, choose_pairs, order_taken
from e2e3d_stages.sfm.params import Params
from e2e3d_stages.sfm.rays import Ray, meeting_point
from e2e3d_stages.sfm.retrieval import alike
from e2e3d_stages.sfm.rigs import between, join_rigs, same_panorama, units_of
from e2e3d_stages.sfm.stillness import background_stood_still
from e2e3d_stages.sfm.support import Evidence, Quality, likely_reason

CAMERA_MODEL = "SIMPLE_RADIAL"
# Of what was rendered.
FACE_MODEL = "SIMPLE_PINHOLE"
MIN_MODEL_SIZE = 3
# A fast try that leaves more than this share of the photos without a place is done again.
LOST_SHARE = 0.1
# Once photos are matched again, those that barely hold on are too.
WEAK_OBSERVATIONS = 50
# Lowe's ratio and the largest descriptor distance where two photos are known to overlap; COLMAP's own: 0.8, 0.7.
LENIENT_RATIO, LENIENT_DISTANCE = 0.9, 0.9
# Pairs matched again for photos that found no place; keeps the second try cheaper than the first.
MAX_RESCUE_PAIRS = 2000
# Enough to tell whether the camera moved.
MOST_PAIRS_LOOKED_AT = 300
# Focal length over long side of usual lenses, in steps that a turn tells apart. Longer ones take any step for a turn.
USUAL_FOCALS = tuple(np.geomspace(0.55, 1.5, 14).tolist())
# Focal length over long side below which a lens may be a fisheye, and that of one that sees 140 degrees.
WIDE, USUAL_FISHEYE = 0.6, 0.4
# The reprojection error must become so many times what it was.
FISHEYE_GAIN = 0.8
# Mean length of the unit vectors that point up by the cameras' own measure, where these agree (within about 8 degrees).
AGREED = 0.99
# Of the distance to the nearest camera: what is shorter was not measured in photos but within a pixel of them.
LEAST_MEASURED = 0.005
# From what up is known to so many degrees that an axis of positions farther from it is not up.
SURE, SURE_TILT = ("horizon", "gimbal"), 10.0
EVENT_SECONDS = 0.5
GREY_SIZE = 64

Models = list[pycolmap.Reconstruction]
Counter = AbstractContextManager[Callable[[], int]]


@dataclass
class Task:
    """What the stage asks for, and where things are."""

    images: Path
    photos: list[dict[str, Any]]
    params: Params
    threads: int
    output: Path
    scratch: Path
    poses: Path | None = None
    masks: export.Masks | None = None
    positions: dict[str, Any] | None = None
    look_everywhere: bool = False
    leave_out_still: bool = False
    ids: dict[str, int] = field(default_factory=dict)
    faces: set[int] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> Task:
        """Read `task.json` as the stage wrote it."""
        task = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            images=Path(task["images"]),
            photos=task["photos"],
            params=Params.model_validate(task["params"]),
            threads=task["threads"],
            output=Path(task["output"]),
            scratch=Path(task["scratch"]),
            poses=Path(task["poses"]) if task["poses"] else None,
            masks=export.Masks(Path(task["masks"]), cut_out=task["cut_out"]) if task["masks"] else None,
            positions=task["positions"],
        )

    @property
    def names(self) -> list[str]:
        """The photos' names in the capture's order."""
        return [photo["name"] for photo in self.photos]

    @property
    def database(self) -> Path:
        """pycolmap's database of features and matches."""
        return self.scratch / "features.db"

    def read_ids(self) -> None:
        """Learn the photos' ids in the database; pycolmap leaves photos out that it cannot read."""
        with closing(pycolmap.Database.open(self.database)) as database:
            self.ids = {image.name: image.image_id for image in database.read_all_images()}

    def tell(self, phase: str, done: int, total: int, unit: str) -> None:
        """Report progress to the parent process."""
        line = json.dumps({"phase": phase, "done": done, "total": total, "unit": unit})
        with (self.scratch / "events.jsonl").open("a", encoding="utf-8") as events:
            events.write(line + "\n")

    @contextmanager
    def counting(self, phase: str, unit: str, total: int, counter: Counter) -> Iterator[None]:
        """Report progress of a pycolmap call that has no callback by counting what it leaves.

        :param counter: opened in a thread beside the call.
        """
        done = threading.Event()

        def watch() -> None:
            with counter as count:
                start = count()
                while not done.wait(EVENT_SECONDS):
                    self.tell(phase, min(count() - start, total), total, unit)

        watcher = threading.Thread(target=watch, daemon=True)
        self.tell(phase, 0, total, unit)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
        self.tell(phase, total, total, unit)

    @contextmanager
    def rows(self, count: Callable[[pycolmap.Database], int]) -> Iterator[Callable[[], int]]:
        """Counts rows of the database."""
        with closing(pycolmap.Database.open(self.database)) as database:
            yield lambda: count(database)


def main(path: str) -> None:
    """Do what `task.json` says; what is wrong with capture or request goes to `failure.json`."""
    _die_with_parent()
    task = Task.read(Path(path))
    try:
        find_scene(task)
    except (UnreadableCapture, InvalidRequest) as error:
        (task.scratch / "failure.json").write_text(Failure.of(error, 0).model_dump_json(), encoding="utf-8")
        sys.exit(error.code.exit_code)


def find_scene(task: Task) -> None:
    """From poses to everything that the stage leaves."""
    pycolmap.set_random_seed(task.params.seed)
    if task.poses:
        found = own_poses(task)
    else:
        found = told_poses(task) if any("pose" in photo for photo in task.photos) else find_poses(task)
    model, evidence = found.model, found.evidence
    metrics = {
        "photos_given": len(task.photos),
        "photos_registered": sum(item.registered for item in evidence.values()),
        "photos_supported": sum(item.supported for item in evidence.values()),
        "registered_share": round(sum(item.registered for item in evidence.values()) / len(task.photos), 4),
        "models": found.models,
        "second_model_photos": found.second_model_photos,
        "turned_share": found.turned_share,
        "mapper": found.mapper,
        "fisheye": any("FISHEYE" in camera.model_name for camera in model.cameras.values()),
        "pairing": found.pairing,
        "pairs_matched": found.pairs_matched,
        "masks_left_out": task.look_everywhere,
        "still_left_out": task.leave_out_still,
        "orientations": task.params.orientations,
        "first_octave": task.params.first_octave,
        **place_in_world(task, model),
        **write_scene(task, model),
    }
    write_photos(task, evidence, found.features)
    (task.scratch / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")


def write_scene(task: Task, model: pycolmap.Reconstruction) -> dict[str, Any]:
    """Write the scene's files; returns metrics."""

    def count() -> int:
        return sum(1 for _ in (task.scratch / export.UNDISTORTED / "images").glob("*"))

    with task.counting("undistorting photos", "photos", model.num_reg_images(), nullcontext(count)):
        return export.write_scene(model, task.images, task.names, task.output, task.scratch, task.threads, task.masks)


@dataclass
class Found:
    """Poses, and how they were come by.

    :param evidence: for each photo, what speaks for its place.
    :param features: found on each photo.
    :param second_model_photos: photos that stand in other models only.
    :param turned_share: of the pairs that match, those that a camera explains that only turned.
    """

    model: pycolmap.Reconstruction
    evidence: dict[str, Evidence]
    features: dict[str, int]
    mapper: str
    models: int = 1
    second_model_photos: int = 0
    turned_share: float | None = None
    pairing: str | None = None
    pairs_matched: int = 0


def pairs_to_match(task: Task) -> tuple[str, list[Pair]]:
    """Which photos are compared, and by what they were chosen; panoramas are with all their faces."""
    units, positions = units_of(task.photos), _neighborhood(task)
    mode, pairs = choose_pairs(
        task.params.pairs,
        [positions[unit[0]] for unit in units],
        order_taken([{**task.photos[unit[0]], "source": _name_of(task, unit)} for unit in units]),
        lambda: alike_pairs(task, units),
        exhaustive_limit=task.params.exhaustive_limit,
        neighbors=task.params.neighbors,
    )
    return mode, between(units, pairs)


def _name_of(task: Task, unit: Sequence[int]) -> str:
    photo = task.photos[unit[0]]
    return str(photo["panorama"]["source"] if "panorama" in photo else photo["source"])


def find_poses(task: Task) -> Found:
    """Structure from motion."""
    extract(task)
    pairing, pairs = pairs_to_match(task)
    match_all(task, pairs, "matching")
    mapper, models = reconstruct_masked(task, pairs) if task.masks else reconstruct(task, pairs)
    evidence = gather_evidence(task, models)
    model = models[0] if models else pycolmap.Reconstruction()
    turned = turned_share(task, model)
    remove_unsupported(model, evidence)
    return Found(
        model,
        evidence,
        count_features(task),
        mapper,
        models=len(models),
        second_model_photos=sum(item.other_model for item in evidence.values()),
        turned_share=turned,
        pairing=pairing,
        pairs_matched=len(pairs),
    )


def alike_pairs(task: Task, units: Sequence[Sequence[int]]) -> list[Pair]:
    """Pairs of photos or panoramas that look alike by their features."""
    with closing(pycolmap.Database.open(task.database)) as database:

        def descriptors(place: int) -> NDArray[np.uint8]:
            ids = [task.ids[task.names[each]] for each in units[place] if task.names[each] in task.ids]
            found = [np.asarray(database.read_descriptors(each).data).reshape(-1, 128) for each in ids]
            return np.concatenate([np.zeros((0, 128), np.uint8), *found])

        return alike(len(units), descriptors, task.params.neighbors, task.params.seed)


def own_poses(task: Task) -> Found:
    """Poses that came with the capture: a photo is supported by the points that it sees."""
    assert task.poses is not None
    model = read_model(task.poses)
    take_over(model, task.photos)
    seen = {image.name: image.num_points3D for image in model.images.values() if image.has_pose}
    evidence = {name: Evidence(name in seen, seen.get(name, 0), (), own=True) for name in task.names}
    remove_unsupported(model, evidence)
    return Found(model, evidence, features={}, mapper="own poses")


def told_poses(task: Task) -> Found:
    """Poses that came with the capture without points: what the photos share is placed by them."""
    extract(task)
    pairing, pairs = pairs_to_match(task)
    posed = place_as_told(task.database, task.photos)
    match(task, pairs, "matching")
    with task.counting("placing points", "photos", len(task.photos), nullcontext(lambda: 0)):
        model = pycolmap.triangulate_points(posed, task.database, task.images, _fresh(task.scratch / "told"))
    seen = {image.name: image.num_points3D for image in model.images.values() if image.has_pose}
    evidence = {name: Evidence(name in seen, seen.get(name, 0), (), own=True) for name in task.names}
    remove_unsupported(model, evidence)
    features = count_features(task)
    return Found(model, evidence, features, mapper="own poses", pairing=pairing, pairs_matched=len(pairs))


def count_features(task: Task) -> dict[str, int]:
    """How many features were found on each photo that pycolmap could read."""
    with closing(pycolmap.Database.open(task.database)) as database:
        return {name: database.num_keypoints_for_image(image_id) for name, image_id in task.ids.items()}


def _die_with_parent() -> None:
    """An orphan would go on eating the machine after its parent was killed outright."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def extract(task: Task, phase: str = "finding features") -> None:
    """SIFT features of all photos; the photos of one camera group share one camera with its focal length."""
    _remove_database(task)
    pycolmap.Database.open(task.database).close()
    options = pycolmap.FeatureExtractionOptions(num_threads=task.threads)
    options.sift.max_num_orientations = task.params.orientations
    options.sift.max_num_features = task.params.max_features
    options.sift.first_octave = task.params.first_octave
    with task.counting(phase, "photos", len(task.photos), task.rows(lambda found: found.num_images())):
        for group in sorted({photo["camera"] for photo in task.photos}):
            photos = [photo for photo in task.photos if photo["camera"] == group]
            rendered = "panorama" in photos[0]
            reader = pycolmap.ImageReaderOptions(camera_model=FACE_MODEL if rendered else CAMERA_MODEL)
            if task.masks and not task.look_everywhere:
                reader.mask_path = str(_masks_of_all(task, task.masks.folder))
            focal = photos[0]["focal_px"]
            if focal:
                reader.camera_params = f"{focal},{photos[0]['width'] / 2},{photos[0]['height'] / 2}"
                reader.camera_params += "" if rendered else ",0"
            pycolmap.extract_features(
                task.database,
                task.images,
                image_names=[photo["name"] for photo in photos],
                camera_mode=pycolmap.CameraMode.SINGLE,
                reader_options=reader,
                extraction_options=options,
            )
    task.faces = join_rigs(task.database, task.photos)
    task.read_ids()


def _masks_of_all(task: Task, given: Path) -> Path:
    """A folder with a mask for each photo: COLMAP passes over those that have none."""
    folder = task.scratch / "masks"
    if not folder.exists():
        folder.mkdir()
        for photo in task.photos:
            name = f"{photo['name']}.png"
            if (given / name).exists():
                shutil.copyfile(given / name, folder / name)
            else:
                Image.new("1", (photo["width"], photo["height"]), 1).save(folder / name)
    return folder


def _ground_positions(task: Task) -> list[NDArray[np.float64] | None]:
    """Photos' GPS positions in metres around their middle, without heights: a GPS is at its worst there."""
    located = [(photo["gps"]["lat"], photo["gps"]["lon"]) for photo in task.photos if photo["gps"]]
    if not located:
        return [None] * len(task.photos)
    origin = np.array([*np.median(located, axis=0), 0.0])
    return [
        to_enu(np.array([[photo["gps"]["lat"], photo["gps"]["lon"], 0.0]]), origin)[0, :2] if photo["gps"] else None
        for photo in task.photos
    ]


def _neighborhood(task: Task) -> list[NDArray[np.float64] | None]:
    """What tells which photos are neighbours: GPS, or positions that came along where these are of more photos."""
    ground = _ground_positions(task)
    told = [np.array(photo["xyz"]) if "xyz" in photo else None for photo in task.photos]
    return told if sum(place is not None for place in told) > sum(place is not None for place in ground) else ground


def match(task: Task, pairs: Sequence[Pair], phase: str, *, lenient: bool = False) -> None:
    """Match and verify pairs of photos.

    :param lenient: also take matches that are less distinct from the next best. Only for pairs already verified:
        between photos that share nothing it would find a false geometry.
    """
    if not pairs:
        return
    options = pycolmap.FeatureMatchingOptions(num_threads=task.threads, rig_verification=bool(task.faces))
    if lenient:
        options.sift.max_ratio, options.sift.max_distance = LENIENT_RATIO, LENIENT_DISTANCE
    with task.counting(phase, "pairs", len(pairs), task.rows(lambda found: found.num_matched_image_pairs())):
        pycolmap.match_image_pairs(
            task.database,
            matching_options=options,
            pairing_options=pycolmap.ImportedPairingOptions(match_list_path=str(_listing(task, pairs))),
            verification_options=_verification(task),
        )


def match_all(task: Task, pairs: Sequence[Pair], phase: str) -> None:
    """Match and verify all chosen pairs, without what stands still in photos that lie apart.

    Where little is left then, as of a burst, nothing turned before that background.
    """
    task.leave_out_still = False
    match(task, pairs, phase)
    with closing(pycolmap.Database.open(task.database)) as database:

        def moves(pair: Pair) -> NDArray[np.float64] | None:
            first, second = (task.photos[place] for place in pair)
            if (first["width"], first["height"]) != (second["width"], second["height"]):
                return None
            ids = [task.ids.get(photo["name"], 0) for photo in (first, second)]
            if not all(ids) or not database.exists_matches(*ids):
                return None
            matches = np.asarray(database.read_matches(*ids)).astype(int)
            at = [database.read_keypoints(each)[matches[:, side], :2] for side, each in enumerate(ids)]
            return np.asarray(at[1] - at[0], np.float64)

        looked_at = spread_out(pairs, MOST_PAIRS_LOOKED_AT)
        task.leave_out_still = background_stood_still(looked_at, order_taken(task.photos), moves)
    if not task.leave_out_still:
        return
    _verify_again(task, pairs)
    if len(verified_pairs(task)) < len(task.photos):
        task.leave_out_still = False
        _verify_again(task, pairs)


def _verify_again(task: Task, pairs: Sequence[Pair]) -> None:
    """Verify pairs by the matches that are there."""
    with closing(pycolmap.Database.open(task.database)) as database:
        database.clear_two_view_geometries()
    pycolmap.verify_matches(task.database, _listing(task, pairs), _verification(task))


def _listing(task: Task, pairs: Sequence[Pair]) -> Path:
    """The file in which COLMAP is told pairs."""
    listing = task.scratch / "pairs.txt"
    listing.write_text("".join(f"{task.names[a]} {task.names[b]}\n" for a, b in pairs), encoding="utf-8")
    return listing


def _verification(task: Task) -> pycolmap.TwoViewGeometryOptions:
    options = pycolmap.TwoViewGeometryOptions(filter_stationary_matches=task.leave_out_still)
    options.ransac.random_seed = task.params.seed
    return options


def _remove_database(task: Task) -> None:
    for leftover in task.scratch.glob(f"{task.database.name}*"):
        leftover.unlink()


def reconstruct_masked(task: Task, pairs: Sequence[Pair]) -> tuple[str, Models]:
    """Place photos by what counts of them; where that leaves many without a place, by all that they show.

    A thing on a table may be too plain for that where the table is not. On a turntable the room misleads, and is not
    looked at as long as the thing is enough. What places more photos stays.
    """
    params, first = task.params, reconstruct(task, pairs)
    missing = len(_missing(task, first[1]))
    if missing <= LOST_SHARE * len(task.photos):
        return first
    masked, kept = (task.params, task.leave_out_still), task.scratch / "masked.db"
    shutil.copyfile(task.database, kept)
    task.params, task.look_everywhere = params, True
    extract(task, "too many photos are missing, finding features outside their masks")
    match_all(task, pairs, "too many photos are missing, matching all that they show")
    second = reconstruct(task, pairs)
    if len(_missing(task, second[1])) < missing:
        return second
    (task.params, task.leave_out_still), task.look_everywhere = masked, False
    _remove_database(task)
    shutil.copyfile(kept, task.database)
    task.read_ids()
    return first


def reconstruct(task: Task, pairs: Sequence[Pair]) -> tuple[str, Models]:
    """Place the photos, with as much effort as they need.

    A fast try that loses many photos is done again thoroughly. When photos are still missing, these are matched
    again with more effort, and both mappers try; the models with the most photos whose place can be believed stay.

    :return: the mapper's name, and its models, the largest first.
    """
    first = "incremental" if task.params.mapper == "auto" else task.params.mapper
    models = _MAPPERS[first](task)
    thorough = task.params.thorough()
    if thorough and len(_missing(task, models)) > LOST_SHARE * len(task.photos):
        task.params = thorough
        extract(task, "too many photos are missing, finding more features")
        match_all(task, pairs, "too many photos are missing, matching more features")
        models = _MAPPERS[first](task)
    tries = [(first, models)]
    if _missing(task, models) and rescue(task, models, pairs):
        tries.insert(0, (first, _MAPPERS[first](task)))
    if task.params.mapper == "auto" and _missing(task, tries[0][1]):
        tries.append(("global", map_globally(task)))
    # max() keeps the first of equals: more matches are better, and incremental mapping is the more accurate one.
    best = max(tries, key=lambda attempt: len(task.photos) - len(_missing(task, attempt[1])))
    return reconstruct_fisheye(task, pairs, best) if is_wide(task, best[1]) else best


def is_wide(task: Task, models: Models) -> bool:
    """Whether the lens sees so much that it may be a fisheye: by what was found, or else by EXIF."""
    found = [camera for camera in models[0].cameras.values() if camera.camera_id not in task.faces] if models else []
    shares = [camera.mean_focal_length() / max(camera.width, camera.height) for camera in found]
    if not models:
        told = [photo for photo in task.photos if photo["focal_px"] and "panorama" not in photo]
        shares = [photo["focal_px"] / max(photo["width"], photo["height"]) for photo in told]
    return bool(shares) and float(np.median(shares)) < WIDE


def reconstruct_fisheye(task: Task, pairs: Sequence[Pair], straight: tuple[str, Models]) -> tuple[str, Models]:
    """The photos as those of a fisheye, where that explains them much better than lenses that keep lines straight."""
    kept = task.scratch / "straight.db"
    shutil.copyfile(task.database, kept)
    with closing(pycolmap.Database.open(task.database)) as database:
        for camera in database.read_all_cameras():
            if camera.camera_id not in task.faces:
                focal = camera.mean_focal_length() if camera.has_prior_focal_length else USUAL_FISHEYE * camera.width
                camera.model = pycolmap.CameraModelId.OPENCV_FISHEYE
                camera.params = [focal, focal, camera.width / 2, camera.height / 2, 0, 0, 0, 0]
                camera.has_prior_focal_length = True
                database.update_camera(camera)
    _verify_again(task, pairs)
    models = map_incrementally(task)
    error = [each[0].compute_mean_reprojection_error() if each else np.inf for each in (models, straight[1])]
    if error[0] < FISHEYE_GAIN * error[1] and len(_missing(task, models)) <= len(_missing(task, straight[1])):
        return "incremental", models
    _remove_database(task)
    shutil.copyfile(kept, task.database)
    return straight


def _missing(task: Task, models: Models) -> list[int]:
    evidence = gather_evidence(task, models)
    return [place for place, name in enumerate(task.names) if not evidence[name].supported]


def rescue(task: Task, models: Models, pairs: Sequence[Pair]) -> bool:
    """Match missing and weak photos again: leniently where a pair was verified, and with photos not yet compared.

    :return: whether there was anything to try.
    """
    evidence = gather_evidence(task, models)
    missing = _missing(task, models)
    weak = {place for place, name in enumerate(task.names) if evidence[name].observations < WEAK_OBSERVATIONS}
    again = weak.union(missing)
    verified = [pair for pair in sorted(verified_pairs(task)) if again & set(pair)][:MAX_RESCUE_PAIRS]
    others = {(min(a, b), max(a, b)) for a in missing for b in range(len(task.photos)) if a != b}
    others = {pair for pair in others if not same_panorama(*(task.photos[place] for place in pair))}
    new = sorted(others - set(pairs))[:MAX_RESCUE_PAIRS]
    with closing(pycolmap.Database.open(task.database)) as database:
        for a, b in verified:
            ids = task.ids[task.names[a]], task.ids[task.names[b]]
            database.delete_matches(*ids)
            database.delete_two_view_geometry(*ids)
    match(task, verified, "matching missing photos again", lenient=True)
    match(task, new, "matching missing photos with all others")
    return bool(verified or new)


def map_incrementally(task: Task) -> Models:
    """COLMAP's mapper, with bundle adjustment done less often and not to the last digit: same result, half the time."""
    options = pycolmap.IncrementalPipelineOptions(
        num_threads=task.threads,
        random_seed=task.params.seed,
        min_model_size=MIN_MODEL_SIZE,
        ba_global_frames_ratio=1.4,
        ba_global_points_ratio=1.4,
        ba_global_max_refinements=2,
        ba_local_max_refinements=1,
        ba_global_function_tolerance=1e-5,
        ba_local_function_tolerance=1e-4,
        ba_refine_sensor_from_rig=False,
        constant_cameras=task.faces,
    )
    registered = 0

    def count() -> None:
        nonlocal registered
        registered += 1
        task.tell("placing photos", min(registered, len(task.photos)), len(task.photos), "photos")

    folder = _fresh(task.scratch / "incremental")
    models = pycolmap.incremental_mapping(task.database, task.images, folder, options, next_image_callback=count)
    task.tell("placing photos", len(task.photos), len(task.photos), "photos")
    return _largest_first(models)


def map_globally(task: Task) -> Models:
    """GLOMAP: all photos at once. It registers photos that the incremental mapper leaves out, rightly or not."""
    task.tell("placing all photos at once", 0, 1, "tries")
    options = pycolmap.GlobalPipelineOptions(
        num_threads=task.threads, random_seed=task.params.seed, min_model_size=MIN_MODEL_SIZE
    )
    if task.faces:
        options.mapper.refine_sensor_from_rig = False
        options.mapper.bundle_adjustment.refine_focal_length = False
        options.mapper.bundle_adjustment.refine_extra_params = False
    models = pycolmap.global_mapping(task.database, task.images, _fresh(task.scratch / "global"), options)
    task.tell("placing all photos at once", 1, 1, "tries")
    return _largest_first(models)


_MAPPERS = {"incremental": map_incrementally, "global": map_globally}


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _largest_first(models: dict[int, pycolmap.Reconstruction]) -> Models:
    return sorted(models.values(), key=lambda model: (-model.num_reg_images(), -model.num_points3D()))


def verified_pairs(task: Task) -> dict[Pair, int]:
    """Inlier matches of each pair that passed geometric verification, by the photos' places in order."""
    places = {task.ids[name]: place for place, name in enumerate(task.names) if name in task.ids}
    found = {}
    with closing(pycolmap.Database.open(task.database)) as database:
        for pair_id, count in zip(*database.read_two_view_geometry_num_inliers(), strict=True):
            first, second = (places[image_id] for image_id in pycolmap.pair_id_to_image_pair(pair_id))
            if count >= pycolmap.TwoViewGeometryOptions().min_num_inliers:
                found[min(first, second), max(first, second)] = count
    return found


def turned_share(task: Task, model: pycolmap.Reconstruction) -> float | None:
    """Share of the pairs that match which a camera explains that only turned; None where none match.

    Where it turned and EXIF tells no focal length, the mapper makes up one: then the usual ones are tried.
    """
    pairs = spread_out(list(verified_pairs(task)), MOST_PAIRS_LOOKED_AT)
    if not pairs:
        return None
    refined = {image.name: model.cameras[image.camera_id] for image in model.images.values()}
    known = {photo["name"]: bool(photo["focal_px"]) for photo in task.photos}
    with closing(pycolmap.Database.open(task.database)) as database:
        stored = {image.name: database.read_camera(image.camera_id) for image in database.read_all_images()}

        def shared(pair: Pair) -> list[tuple[str, NDArray[np.float64]]]:
            names = [task.names[place] for place in pair]
            matches = database.read_two_view_geometry(*(task.ids[name] for name in names)).inlier_matches
            return [
                (name, database.read_keypoints(task.ids[name])[np.asarray(matches)[:, side], :2].astype(np.float64))
                for side, name in enumerate(names)
            ]

        found = [shared(pair) for pair in pairs]

    def camera_of(name: str, focal: float | None) -> pycolmap.Camera:
        camera = refined.get(name, stored[name])
        if focal is None or known[name]:
            return camera
        length = focal * max(camera.width, camera.height)
        return pycolmap.Camera.create_from_model_name(0, FACE_MODEL, length, camera.width, camera.height)

    def explained(shares: list[tuple[str, NDArray[np.float64]]], focal: float | None) -> bool:
        cameras = [camera_of(name, focal) for name, _ in shares]
        flat = [np.asarray(each.cam_from_img(points)) for each, (_, points) in zip(cameras, shares, strict=True)]
        first, second = (np.column_stack([each, np.ones(len(each))]) for each in flat)
        pixel, long_side = 1 / cameras[0].mean_focal_length(), max(cameras[0].width, cameras[0].height)
        return turn_explains(first, second, pixel, long_side)

    focals = [None] if all(known.values()) else [None, *USUAL_FOCALS]
    return round(max(float(np.mean([explained(shares, focal) for shares in found])) for focal in focals), 4)


def gather_evidence(task: Task, models: Models) -> dict[str, Evidence]:
    """For each photo what speaks for its place in the first model."""
    registered = [
        {image.name: image.num_points3D for image in model.images.values() if image.has_pose} for model in models
    ]
    kept = registered[0] if registered else {}
    elsewhere = {name for model in registered[1:] for name in model}
    inliers: dict[str, list[int]] = {name: [] for name in task.names}
    matching = dict.fromkeys(task.names, 0)
    for pair, count in verified_pairs(task).items():
        first, second = (task.names[place] for place in pair)
        matching[first] += 1
        matching[second] += 1
        if second in kept:
            inliers[first].append(count)
        if first in kept:
            inliers[second].append(count)
    for unit in units_of(task.photos):
        # What speaks for one face speaks for all: they stand where it stands.
        faces = [task.names[place] for place in unit]
        if len(faces) > 1 and any(name in kept for name in faces):
            kept |= dict.fromkeys(faces, sum(kept.get(name, 0) for name in faces))
            together = [count for name in faces for count in inliers[name]]
            inliers |= {name: together for name in faces}
    return {
        name: Evidence(
            name in kept,
            kept.get(name, 0),
            tuple(inliers[name]),
            other_model=name in elsewhere and name not in kept,
            matching=matching[name],
        )
        for name in task.names
    }


def remove_unsupported(model: pycolmap.Reconstruction, evidence: dict[str, Evidence]) -> None:
    """Take photos whose place cannot be believed out of the model, with the points that only they gave."""
    for image in list(model.images.values()):
        if image.has_pose and not evidence[image.name].supported:
            model.deregister_frame(image.frame_id)


def place_in_world(task: Task, model: pycolmap.Reconstruction) -> dict[str, Any]:
    """Turn, move and scale the model into the world frame; write `georef.json` when GPS fits.

    :return: metrics.
    """
    images = [image for image in model.images.values() if image.has_pose]
    figures: dict[str, Any] = {
        "up_from": None,
        "gps_photos": 0,
        "gps_problem": "",
        "gps_residual_m": None,
        "gps_inlier_share": None,
        "metres_from": None,
    }
    if not images or not model.num_points3D():
        return figures
    points = np.array([point.xyz for point in model.points3D.values()])
    centers = np.array([image.projection_center() for image in images])
    rotations = np.array([image.cam_from_world().rotation.matrix().T for image in images])
    ground = [position for position in _ground_positions(task) if position is not None]
    up, up_from = _gimbals_up(task, images) or estimate_up(rotations, centers, walked(np.array(ground)))
    measured = read_measured(task.params.measured) if task.params.measured else None
    length, miss = _sighted_length(task, measured, images) if measured else (0.0, 0.0)
    fit, origin = _fit_gps(task, images, up)
    if fit.similarity is not None and not fit.problem:
        world, scene_to_enu = georeferenced(fit.similarity, points)
        up_from = figures["metres_from"] = "gps"
        lat, lon, alt = origin
        georef = {"scene_to_enu": scene_to_enu.tolist(), "origin": {"lat": lat, "lon": lon, "alt": alt}}
        (task.output / "georef.json").write_text(json.dumps(georef, indent=1) + "\n", encoding="utf-8")
    else:
        told = _fit_told(task, images, up, up_from)
        if told and told.similarity is not None and not told.problem:
            world, _ = georeferenced(told.similarity, points)
            up_from = figures["metres_from"] = "positions"
        else:
            distance = _viewing_distance(model, images)
            world = upright(up, rotations[0, :, 2], points, distance)
            metres = 0.0
            if measured:
                metres, figures["metres_from"] = measured.metres / length, "measured"
            elif task.params.camera_height:
                heights = heights_above_ground(centers, points, up, distance, task.params.seed)
                height = 0.0 if heights is None else float(np.median(heights))
                if height > 0:
                    metres, figures["metres_from"] = task.params.camera_height / height, "camera_height"
            if metres:
                world = Similarity(metres, world.rotation, metres / world.scale * world.translation)
        if told:
            figures |= {"positions_photos": told.located, "positions_problem": told.problem}
            figures["positions_residual_m"] = None if told.residual is None else round(told.residual, 4)
    if measured:
        figures |= {"measured_m": round(world.scale * length, 6), "measured_miss_px": round(miss, 2)}
    model.transform(pycolmap.Sim3d(world.scale, pycolmap.Rotation3d(world.rotation), world.translation))
    return figures | {
        "up_from": up_from,
        "gps_photos": fit.located,
        "gps_problem": fit.problem,
        "gps_residual_m": None if fit.residual is None else round(fit.residual, 3),
        "gps_inlier_share": None if fit.inlier_share is None else round(fit.inlier_share, 3),
    }


def _sighted_length(task: Task, measured: Measured, images: Sequence[pycolmap.Image]) -> tuple[float, float]:
    """How far the ends of a distance are apart in the model's unit, and the largest miss of their sightings in px.

    :raises InvalidRequest: when a photo that shows them has no place, or photos do not show the same.
    """
    ends = [[_ray(task, sighting, images) for sighting in seen] for seen in measured.ends]
    (one, miss), (other, other_miss) = (meeting_point(rays) for rays in ends)
    length = float(np.linalg.norm(one - other))
    near = min(float(np.linalg.norm(ray.center - one)) for ray in ends[0])
    if length < LEAST_MEASURED * near:
        raise InvalidRequest(
            "The ends of the measured distance are one point, as far as the photos tell.",
            hint="In sfm_measured, choose two points that lie farther apart.",
        )
    return length, max(miss, other_miss)


def _ray(task: Task, sighting: Sighting, images: Sequence[pycolmap.Image]) -> Ray:
    """The line of sight of a photo's place in the model's frame."""
    photo, pixel = place_in(sighting, task.photos)
    image = next((image for image in images if image.name == photo["name"]), None)
    camera = image.camera if image else None
    flat = camera.cam_from_img(np.array(pixel)) if camera else None
    if image is None or camera is None or flat is None:
        raise InvalidRequest(
            f"{sighting.photo} has no place in the scene, so it cannot tell where an end of the measured distance is.",
            hint="In sfm_measured, name another photo that shows that end.",
        )
    direction = image.cam_from_world().rotation.matrix().T @ [*np.asarray(flat), 1.0]
    full = max(photo["full"])
    focal = camera.mean_focal_length() * full / max(photo["width"], photo["height"])
    return Ray(str(sighting), image.projection_center(), direction / np.linalg.norm(direction), focal, full)


def _fit_gps(task: Task, images: Sequence[pycolmap.Image], up: NDArray[np.float64]) -> tuple[Fit, list[float]]:
    gps = {photo["name"]: photo["gps"] for photo in task.photos}
    located = [image for image in images if gps[image.name] and gps[image.name]["alt"] is not None]
    if not located:
        return Fit(None, "no placed photo has GPS with altitude", 0), []
    lla = np.array([[gps[image.name][key] for key in ("lat", "lon", "alt")] for image in located])
    origin = np.median(lla, axis=0)
    centers = np.array([image.projection_center() for image in located])
    told = [gps[image.name].get("std") for image in located]
    deviations = np.array([np.sqrt(np.mean(np.square(std))) if std else USUAL_DEVIATION for std in told])
    enu = to_enu(lla, origin)
    return fit_gps(centers, enu, up, task.params.seed, deviations if any(told) else None), origin.tolist()


def _fit_told(task: Task, images: Sequence[pycolmap.Image], up: NDArray[np.float64], up_from: str) -> Fit | None:
    """The fit to positions that came along in metres; None where there are none."""
    places = {photo["name"]: photo["xyz"] for photo in task.photos if "xyz" in photo}
    if not task.positions or not task.positions["meters"] or not places:
        return None
    told = [image for image in images if image.name in places]
    centers = np.array([image.projection_center() for image in told]).reshape(-1, 3)
    tilt = SURE_TILT if up_from in SURE else MAX_TILT_DEGREES
    return fit_local(centers, np.array([places[image.name] for image in told]), up, tilt, task.params.seed)


def _gimbals_up(task: Task, images: Sequence[pycolmap.Image]) -> tuple[NDArray[np.float64], str] | None:
    """Up in the model's frame by the cameras that measured it, where most did and agree."""
    told = {photo["name"]: photo["up"] for photo in task.photos if photo.get("up")}
    ups = [image.cam_from_world().rotation.matrix().T @ told[image.name] for image in images if image.name in told]
    mean = np.mean(ups, axis=0) if ups else np.zeros(3)
    length = float(np.linalg.norm(mean))
    return (mean / length, "gimbal") if 2 * len(ups) > len(images) and length > AGREED else None


def _viewing_distance(model: pycolmap.Reconstruction, images: Sequence[pycolmap.Image]) -> float:
    """Median depth of the points over all observations, in the model's units."""
    depths = []
    for image in images:
        seen = np.array([model.points3D[p.point3D_id].xyz for p in image.points2D if p.has_point3D()]).reshape(-1, 3)
        pose = image.cam_from_world().matrix()
        depths.append(seen @ pose[2, :3] + pose[2, 3])
    return float(np.median(np.concatenate(depths)))


def write_photos(task: Task, evidence: dict[str, Evidence], features: dict[str, int]) -> None:
    """Write `photos.json`: for each given photo whether it is used, and if not, why."""
    blurs = [photo["blur"] for photo in task.photos]
    records = []
    for order, photo in enumerate(task.photos):
        found = evidence[photo["name"]]
        reason = None
        if not found.supported:
            brightness = _brightness(task.images / photo["name"])
            quality = Quality(photo["blur"], brightness, features.get(photo["name"], 0))
            reason = likely_reason(found, quality, blurs)
        records.append(
            {
                "name": photo["name"],
                "source": photo["source"],
                "order": order,
                "registered": found.registered,
                "supported": found.supported,
                "observations": found.observations,
                "pairs": len(found.inliers),
                "inliers": sum(found.inliers),
                "reason": reason,
            }
        )
    (task.output / "photos.json").write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _brightness(path: Path) -> float:
    with Image.open(path) as image:
        image.draft("L", (GREY_SIZE, GREY_SIZE))
        return float(ImageStat.Stat(image.convert("L")).mean[0])


if __name__ == "__main__":
    main(sys.argv[1])
