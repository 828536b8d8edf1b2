"""Files that say where photos were taken, right, odd and hostile."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ingest_photos import Ingest, Ingested

from e2e3d_stages.contract.messages import UnreadableCapture
from e2e3d_stages.ingest.positions import Table, from_ecef, read_table
from e2e3d_stages.sfm.geodesy import to_ecef
from e2e3d_stages.store.captures import Source

PHOTOS = ("IMG_1", "IMG_2", "IMG_10")
LENS = {"fl_x": 300.0, "fl_y": 310.0, "cx": 200.0, "cy": 150.0, "w": 400, "h": 300}


def matrix(x: float, y: float = 0.0, z: float = 0.0) -> list[list[float]]:
    """Of a camera that looks along -z, its y up."""
    return [[1, 0, 0, x], [0, 1, 0, y], [0, 0, 1, z], [0, 0, 0, 1]]


def transforms(**told: Any) -> dict[str, Any]:
    """As a phone writes it, of the three photos."""
    frames = [
        {"file_path": f"./images/{name}.png", "transform_matrix": matrix(place, 1.5)}
        for place, name in enumerate(PHOTOS)
    ]
    return {**LENS, "frames": frames, **told}


METASHAPE = """<?xml version="1.0" encoding="UTF-8"?>
<document version="2.0.0"><chunk label="Chunk 1" enabled="true">
<cameras next_id="4" next_group_id="0"><group id="0">
<camera id="0" sensor_id="0" label="IMG_1.jpg"><transform>1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1</transform></camera>
<camera id="1" sensor_id="0" label="IMG_2"><transform>1 0 0 2 0 1 0 0 0 0 1 0 0 0 0 1</transform></camera>
<camera id="2" sensor_id="0" label="IMG_10.JPG"><transform>1 0 0 nan 0 1 0 0 0 0 1 0 0 0 0 1</transform></camera>
<camera id="3" sensor_id="0" label="IMG_11.JPG"/>
</group></cameras>{}
</chunk></document>"""
# Where the first meridian meets the equator; the chunk's x is east, its y north, and its unit 3 m.
CHUNK = """<transform><rotation>0 0 1 1 0 0 0 1 0</rotation>
<translation>6378237 0 0</translation><scale>3</scale></transform>"""

CSV = """#name,x,y,alt,heading,pitch,roll
IMG_1.jpg,10.5,20.25,3.5,0,0,0
IMG_2.jpg,11.5,20.25,3.5,0,0,0
IMG_10.jpg,oops,20.25,3.5,0,0,0
"""


def told(done: Ingested) -> dict[str, str]:
    """The stage's warnings by their codes."""
    return {advice.code: advice.message for advice in done.context.warnings}


def test_a_transforms_json_says_where_the_photos_were_taken(capture: Path, ingest: Ingest) -> None:
    (capture / "transforms.json").write_text(json.dumps(transforms()))
    done = ingest(capture)
    assert done.photo("IMG_2.jpg")["xyz"] == [1, 1.5, 0]
    assert done.record["positions"] == {"source": "transforms.json", "meters": True}
    assert "3 of 3 photos" in told(done)["positions"]
    assert "transforms.json" not in done.dropped
    assert "pose" not in done.photo("IMG_2.jpg")


@pytest.mark.parametrize("name", ["cameras.xml", "notes/export.json", "positions.csv"])
def test_a_file_is_told_by_its_content(name: str, capture: Path, ingest: Ingest) -> None:
    content = {"cameras.xml": METASHAPE.format(""), "positions.csv": CSV}.get(name, json.dumps(transforms()))
    (capture / name).parent.mkdir(exist_ok=True)
    (capture / name).write_text(content)
    (capture / "other.json").write_text('{"frames": 25}')
    assert ingest(capture).record["positions"]["source"] == name


def test_of_several_files_that_which_names_most_photos_counts(capture: Path, ingest: Ingest) -> None:
    (capture / "a.json").write_text(json.dumps(transforms(frames=transforms()["frames"][:1])))
    (capture / "b.json").write_text(json.dumps(transforms()))
    done = ingest(capture)
    assert done.record["positions"]["source"] == "b.json"
    assert done.dropped == {"a.json": "not_a_photo"}


