"""A photo that sees all around becomes four, as COLMAP's own pipeline for panoramas renders them; or six.

They do not overlap, so that none can be held out while another shows the same. Four look to all sides. At the poles are
the tripod and whoever carries the camera: they are looked at only where a mask says what of them does not count.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycolmap import panorama

from e2e3d_stages.contract.captures import FACES

# As COLMAP renders those that do not overlap.
FIELD_OF_VIEW = 360 / FACES
# The left edge differs from the right one by so many times what a tenth of the columns differ from their neighbours.
SEAM = 2.0
# The uppermost row shows one point, as the lowest does: so much less changes along them than along other rows.
POLE = 0.5
# Of 255. In a picture that changes less along its rows nothing can be told.
FLAT = 0.3
ROWS_AT_ONCE = 256
# How a camera is turned that looks up, and one that looks down.
POLES = (np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]), np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]))
# What faces take in memory for a pixel of their panorama: its colours, the rays of one, and what some rows become.
FACE_BYTES = 14


def closes(image: Image.Image) -> bool:
    """Whether a picture goes on at the left where it ends at the right, and shows but a point above and below."""
    grey = np.asarray(image.convert("L").resize((256, 128), Image.Resampling.BOX), np.float64)
    steps = np.abs(np.diff(grey, axis=1))
    seam = np.abs(grey[:, 0] - grey[:, -1]).mean()
    rows = steps.mean(axis=1)
    usual = np.median(rows)
    joined = seam <= SEAM * np.quantile(steps.mean(axis=0), 0.9)
    return bool(usual > FLAT and joined and max(rows[0], rows[-1]) <= POLE * usual)


def faces(image: Image.Image, *, poles: bool) -> Iterator[tuple[Image.Image, NDArray[np.float64]]]:
    """The faces of a panorama, and how each camera is turned: from the panorama's axes to its own, 3 x 3.

    :param poles: whether there are two more, that look up and down.
    """
    wide = image.resize((2 * image.height, image.height)) if image.width != 2 * image.height else image
    camera = panorama.create_virtual_camera(
        pano_width=wide.width, pano_height=wide.height, hfov_deg=FIELD_OF_VIEW, vfov_deg=FIELD_OF_VIEW
    )
    rays = panorama.get_virtual_camera_rays(camera)
    pixels = np.asarray(wide.convert("RGB"))
    turns = [*panorama.get_virtual_rotations(FACES, pitches_deg=(0.0,)), *(POLES if poles else ())]
    for turn in turns:
        found = np.empty((camera.width, camera.height, 3), np.uint8)
        # The library lists rays by columns.
        for start in range(0, camera.width, ROWS_AT_ONCE):
            some = slice(start * camera.height, min(start + ROWS_AT_ONCE, camera.width) * camera.height)
            places = panorama.spherical_img_from_cam(wide.size, rays[some] @ turn) - 0.5
            found[start : start + ROWS_AT_ONCE] = _sampled(pixels, places).reshape(-1, camera.height, 3)
        yield Image.fromarray(found.transpose(1, 0, 2)), np.asarray(turn, np.float64)


def _sampled(pixels: NDArray[np.uint8], places: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The colours at places (N, 2), x and y in px, between pixels; what leaves at one side comes in at the other."""
    height, width = pixels.shape[:2]
    corner = np.floor(places)
    (x, y), (right, down) = corner.astype(int).T, (places - corner).T[..., None]
    columns, rows = (x % width, (x + 1) % width), (y.clip(0, height - 1), (y + 1).clip(0, height - 1))
    upper = pixels[rows[0], columns[0]] * (1 - right) + pixels[rows[0], columns[1]] * right
    lower = pixels[rows[1], columns[0]] * (1 - right) + pixels[rows[1], columns[1]] * right
    return np.asarray((upper * (1 - down) + lower * down).round(), np.uint8)
