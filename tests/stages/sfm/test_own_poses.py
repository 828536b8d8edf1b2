"""Poses that came with the capture instead of structure from motion."""

from __future__ import annotations

import json
import math
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
from numpy.typing import NDArray
from PIL import Image
from sfm_runs import Run, make_context

from e2e3d_stages.contract.messages import InvalidRequest, UnreadableCapture
from e2e3d_stages.ingest import stage as ingest
from e2e3d_stages.sfm import reconstruct
from e2e3d_stages.sfm import stage as sfm

# They begin with photos that are matched and placed for real.
pytestmark = pytest.mark.slow


@pytest.fixture
def own(scene: Run, tmp_path: Path) -> Path:
    """A capture as another program would leave it: photos and a COLMAP model of them."""
    capture = tmp_path / "capture"
    shutil.copytree(scene.output / "images", capture / "images")
    shutil.copytree(scene.output / "sparse", capture / "sparse")
    return capture


@pytest.fixture
def childless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage's work without the process around it, which takes longer to start than the work takes."""
    monkeypatch.setattr(
        sfm, "supervise", lambda command, _context: reconstruct.find_scene(reconstruct.Task.read(Path(command[-1])))
    )


def ingested(capture: Path, folder: Path, **params: Any) -> Path:
    context = make_context(folder, "ingest", {"poses": "sparse/0", "max_size": 320, **params}, capture=capture)
    try:
        ingest.run(context)
    finally:
        context.close()
    assert not context.warnings
    return context.output


def taken_over(prepared: Path, folder: Path) -> Run:
    context = make_context(folder, "sfm", {}, ingest=prepared)
    try:
        return Run(context.output, sfm.run(context), context.warnings)
    finally:
        context.close()


def distances(run: Run) -> NDArray[np.float64]:
    """Between every two cameras."""
    first, second = np.triu_indices(len(run.centers), 1)
    return np.linalg.norm(run.centers[first] - run.centers[second], axis=1)


def test_own_poses_are_taken_over_with_their_points_for_photos_that_ingest_scaled_down(
    own: Path, scene: Run, tmp_path: Path, childless: None
) -> None:
    run = taken_over(ingested(own, tmp_path / "ingest"), tmp_path / "sfm")
    assert run.metrics["mapper"] == "own poses"
    assert run.metrics["photos_supported"] == len(run.views) == 8
    assert run.metrics["points"] == scene.metrics["points"]
    # The world frame is chosen anew, so that only shapes can be compared.
    ratios = distances(run) / distances(scene)
    assert np.ptp(ratios) < 1e-3 * ratios.mean()
    assert run.views[0]["fx"] / run.views[0]["width"] == pytest.approx(
        scene.views[0]["fx"] / scene.views[0]["width"], rel=0.01
    )
    model = pycolmap.Reconstruction(run.output / "sparse" / "0")
    for view in run.views:
        with Image.open(run.output / "images" / view["name"]) as image:
            assert image.size == (view["width"], view["height"])
        pose = np.array(view["world_to_camera"])
        seen = [point for point in model.find_image_with_name(view["name"]).points2D if point.has_point3D()]
        points = np.array([model.points3D[point.point3D_id].xyz for point in seen]) @ pose[:3, :3].T + pose[:3, 3]
        pixels = points[:, :2] / points[:, 2:] * [view["fx"], view["fy"]] + [view["cx"], view["cy"]]
        assert np.median(np.linalg.norm(pixels - [point.xy for point in seen], axis=1)) < 1


def test_photos_that_the_model_does_not_know_or_that_have_another_shape_are_left_out_and_said_so(
    own: Path, tmp_path: Path, childless: None
) -> None:
    names = sorted(path.name for path in (own / "images").iterdir())
    (own / "images" / names[0]).rename(own / "images" / "stranger.jpg")
    with Image.open(own / "images" / names[1]) as image:
        image.crop((0, 0, image.width, image.height - 40)).save(own / "images" / names[1])
    context = make_context(tmp_path / "ingest", "ingest", {"poses": "sparse/0"}, capture=own)
    ingest.run(context)
    context.close()
    run = taken_over(context.output, tmp_path / "sfm")
    left_out = {name: photo["reason"] for name, photo in run.photos.items() if not photo["supported"]}
    assert set(left_out) == {"images/stranger.jpg", f"images/{names[1]}"}
    assert all("not in the capture's own poses" in reason for reason in left_out.values())
    assert run.metrics["photos_supported"] == 6


def test_a_photo_for_which_no_points_speak_is_in_no_view_and_in_no_model(
    own: Path, tmp_path: Path, childless: None
) -> None:
    model = pycolmap.Reconstruction(own / "sparse" / "0")
    blind = min(model.images.values(), key=lambda image: image.name)
    for place, point in enumerate(blind.points2D):
        if point.has_point3D():
            model.delete_observation(blind.image_id, place)
    model.write(own / "sparse" / "0")
    run = taken_over(ingested(own, tmp_path / "ingest"), tmp_path / "sfm")
    assert [source for source, photo in run.photos.items() if not photo["supported"]] == [f"images/{blind.name}"]
    written = pycolmap.Reconstruction(run.output / "sparse" / "0")
    assert len(run.views) == written.num_reg_images() == 7