def test_files_in_zips_are_read_too(capture: Path, ingest: Ingest, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as bundle:
        for photo in capture.iterdir():
            bundle.write(photo, f"images/{photo.name}")
        bundle.writestr("transforms.json", json.dumps(transforms()))
        bundle.writestr("log.csv", "0\n" * 2_000_000)
    done = ingest(tmp_path / "all.zip")
    assert done.photo("images/IMG_10.jpg")["xyz"] == [2, 1.5, 0]
    assert set(told(done)) == {"positions"}


@pytest.mark.parametrize(
    "changed",
    [
        {"frames": [{**frame, "colmap_im_id": 1} for frame in transforms()["frames"]]},
        {"applied_transform": matrix(0)[:3]},
        {"aabb_scale": 16},
        {"fl_x": None},
    ],
    ids=["COLMAP", "turned by nerfstudio", "instant-ngp", "no focal length"],
)
def test_what_has_no_scale_of_its_own_is_not_in_metres(changed: dict[str, Any], capture: Path, ingest: Ingest) -> None:
    content = {key: value for key, value in transforms(**changed).items() if value is not None}
    if "fl_x" in changed:
        content["camera_angle_x"] = 1.0
    (capture / "transforms.json").write_text(json.dumps(content))
    done = ingest(capture)
    assert done.record["positions"]["meters"] is False
    assert "no unit" in told(done)["positions"]


@pytest.mark.parametrize(
    "frame",
    [
        7,
        {},
        {"file_path": "IMG_2.jpg"},
        {"file_path": 7, "transform_matrix": matrix(0)},
        {"file_path": "IMG_2.jpg", "transform_matrix": [[1] * 4] * 3},
        {"file_path": "IMG_2.jpg", "transform_matrix": [[1, 0], [0, 1]]},
        {"file_path": "IMG_2.jpg", "transform_matrix": [[1, 0, 0, float("nan")], *matrix(0)[1:]]},
        {"file_path": "IMG_2.jpg", "transform_matrix": matrix(1e300)},
        {"file_path": "IMG_2.jpg", "transform_matrix": [[1, 0, 0, "a"], *matrix(0)[1:]]},
        {"file_path": "IMG_2.jpg", "transform_matrix": [*matrix(0)[:2], [0, 0, -1, 0]]},
    ],
)
def test_a_bad_row_spoils_only_itself(frame: Any, capture: Path, ingest: Ingest) -> None:
    frames = transforms()["frames"]
    (capture / "transforms.json").write_text(json.dumps(transforms(frames=[frames[0], frame, frames[2]])))
    done = ingest(capture)
    assert [photo["source"] for photo in done.record["photos"] if "xyz" in photo] == ["IMG_1.jpg", "IMG_10.jpg"]
    assert "2 of 3 photos" in told(done)["positions"]
    assert "1 cannot be read" in told(done)["positions"]


def test_names_find_photos_and_are_never_paths(capture: Path, ingest: Ingest) -> None:
    names = ["../../../etc/IMG_1.jpg", "C:\\shots\\IMG_2.JPG", "/dev/null", "IMG_10", "\0", "", "IMG_10.jpg"]
    frames = [{"file_path": name, "transform_matrix": matrix(place)} for place, name in enumerate(names)]
    (capture / "transforms.json").write_text(json.dumps(transforms(frames=frames)))
    done = ingest(capture)
    assert [photo["xyz"][0] for photo in done.record["photos"]] == [0, 1, 3]
    assert "3 of its rows are of no photo here" in told(done)["positions"].lower()


def test_of_photos_of_one_name_that_in_the_folder_that_is_told_is_meant(
    capture: Path, ingest: Ingest, tmp_path: Path
) -> None:
    both = tmp_path / "both"
    for side in ("left", "right"):
        (both / side).mkdir(parents=True)
    for place, photo in enumerate(sorted(capture.iterdir())):
        photo.rename(both / ("left" if place else "right") / "1.jpg" if place < 2 else both / "left" / "2.jpg")
    frames = [
        {"file_path": f"{name}.jpg", "transform_matrix": matrix(place)} for place, name in enumerate(("right/1", "1"))
    ]
    (both / "transforms.json").write_text(json.dumps(transforms(frames=frames)))
    done = ingest(both)
    assert [photo.get("xyz") for photo in done.record["photos"]] == [None, None, [0, 0, 0]]


def table(tmp_path: Path, content: str | bytes) -> Table | None:
    path = tmp_path / "note"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(Source("note", path))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"<document><chunk>",
        b"\xff\xfe\x00",
        b'{"frames": [1, 2]}',
        b'{"frames": {"transform_matrix": 1}}',
        b'{"frames":' + b"[" * 200_000,
        b"<a>" * 100_000,
        b'<!DOCTYPE d [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><document><chunk><cameras/></chunk>&b;</document>',
        '<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE d [<!ENTITY a "a">]><document/>'.encode("utf-16"),
        b"time,speed\n1,2\n",
        b"name,x,y,z",
        b'{"frames": [{"transform_matrix": ' + b"9" * 5000 + b"}]}",
    ],
)
def test_whatever_else_a_file_is_it_says_nothing(content: bytes, tmp_path: Path) -> None:
    found = table(tmp_path, content)
    assert found is None or found.rows == []


def test_a_file_that_would_fill_the_memory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert table(tmp_path, json.dumps(transforms()))
    monkeypatch.setattr("e2e3d_stages.ingest.positions.MOST_NOTE_BYTES", 100)
    assert table(tmp_path, json.dumps(transforms())) is None


