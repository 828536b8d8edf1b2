"""A decoded frame of a film becomes the picture that was seen: upright, in square pixels and 8-bit sRGB."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import Type
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from PIL import Image

from e2e3d_stages.splats.srgb import DISPLAY_P3, P3_TO_SRGB, decoded, encoded

# ITU-T H.273, tables 2, 3 and 4.
UNSPECIFIED = 2
BT2020 = 9
PQ, HLG = 16, 18
# Films that don't say by which matrix they were coded: by their height, as players do.
HD_HEIGHT = 720

# Columns of a display matrix (ISO/IEC 14496-12, 8.3.2), as signs of a, b, c, d, to what turns a frame upright.
TURNS = {
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}

# Linear light of other primaries in those of sRGB; of the first by ITU-R BT.2087.
TO_SRGB = {
    BT2020: np.array(
        [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]],
        np.float32,
    ),
    DISPLAY_P3: P3_TO_SRGB,
}
LUMINANCE_BT2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)
# In cd/m²: ITU-R BT.2408 has white paper at this level of an HDR film; sRGB has it at the top.
WHITE = 203.0
# A display of this peak is what HLG is seen on where nothing else is said; its gamma follows (ITU-R BT.2100).
HLG_PEAK, HLG_GAMMA = 1000.0, 1.2
# From here up, of white, what shines brighter than white paper is compressed; below it nothing changes.
KNEE = 0.8

Floats = npt.NDArray[np.float32]


def picture_of(frame: av.VideoFrame, max_size: int, pixel: float = 1.0) -> Image.Image:
    """The frame as it is to be seen, its longest side at most `max_size`.

    :param pixel: width / height of one of its pixels.
    """
    shape = (frame.width * max(pixel, 1.0), frame.height * max(1 / pixel, 1.0))
    scale = min(1.0, max_size / max(shape))
    width, height = (max(1, round(side * scale)) for side in shape)
    plain = frame.color_trc not in (PQ, HLG) and frame.color_primaries not in TO_SRGB
    values: Any = frame.reformat(
        width=width,
        height=height,
        format="rgb24" if plain else "rgb48le",
        src_colorspace=_matrix_of(frame),
        dst_colorspace=Colorspace.ITU709,
        src_color_range=frame.color_range or None,
        dst_color_range=ColorRange.JPEG,
        interpolation=Interpolation.LANCZOS | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP,
    ).to_ndarray()
    image = Image.fromarray(values if plain else _in_srgb(values, frame.color_trc, frame.color_primaries))
    turn = turn_of(frame)
    return image if turn is None else image.transpose(turn)


def turn_of(frame: av.VideoFrame) -> Image.Transpose | None:
    """What turns a frame upright; None where it is, or where it would have to be turned by another angle."""
    side_data: Any = frame.side_data
    data = side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return None
    matrix = np.frombuffer(bytes(data), np.int32, 9).reshape(3, 3)[:2, :2] / 65536
    signs = np.where(np.abs(matrix) > 0.5 * np.abs(matrix).max(), np.sign(matrix), 0).astype(int)
    return TURNS.get(tuple(signs.ravel().tolist()))


def _matrix_of(frame: av.VideoFrame) -> int:
    if frame.colorspace != UNSPECIFIED:
        return int(frame.colorspace)
    return int(Colorspace.ITU709 if frame.height >= HD_HEIGHT else Colorspace.ITU601)


def _in_srgb(values: npt.NDArray[np.uint16], transfer: int, primaries: int) -> npt.NDArray[np.uint8]:
    """Colours as a film means them, in 8-bit sRGB."""
    light = _linear(transfer)[values]
    if transfer == HLG:
        # The scene's light becomes that of a display, by its luminance (BT.2100, table 5).
        luminance = np.maximum(light @ LUMINANCE_BT2020, 1e-6)[..., None]
        light = light * luminance ** (HLG_GAMMA - 1) * np.float32(HLG_PEAK / WHITE)
    if primaries in TO_SRGB:
        light = light @ TO_SRGB[primaries].T
    light = np.maximum(light, 0)
    if transfer in (PQ, HLG):
        light = _compressed(light)
    return _encoded()[(light.clip(0, 1) * 65535 + 0.5).astype(np.uint16)]


def _compressed(light: Floats) -> Floats:
    """What is brighter than white, brought below it in its own hue."""
    peak = light.max(axis=2, keepdims=True)
    above = np.maximum(peak - KNEE, 0)
    shown = np.where(peak > KNEE, KNEE + (1 - KNEE) * (1 - np.exp(-above / (1 - KNEE))), peak)
    return np.asarray(light * (shown / np.maximum(peak, 1e-6)), np.float32)


@lru_cache(maxsize=3)
def _linear(transfer: int) -> Floats:
    """Light of each 16-bit value: of white for PQ and sRGB, the scene's from 0 to 1 for HLG (ITU-R BT.2100)."""
    values = np.arange(65536) / 65535
    if transfer == PQ:
        root = values ** (1 / 78.84375)
        light = (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
        return np.asarray(light * 10_000 / WHITE, np.float32)
    if transfer == HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        return np.asarray(np.where(values <= 0.5, values**2 / 3, (np.exp((values - c) / a) + b) / 12), np.float32)
    return np.asarray(decoded(values), np.float32)


@lru_cache(maxsize=1)
def _encoded() -> npt.NDArray[np.uint8]:
    """The 8-bit sRGB value of each 16-bit one of linear light."""
    return encoded(np.arange(65536) / 65535)