@pytest.mark.parametrize(
    ("name", "start", "value"),
    [
        ("points3D", 0, 2**40),
        ("images", 0, 2**40),
        ("cameras", 0, 2**40),
        # Of the first point the views, 8 + 43 bytes from the start.
        ("points3D", 8 + 43, 2**40),
        ("frames", 0, 2**40),
    ],
)
def test_a_model_that_announces_more_than_its_file_holds_is_refused_before_anything_makes_room_for_it(
    own: Path, tmp_path: Path, name: str, start: int, value: int
) -> None:
    file = own / "sparse" / "0" / f"{name}.bin"
    data = bytearray(file.read_bytes())
    data[start : start + 8] = value.to_bytes(8, "little")
    file.write_bytes(data)
    with pytest.raises(UnreadableCapture, match=f"{name}.bin is {len(data)} bytes long"):
        ingested(own, tmp_path / "ingest")


@pytest.mark.parametrize("length", [0, 8, 60, -1])
@pytest.mark.parametrize("name", ["images", "points3D"])
def test_a_model_that_is_cut_off_is_refused(own: Path, tmp_path: Path, name: str, length: int) -> None:
    file = own / "sparse" / "0" / f"{name}.bin"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(UnreadableCapture, match=f"{name}.bin"):
        ingested(own, tmp_path / "ingest")


def test_a_pose_that_is_no_number_places_no_photo(own: Path, tmp_path: Path, childless: None) -> None:
    # Models as COLMAP wrote them before 3.12, with the poses in the images' own file.
    for newer in ("rigs", "frames"):
        (own / "sparse" / "0" / f"{newer}.bin").unlink()
    file = own / "sparse" / "0" / "images.bin"
    data = bytearray(file.read_bytes())
    after_number_and_rotation = 8 + 4 + 4 * 8
    data[after_number_and_rotation : after_number_and_rotation + 8] = struct.pack("<d", math.nan)
    file.write_bytes(data)
    run = taken_over(ingested(own, tmp_path / "ingest"), tmp_path / "sfm")
    assert run.metrics["photos_supported"] == 7


def test_a_model_that_is_not_all_there_is_refused(own: Path, tmp_path: Path) -> None:
    (own / "sparse" / "0" / "points3D.bin").unlink()
    with pytest.raises(UnreadableCapture, match="no COLMAP model in the capture's sparse/0"):
        ingested(own, tmp_path / "ingest")


def test_a_model_that_colmap_cannot_read_is_the_captures_fault(own: Path, tmp_path: Path) -> None:
    (own / "sparse" / "0" / "cameras.bin").write_bytes(b"no model")
    with pytest.raises(UnreadableCapture, match="own poses are no COLMAP model"):
        taken_over(ingested(own, tmp_path / "ingest"), tmp_path / "sfm")


def test_photos_that_their_exif_turns_do_not_fit_own_poses(own: Path, tmp_path: Path) -> None:
    turned = sorted((own / "images").iterdir())[0]
    with Image.open(turned) as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(turned, exif=exif)
    with pytest.raises(UnreadableCapture, match=f"turned by their EXIF.*{turned.name}"):
        ingested(own, tmp_path / "ingest")


def test_a_model_in_text_is_taken_too(own: Path, tmp_path: Path, childless: None) -> None:
    model = pycolmap.Reconstruction(own / "sparse" / "0")
    shutil.rmtree(own / "sparse")
    (own / "sparse" / "0").mkdir(parents=True)
    model.write_text(own / "sparse" / "0")
    prepared = ingested(own, tmp_path / "ingest")
    assert (prepared / "poses" / "images.txt").exists()
    assert taken_over(prepared, tmp_path / "sfm").metrics["photos_supported"] == 8


@pytest.mark.parametrize("poses", ["../elsewhere", "/etc", "sparse/../..", ".hidden"])
def test_poses_lie_in_the_capture(own: Path, tmp_path: Path, poses: str) -> None:
    with pytest.raises(InvalidRequest, match="poses"):
        ingested(own, tmp_path / "ingest", poses=poses)


def test_without_the_parameter_a_model_in_the_capture_is_not_looked_at(own: Path, tmp_path: Path) -> None:
    context = make_context(tmp_path / "ingest", "ingest", {}, capture=own)
    ingest.run(context)
    context.close()
    assert not (context.output / "poses").exists()
    record = json.loads((context.output / "photos.json").read_text())
    assert any(item["source"].startswith("sparse/") for item in record["dropped"])