def test_metashapes_cameras_are_placed_by_their_chunk(tmp_path: Path) -> None:
    local = table(tmp_path, METASHAPE.format(""))
    assert local is not None
    assert (local.what, local.meters, local.bad) == ("cameras of Metashape", False, 1)
    assert [(row.name, row.place) for row in local.rows] == [("IMG_1.jpg", (0, 0, 0)), ("IMG_2", (2, 0, 0))]
    found = table(tmp_path, METASHAPE.format(CHUNK))
    assert found is not None
    assert found.meters
    assert all(row.on_earth for row in found.rows)
    first, second = (np.array(row.place) for row in found.rows)
    assert first == pytest.approx([0, 0, 100], abs=1e-6)
    # Two units of 3 m to the east; a degree has 111,319.5.
    assert second == pytest.approx([0, 6 / 111_319.5, 100], abs=1e-5)
    assert second[1] == pytest.approx(6 / 111_319.5, rel=1e-3)


@pytest.mark.parametrize("place", [(30.1, -98.4, 321.0), (-89.9, 12.0, 50.0), (60.0, 170.0, 9000.0)])
def test_earth_centred_places_are_what_they_were_made_of(place: tuple[float, float, float]) -> None:
    assert from_ecef(*to_ecef(*map(np.array, place)).tolist()) == pytest.approx(place, abs=1e-6)


@pytest.mark.parametrize("transform", [CHUNK.replace(">3<", ">0<"), CHUNK.replace("6378237", "x"), "<transform/>"])
def test_a_chunk_whose_transform_makes_no_sense_has_no_metres(transform: str, tmp_path: Path) -> None:
    found = table(tmp_path, METASHAPE.format(transform))
    assert found is not None
    assert not found.meters


def test_realitycaptures_rows_are_places_and_bad_ones_are_counted(tmp_path: Path) -> None:
    found = table(tmp_path, CSV + '"\nIMG_11.jpg,1\nIMG_12.jpg,1,2,inf\n\n,1,2,3\n' + "x" * 200_000 + ",1,2,3\n")
    assert found is not None
    assert found.what == "registration of RealityCapture"
    assert [row.place for row in found.rows] == [(10.5, 20.25, 3.5), (11.5, 20.25, 3.5)]
    assert found.bad == 6


def test_tables_of_latitudes_are_gps(capture: Path, ingest: Ingest) -> None:
    (capture / "geo.csv").write_text(
        "\ufeffLabel;Longitude;Latitude;Altitude\nIMG_1;-98.4;30.1;310\nIMG_2;-98.5;30.1;311\nIMG_10;-98.4;91;0\n"
    )
    done = ingest(capture)
    assert done.photo("IMG_1.jpg")["gps"] == {"lat": 30.1, "lon": -98.4, "alt": 310}
    assert done.photo("IMG_10.jpg")["gps"] is None
    assert done.metrics["photos_with_gps"] == 2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_spreadsheet_writes_as_its_country_does(encoding: str, capture: Path, ingest: Ingest) -> None:
    (capture / "IMG_1.jpg").rename(capture / "Größe.jpg")
    table = "Label;Latitude;Longitude;Altitude\nGröße;30,125;-98,5;310,5\n"
    (capture / "geo.csv").write_bytes(table.encode(encoding))
    assert ingest(capture).photo("Größe.jpg")["gps"] == {"lat": 30.125, "lon": -98.5, "alt": 310.5}


def test_poses_are_taken_when_asked_for_the_prepared_size(capture: Path, ingest: Ingest) -> None:
    (capture / "transforms.json").write_text(json.dumps(transforms(k1=0.01, p2=-0.002)))
    done = ingest(capture, poses="transforms.json", max_size=320)
    pose = done.photo("IMG_2.jpg")["pose"]
    # Of a camera that looks along +z, its y down.
    assert pose["camera_to_world"] == [[1, 0, 0, 1], [0, -1, 0, 1.5], [0, 0, -1, 0], [0, 0, 0, 1]]
    assert pose["model"] == "OPENCV"
    assert pose["lens"] == pytest.approx([240, 248, 160, 120, 0.01, 0, 0, -0.002])


def test_photos_with_lenses_of_their_own_have_cameras_of_their_own(capture: Path, ingest: Ingest) -> None:
    frames = [{**frame, "fl_x": 300.0 + n} for n, frame in enumerate(transforms()["frames"])]
    (capture / "transforms.json").write_text(json.dumps(transforms(frames=frames, camera_model="OPENCV_FISHEYE")))
    done = ingest(capture, poses="transforms.json")
    assert [photo["camera"] for photo in done.record["photos"]] == [0, 1, 2]
    assert {photo["pose"]["model"] for photo in done.record["photos"]} == {"OPENCV_FISHEYE"}


@pytest.mark.parametrize("changed", [{"frames": []}, {"w": 640}, {"fl_x": -1}, {"h": 1e9}, {"cx": 1e30}])
def test_a_file_without_poses_that_fit_is_refused_where_poses_are_asked_for(
    changed: dict[str, Any], capture: Path, ingest: Ingest
) -> None:
    (capture / "transforms.json").write_text(json.dumps(transforms(**changed)))
    with pytest.raises(UnreadableCapture, match=r"transforms\.json has no pose that fits"):
        ingest(capture, poses="transforms.json")
