"""Files that Pillow does not write, made byte by byte: colour profiles, and a raw photo."""

from __future__ import annotations

import struct
import zlib

import numpy as np

# Primaries in XYZ under D50, as the profiles have them.
DISPLAY_P3 = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))
ADOBE_RGB = ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))
SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))


def rgb_profile(primaries: tuple[tuple[float, float, float], ...], gamma: float | None = None) -> bytes:
    """A matrix profile (ICC.1:2001-04, 6.3.1.2); without a gamma its curve is that of sRGB."""
    curve = _gamma(gamma) if gamma else _srgb_curve()
    tags = {f"{name}XYZ".encode(): _xyz(*primary) for name, primary in zip("rgb", primaries, strict=True)}
    tags |= {f"{name}TRC".encode(): curve for name in "rgb"}
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags)


def grey_profile(gamma: float) -> bytes:
    """A grey profile, as scanners write."""
    return _profile(b"scnr", b"GRAY", b"XYZ ", {b"kTRC": _gamma(gamma)})


def cmyk_profile() -> bytes:
    """A printer's profile with the least table there can be: what has any ink is L* 50, and blank paper is white."""
    corners = b"".join(bytes((255 if place == 0 else 128, 128, 128)) for place in range(16))
    identity = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + b"".join(_fixed(v) for v in (1, 0, 0, 0, 1, 0, 0, 0, 1))
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table + identity * 4 + corners + identity * 3})


def _profile(kind: bytes, colours: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {**tags, b"wtpt": _xyz(0.9642, 1.0, 0.8249), b"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0"}
    tags[b"desc"] += bytes(78)
    head = 128 + 4 + 12 * len(tags)
    listed, data = b"", b""
    for name, content in tags.items():
        listed += name + struct.pack(">II", head + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    header = struct.pack(">II", head + len(data), 0) + b"\x02\x10\0\0" + kind + colours + connection + bytes(12)
    header += b"acsp" + bytes(28) + _fixed(0.9642) + _fixed(1.0) + _fixed(0.8249)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + listed + data


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(_fixed(value) for value in values)


def _gamma(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def _srgb_curve() -> bytes:
    x = np.linspace(0, 1, 1024)
    linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    return b"curv" + bytes(4) + struct.pack(">I", 1024) + (linear * 65535).round().astype(">u2").tobytes()


def raw_photo(grey: np.ndarray, orientation: int = 1) -> bytes:
    """A DNG (1.4) whose every sensor pixel sees the same light of all colours, without a lens that bends it.

    :param grey: linear light, 0 to 1, height x width.
    """
    height, width = grey.shape
    pixels = (grey * 4095).round().astype("<u2").tobytes()
    identity = [(v, 1) for v in (1, 0, 0, 0, 1, 0, 0, 0, 1)]
    tags: list[tuple[int, int, list]] = [
        (254, 4, [0]),
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [16]),
        (259, 3, [1]),
        (262, 3, [32803]),
        (271, 2, list(b"Maker\0")),
        (272, 2, list(b"Model\0")),
        (273, 4, [0]),
        (274, 3, [orientation]),
        (277, 3, [1]),
        (278, 4, [height]),
        (279, 4, [len(pixels)]),
        (33421, 3, [2, 2]),
        (33422, 1, [0, 1, 1, 2]),
        (50706, 1, [1, 4, 0, 0]),
        (50707, 1, [1, 1, 0, 0]),
        (50708, 2, list(b"Maker Model\0")),
        (50714, 3, [0]),
        (50717, 3, [4095]),
        (50721, 10, identity),
        (50728, 5, [(1, 1)] * 3),
        (50778, 3, [21]),
    ]
    size = 8 + 2 + 12 * len(tags) + 4
    entries, data = b"", b""
    for tag, kind, values in tags:
        form = "<" + {1: "B", 2: "B", 3: "H", 4: "I", 5: "II", 10: "ii"}[kind]
        packed = b"".join(struct.pack(form, *(v if isinstance(v, tuple) else (v,))) for v in values)
        if tag == 273:
            packed = b"HERE"
        if len(packed) > 4:
            place, data = size + len(data), data + packed + bytes(len(packed) % 2)
            packed = struct.pack("<I", place)
        entries += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    entries = entries.replace(b"HERE", struct.pack("<I", size + len(data)))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data + pixels


def tiff(
    values: np.ndarray,
    *,
    photometric: int,
    order: str = "<",
    planes: bool = False,
    packed: bool = False,
    extra: int | None = None,
    colours: np.ndarray | None = None,
    make: bytes = b"A",
) -> bytes:
    """A TIFF (6.0).

    :param values: height x width, or x bands; whole numbers or floats.
    :param photometric: 0 where zero is white, 1 where it is black, 2 of RGB, 3 of a palette, 5 of CMYK.
    :param order: of bytes, `<` or `>`.
    :param planes: whether its bands lie one after another.
    :param packed: whether they are compressed, by deflate.
    :param extra: what the last band is: 1 alpha that colours were multiplied with, 2 alpha that they were not.
    :param colours: of the palette, as it is written: 256 x 3.
    """
    bands = np.atleast_3d(values)
    height, width, count = bands.shape
    stored = bands.astype(bands.dtype.newbyteorder(order))
    parts = [stored[..., place].tobytes() for place in range(count)] if planes else [stored.tobytes()]
    parts = [zlib.compress(part) for part in parts] if packed else parts
    tags: list[tuple[int, int, list[int]]] = [
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [8 * bands.dtype.itemsize] * count),
        (259, 3, [8 if packed else 1]),
        (262, 3, [photometric]),
        (271, 2, list(make + bytes(1))),
        (273, 4, [0] * len(parts)),
        (277, 3, [count]),
        (278, 4, [height]),
        (279, 4, [len(part) for part in parts]),
        (284, 3, [2 if planes else 1]),
        *([(320, 3, colours.T.ravel().tolist())] if colours is not None else []),
        *([(338, 3, [extra])] if extra else []),
        (339, 3, [3 if bands.dtype.kind == "f" else 1] * count),
    ]
    begin = 8 + 2 + 12 * len(tags) + 4
    sizes = {2: 1, 3: 2, 4: 4}
    place = begin + sum(sizes[kind] * len(numbers) for _, kind, numbers in tags if sizes[kind] * len(numbers) > 4)
    entries, data = b"", b""
    for tag, kind, numbers in tags:
        if tag == 273:
            numbers = [place + sum(map(len, parts[:part])) for part in range(len(parts))]
        content = struct.pack(f"{order}{len(numbers)}{'BHI'[kind - 2]}", *numbers)
        if len(content) > 4:
            data, content = data + content, struct.pack(f"{order}I", begin + len(data))
        entries += struct.pack(f"{order}HHI", tag, kind, len(numbers)) + content.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    return head + entries + bytes(4) + data + b"".join(parts)
