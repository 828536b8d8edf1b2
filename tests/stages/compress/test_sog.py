from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from e2e3d_stages.compress.stage import measure
from e2e3d_stages.splats import sog


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_what_is_written_comes_back_within_the_error_of_each_field(
    make_gaussians: Any, tmp_path: Path, degree: int
) -> None:
    given = make_gaussians(2000, degree)

    encoding = sog.encode(given, tmp_path / "scene.sog", max_colour_error=0.01)
    back = sog.decode(tmp_path / "scene.sog")

    given = given.select(encoding.order)
    errors = measure(given, back)
    assert back.sh.shape == given.sh.shape
    assert errors["position_error_max"] < 5e-5
    assert errors["scale_error_max"] < 0.05
    assert errors["rotation_error_max"] < 1.2
    assert errors["opacity_error_max"] <= 0.5 / 255 + 1e-6
    assert errors["colour_error_max"] < 0.01
    # Over the sphere, squared coefficients / 4π are the squared colour.
    colour = np.sqrt(np.mean(np.sum((back.sh - given.sh)[:, 1:] ** 2, axis=1)) / (4 * np.pi))
    assert colour < 0.011
    assert encoding.palette_error <= 0.01


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_handful_of_gaussians_survives(make_gaussians: Any, tmp_path: Path, count: int) -> None:
    given = make_gaussians(count, 3)

    encoding = sog.encode(given, tmp_path / "scene.sog")
    back = sog.decode(tmp_path / "scene.sog")

    given = given.select(encoding.order)
    assert len(back) == count
    np.testing.assert_allclose(back.means, given.means, atol=1e-3)
    np.testing.assert_allclose(back.scales, given.scales, atol=1e-5)
    np.testing.assert_allclose(back.sh, given.sh, atol=0.02)


def test_identical_gaussians_survive(make_gaussians: Any, tmp_path: Path) -> None:
    given = make_gaussians(1, 1).select(np.zeros(50, dtype=int))

    sog.encode(given, tmp_path / "scene.sog")

    np.testing.assert_allclose(sog.decode(tmp_path / "scene.sog").means, given.means, atol=1e-5)


def test_the_same_seed_writes_the_same_bytes_whatever_the_threads(make_gaussians: Any, tmp_path: Path) -> None:
    given = make_gaussians(3000, 2)

    for name, threads in (("one", 1), ("two", 3)):
        sog.encode(given, tmp_path / name, max_colour_error=0.02, seed=7, threads=threads)

    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_tighter_colour_bound_takes_a_larger_palette_and_keeps_it(make_gaussians: Any, tmp_path: Path) -> None:
    given = make_gaussians(4000, 1)

    loose = sog.encode(given, tmp_path / "loose.sog", max_colour_error=0.03)
    tight = sog.encode(given, tmp_path / "tight.sog", max_colour_error=0.015)

    assert loose.palette_size < tight.palette_size < 4000
    assert loose.palette_error <= 0.03
    assert tight.palette_error <= 0.015
    assert (tmp_path / "loose.sog").stat().st_size < (tmp_path / "tight.sog").stat().st_size


def test_neighbours_in_the_file_are_neighbours_in_space(make_gaussians: Any, tmp_path: Path) -> None:
    given = make_gaussians(5000, 0)

    order = sog.encode(given, tmp_path / "scene.sog").order

    def step(means: np.ndarray) -> float:
        return float(np.median(np.linalg.norm(np.diff(means, axis=0), axis=1)))

    assert sorted(order) == list(range(5000))
    assert step(given.means[order]) < 0.2 * step(given.means)


def test_the_file_is_one_stored_zip_of_lossless_webp_named_by_its_meta(make_gaussians: Any, tmp_path: Path) -> None:
    sog.encode(make_gaussians(100, 3), tmp_path / "scene.sog")

    with zipfile.ZipFile(tmp_path / "scene.sog") as archive:
        entries = archive.infolist()
        meta = json.loads(archive.read("meta.json"))
        centroids = Image.open(io.BytesIO(archive.read("shN_centroids.webp")))
    named = {"meta.json", *(name for field in meta.values() if isinstance(field, dict) for name in field["files"])}
    assert {entry.filename for entry in entries} == named
    assert all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    assert (meta["version"], meta["count"], meta["shN"]["bands"]) == (2, 100, 3)
    assert centroids.width == 64 * 15
    assert all(len(meta[name]["codebook"]) == 256 for name in ("scales", "sh0", "shN"))


def test_gaussians_that_are_not_finite_or_not_there_are_refused(make_gaussians: Any, tmp_path: Path) -> None:
    given = make_gaussians(10, 0)
    broken = replace(given, means=np.where(np.arange(10)[:, None] == 3, np.nan, given.means).astype(np.float32))

    for refused in (broken, given.select(np.zeros(10, dtype=bool))):
        with pytest.raises(ValueError, match="finite"):
            sog.encode(refused, tmp_path / "scene.sog")


@pytest.mark.parametrize("content", [b"", b"not a zip at all"])
def test_a_file_that_is_not_sog_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.sog").write_bytes(content)

    with pytest.raises(ValueError, match=r"broken\.sog is not a SOG file"):
        sog.decode(tmp_path / "broken.sog")


def test_a_file_without_one_of_its_images_is_refused_by_the_image(make_gaussians: Any, tmp_path: Path) -> None:
    sog.encode(make_gaussians(10, 0), tmp_path / "scene.sog")
    with zipfile.ZipFile(tmp_path / "scene.sog") as whole, zipfile.ZipFile(tmp_path / "part.sog", "w") as part:
        for name in whole.namelist():
            if name != "quats.webp":
                part.writestr(name, whole.read(name))

    with pytest.raises(ValueError, match=r"lacks quats\.webp"):
        sog.decode(tmp_path / "part.sog")


def test_a_rotation_survives_whichever_component_is_largest_and_whatever_its_sign() -> None:
    random = np.random.default_rng(0)
    quats = random.normal(size=(4000, 4))
    quats[np.arange(4000), np.arange(4000) % 4] *= 20
    quats = (quats / np.linalg.norm(quats, axis=1, keepdims=True)).astype(np.float32)

    packed = sog.pack_quats(quats)

    assert set(packed[:, 3]) == {252, 253, 254, 255}
    cosine = np.abs(np.sum(sog.unpack_quats(packed) * quats, axis=1))
    assert np.degrees(2 * np.arccos(cosine.clip(0, 1))).max() < 1.2


def test_a_codebook_of_few_values_is_exact() -> None:
    values = np.float32([[0.5, -3, 7], [7, 0.5, 0.5]])

    codes, book = sog.codebook(values)

    assert (book[codes] == values).all()


def test_reading_needs_no_faiss() -> None:
    program = "import sys; sys.modules['faiss'] = None; import e2e3d_stages.splats.sog"
    subprocess.run([sys.executable, "-c", program], check=True)
