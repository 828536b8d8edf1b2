"""SOG version 2, the Spatially Ordered Gaussians of PlayCanvas: writer and reader.

Source: "The SOG Format" in PlayCanvas's developer manual. A SOG file is a zip of `meta.json` and lossless WebP images
in which the same pixel of every image belongs to the same Gaussian. Reading needs numpy and Pillow only.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from e2e3d_stages.splats.gaussians import Gaussians

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

PALETTE_COLUMNS = 64
CODEBOOK_SIZE = 256
CODEBOOK_ITERATIONS = 50
ZIP_DATE = (1980, 1, 1, 0, 0, 0)
# Which components are stored when w, x, y or z is the largest.
SMALLEST_THREE = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])


@dataclass(frozen=True)
class Encoding:
    """What the writer did.

    :param order: (N,) the given index of each Gaussian in the file's order.
    :param palette_size: entries of the palette of view-dependent colours; 0 at SH degree 0.
    :param palette_error: root mean square colour error that the palette causes, as a share of full brightness.
    :param image_bytes: size of each file in the zip.
    """

    order: NDArray[np.int64]
    palette_size: int
    palette_error: float
    image_bytes: dict[str, int]


def encode(
    gaussians: Gaussians,
    path: Path,
    *,
    max_colour_error: float = 0.005,
    seed: int = 0,
    threads: int = 1,
    parts: NDArray[np.integer] | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> Encoding:
    """Write Gaussians as one `.sog` file. The same seed and the same Gaussians give the same bytes.

    :param gaussians: one or more, all values finite.
    :param max_colour_error: root mean square colour error, as a share of full brightness, that the palette of
        spherical harmonics may cause; the smallest palette below it is taken, or the largest the format has.
    :param threads: cores that the clustering uses; the file does not depend on it.
    :param parts: (N,) numbers of parts that stay together, the lowest first in the file; one part where not given.
    :param progress: called with the name of each file written, and between clusterings with `shN`; may raise.
    :raises ValueError: when there is no Gaussian, or one has a value that is not finite.
    """
    fields = (gaussians.means, gaussians.scales, gaussians.quats, gaussians.opacities, gaussians.sh)
    if len(gaussians) == 0 or not all(np.isfinite(field).all() for field in fields):
        raise ValueError("SOG holds one or more Gaussians of finite values: clean them first")
    steps, mins, maxs = _in_steps(gaussians.means)
    codes = morton_codes(steps)
    order = np.argsort(codes, kind="stable") if parts is None else np.lexsort((codes, parts))
    steps, ordered = steps[order], gaussians.select(order)
    scale_codes, scale_book = codebook(ordered.scales)
    colour_codes, colour_book = codebook(ordered.sh[:, 0])
    alpha = np.round(255 / (1 + np.exp(-ordered.opacities.astype(np.float64)))).astype(np.uint8)

    images = {
        "means_l": _per_gaussian((steps & 0xFF).astype(np.uint8)),
        "means_u": _per_gaussian((steps >> 8).astype(np.uint8)),
        "scales": _per_gaussian(scale_codes),
        "quats": _per_gaussian(pack_quats(ordered.quats)),
        "sh0": _per_gaussian(np.concatenate([colour_codes, alpha[:, None]], axis=1)),
    }
    meta: dict[str, Any] = {
        "version": 2,
        "count": len(ordered),
        "means": {"mins": mins.tolist(), "maxs": maxs.tolist(), "files": ["means_l.webp", "means_u.webp"]},
        "scales": {"codebook": scale_book.tolist(), "files": ["scales.webp"]},
        "quats": {"files": ["quats.webp"]},
        "sh0": {"codebook": colour_book.tolist(), "files": ["sh0.webp"]},
    }
    palette_size, palette_error = 0, 0.0
    if ordered.sh_degree:
        sh_images, sh_meta, palette_error = _encode_sh(
            ordered, max_colour_error, seed, threads, lambda: progress("shN")
        )
        images |= sh_images
        meta["shN"] = sh_meta
        palette_size = sh_meta["count"]
    sizes = _write_zip(path, meta, images, progress)
    return Encoding(order, palette_size, palette_error, sizes)


def decode(path: Path) -> Gaussians:
    """Read a `.sog` file of version 2, in the file's order. Quaternions come back as unit, largest part positive.

    :raises ValueError: when the file is not SOG version 2, or an image is too small for the count.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            meta = json.loads(archive.read("meta.json"))
            files = {name: archive.read(name) for name in archive.namelist() if name != "meta.json"}
    except (zipfile.BadZipFile, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a SOG file: {error}") from error
    if meta.get("version") != 2:
        raise ValueError(f"{path} is SOG version {meta.get('version')}, not 2")
    named = {name for field in meta.values() if isinstance(field, dict) for name in field["files"]}
    if missing := sorted(named - files.keys()):
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    count = meta["count"]

    def pixels(name: str) -> Bytes:
        flat = _read_webp(files[name]).reshape(-1, 4)
        if len(flat) < count:
            raise ValueError(f"{path}: {name} has {len(flat)} pixels for {count} Gaussians")
        return flat[:count]

    low, high = (pixels(name)[:, :3].astype(np.float64) for name in meta["means"]["files"])
    mins, maxs = np.array(meta["means"]["mins"]), np.array(meta["means"]["maxs"])
    log_means = mins + (maxs - mins) * ((low + 256 * high) / 65535)
    colours = pixels(meta["sh0"]["files"][0])
    opacity = np.clip(colours[:, 3] / 255.0, 1e-6, 1 - 1e-6)
    sh = np.array(meta["sh0"]["codebook"], dtype=np.float32)[colours[:, :3]][:, None]
    if "shN" in meta:
        labels = pixels(meta["shN"]["files"][1]).astype(np.int64)
        palette = _decode_palette(meta["shN"], _read_webp(files[meta["shN"]["files"][0]]))
        sh = np.concatenate([sh, palette[labels[:, 0] + 256 * labels[:, 1]]], axis=1)
    return Gaussians(
        means=(np.sign(log_means) * np.expm1(np.abs(log_means))).astype(np.float32),
        scales=np.array(meta["scales"]["codebook"], dtype=np.float32)[pixels(meta["scales"]["files"][0])[:, :3]],
        quats=unpack_quats(pixels(meta["quats"]["files"][0])),
        opacities=np.log(opacity / (1 - opacity)).astype(np.float32),
        sh=sh,
    )


def along_curve(means: Floats) -> NDArray[np.int64]:
    """Indices (N,) that sort centres (N, 3) along the Z-order curve: most neighbours in space become neighbours."""
    return np.argsort(morton_codes(_in_steps(means)[0]), kind="stable")


def morton_codes(steps: NDArray[np.uint16]) -> NDArray[np.uint64]:
    """Place on the Z-order curve of (N, 3) coordinates of 16 bits: their bits interleaved to 48."""
    bits = steps.astype(np.uint64)
    for shift, mask in (
        (32, 0x1F00000000FFFF),
        (16, 0x1F0000FF0000FF),
        (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):
        bits = (bits | (bits << np.uint64(shift))) & np.uint64(mask)
    codes: NDArray[np.uint64] = bits[:, 0] | (bits[:, 1] << np.uint64(1)) | (bits[:, 2] << np.uint64(2))
    return codes


def _in_steps(means: Floats) -> tuple[NDArray[np.uint16], NDArray[np.float64], NDArray[np.float64]]:
    """Centres (N, 3) in 16 bits between the least and the greatest logarithm of each coordinate, and these."""
    log_means = np.sign(means) * np.log1p(np.abs(means, dtype=np.float64))
    mins, maxs = log_means.min(axis=0), log_means.max(axis=0)
    steps = np.round((log_means - mins) / np.where(maxs > mins, maxs - mins, 1) * 65535).astype(np.uint16)
    return steps, mins, maxs


def codebook(values: Floats) -> tuple[Bytes, Floats]:
    """Codes (shape of `values`) and the 256 sorted values they stand for, by Lloyd's algorithm in one dimension.

    On sorted values a cluster is an interval and its mean a difference of running sums, so an iteration costs 256
    binary searches. Starts half from quantiles and half from equal steps: the dense middle and the tails both matter.
    """
    ordered = np.sort(values, axis=None).astype(np.float64)
    distinct = np.unique(ordered)
    if len(distinct) <= CODEBOOK_SIZE:
        book = np.concatenate([distinct, np.full(CODEBOOK_SIZE - len(distinct), distinct[-1])])
    else:
        half = CODEBOOK_SIZE // 2
        quantiles = ordered[np.linspace(0, len(ordered) - 1, half).astype(int)]
        book = np.sort(np.concatenate([quantiles, np.linspace(ordered[0], ordered[-1], half)]))
        sums = np.concatenate([[0.0], np.cumsum(ordered)])
        for _ in range(CODEBOOK_ITERATIONS):
            ends = np.searchsorted(ordered, (book[1:] + book[:-1]) / 2)
            starts, ends = np.concatenate([[0], ends]), np.concatenate([ends, [len(ordered)]])
            members = ends - starts
            book = np.where(members > 0, (sums[ends] - sums[starts]) / np.maximum(members, 1), book)
            book.sort()
    book = book.astype(np.float32)
    codes = np.searchsorted((book[1:] + book[:-1]) / 2, values).astype(np.uint8)
    return codes, book


def pack_quats(quats: Floats) -> Bytes:
    """Rotations (N, 4), w first, as (N, 4) bytes: the three smallest components, and 252 + index of the largest."""
    unit = quats / np.linalg.norm(quats, axis=1, keepdims=True)
    largest = np.abs(unit).argmax(axis=1)
    # q and -q are the same rotation: a positive largest component needs no sign bit.
    sign = np.where(np.take_along_axis(unit, largest[:, None], axis=1) < 0, -1, 1)
    smallest = np.take_along_axis(unit * sign, SMALLEST_THREE[largest], axis=1)
    coded = np.round((smallest * np.sqrt(2) + 1) / 2 * 255).clip(0, 255)
    return np.concatenate([coded, 252 + largest[:, None]], axis=1).astype(np.uint8)


def unpack_quats(packed: Bytes) -> Floats:
    """Unit quaternions (N, 4), w first, from (N, 4) bytes of `pack_quats`.

    :raises ValueError: when a byte that must name the largest component does not.
    """
    if (packed[:, 3] < 252).any():
        raise ValueError("a rotation names no largest component: the image was not stored without loss")
    largest = packed[:, 3].astype(np.int64) - 252
    smallest = (packed[:, :3] / 255.0 * 2 - 1) / np.sqrt(2)
    quats = np.zeros((len(packed), 4))
    np.put_along_axis(quats, SMALLEST_THREE[largest], smallest, axis=1)
    rest = np.sqrt(np.maximum(0, 1 - (smallest**2).sum(axis=1)))
    np.put_along_axis(quats, largest[:, None], rest[:, None], axis=1)
    unit: Floats = (quats / np.linalg.norm(quats, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _encode_sh(
    gaussians: Gaussians, max_colour_error: float, seed: int, threads: int, check: Callable[[], None]
) -> tuple[dict[str, Bytes], dict[str, Any], float]:
    """Images and metadata of the higher SH bands, and the palette's root mean square colour error."""
    from e2e3d_stages.splats.clustering import choose_palette  # faiss: readers of SOG must not need it

    bands = gaussians.sh[:, 1:]
    # The basis is orthonormal over the sphere: coefficients' squared error / 4π is the mean squared colour error.
    to_colour = 3 * 4 * np.pi
    vectors = bands.reshape(len(bands), -1)
    bound = max_colour_error**2 * to_colour
    palette = choose_palette(vectors, bound, seed=seed, threads=threads, check=check)
    entries, coefficients = len(palette.centroids), bands.shape[1]
    codes, book = codebook(palette.centroids)
    rows = -(-entries // PALETTE_COLUMNS)
    image = np.zeros((rows * PALETTE_COLUMNS, coefficients, 3), dtype=np.uint8)
    image[:entries] = codes.reshape(entries, coefficients, 3)
    labels = np.stack([palette.labels & 0xFF, palette.labels >> 8, np.zeros_like(palette.labels)], axis=1)
    images = {
        "shN_centroids": image.reshape(rows, PALETTE_COLUMNS * coefficients, 3),
        "shN_labels": _per_gaussian(labels.astype(np.uint8)),
    }
    meta = {
        "count": entries,
        "bands": gaussians.sh_degree,
        "codebook": book.tolist(),
        "files": ["shN_centroids.webp", "shN_labels.webp"],
    }
    return images, meta, float(np.sqrt(palette.squared_error / to_colour))


def _decode_palette(meta: dict[str, Any], image: Bytes) -> Floats:
    """The palette (P, K - 1, 3) of higher SH bands."""
    coefficients = (meta["bands"] + 1) ** 2 - 1
    if image.shape[1] != PALETTE_COLUMNS * coefficients:
        raise ValueError(f"the SH palette is {image.shape[1]} pixels wide, not {PALETTE_COLUMNS * coefficients}")
    codes = image[..., :3].reshape(-1, coefficients, 3)[: meta["count"]]
    palette: Floats = np.array(meta["codebook"], dtype=np.float32)[codes]
    return palette


def _per_gaussian(values: Bytes) -> Bytes:
    """Values (N, channels) laid out row by row in a near-square image."""
    width = int(np.ceil(np.sqrt(len(values))))
    height = -(-len(values) // width)
    image = np.zeros((height * width, values.shape[1]), dtype=np.uint8)
    image[: len(values)] = values
    return image.reshape(height, width, -1)


def _write_zip(
    path: Path, meta: dict[str, Any], images: dict[str, Bytes], progress: Callable[[str], None]
) -> dict[str, int]:
    sizes = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, image in images.items():
            content = io.BytesIO()
            # `exact` keeps the colour of transparent pixels, which is data here. Quality is effort: 100 takes 14 times
            # as long for the same size.
            Image.fromarray(image).save(content, "WEBP", lossless=True, exact=True, quality=80, method=4)
            progress(name)
            sizes[f"{name}.webp"] = content.tell()
            archive.writestr(zipfile.ZipInfo(f"{name}.webp", ZIP_DATE), content.getvalue())
        archive.writestr(zipfile.ZipInfo("meta.json", ZIP_DATE), json.dumps(meta, separators=(",", ":")))
    return sizes


def _read_webp(content: bytes) -> Bytes:
    """An image (height, width, 4) of bytes."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGBA"))
