"""Gaussians as arrays, and the PLY layout that every splat viewer reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# The constant band of spherical harmonics: a colour is a half and so many times the coefficient.
C0 = 0.28209479177387814


@dataclass(frozen=True)
class Gaussians:
    """N Gaussians as training leaves them, float32 throughout.

    :param means: (N, 3) centres in the scene's frame.
    :param scales: (N, 3) natural logarithms of the standard deviations along the own axes.
    :param quats: (N, 4) rotations as unit quaternions, w first.
    :param opacities: (N,) logits of the opacity.
    :param sh: (N, K, 3) spherical harmonics, K = (degree + 1)²; `sh[:, 0]` is the constant band.
    """

    means: Floats
    scales: Floats
    quats: Floats
    opacities: Floats
    sh: Floats

    def __len__(self) -> int:
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        """0 to 3."""
        return int(np.sqrt(self.sh.shape[1])) - 1

    def select(self, index: NDArray[np.bool_] | NDArray[np.integer]) -> Gaussians:
        """Those that a mask or an order names."""
        return Gaussians(
            self.means[index], self.scales[index], self.quats[index], self.opacities[index], self.sh[index]
        )


def joined(parts: Sequence[Gaussians]) -> Gaussians:
    """Those of one part after those of another, all of one SH degree."""
    return Gaussians(
        **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Gaussians)}
    )


def _columns(sh_count: int) -> list[str]:
    rest = [f"f_rest_{i}" for i in range(3 * (sh_count - 1))]
    names = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", *rest, "opacity"]
    return names + [f"scale_{i}" for i in range(3)] + [f"rot_{i}" for i in range(4)]


def write_ply(path: Path, gaussians: Gaussians) -> None:
    """Write the standard 3D Gaussian splatting PLY.

    Binary little-endian, `f_rest` channel-major, no normals (Kerbl et al. 2023, `graphdeco-inria/gaussian-splatting`).
    """
    count, sh_count = gaussians.sh.shape[:2]
    names = _columns(sh_count)
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    header += [f"property float {name}" for name in names] + ["end_header\n"]
    rest = gaussians.sh[:, 1:].transpose(0, 2, 1).reshape(count, -1)
    table = np.concatenate(
        [gaussians.means, gaussians.sh[:, 0], rest, gaussians.opacities[:, None], gaussians.scales, gaussians.quats],
        axis=1,
    )
    with path.open("wb") as file:
        file.write("\n".join(header).encode("ascii"))
        file.write(table.astype("<f4").tobytes())


def read_ply(path: Path) -> Gaussians:
    """Read a standard 3D Gaussian splatting PLY, with or without normals.

    :raises ValueError: when the file is not such a PLY.
    """
    with path.open("rb") as file:
        if file.readline().strip() != b"ply":
            raise ValueError(f"{path} is not a PLY file")
        names: list[str] = []
        count = 0
        while (line := file.readline().strip()) != b"end_header":
            words = line.decode("ascii").split()
            if not words or (words[:1] == ["format"] and words[1] != "binary_little_endian"):
                raise ValueError(f"{path} is not a binary little-endian PLY file")
            if words[:2] == ["element", "vertex"]:
                count = int(words[2])
            elif words[0] == "property":
                if words[1] not in ("float", "float32"):
                    raise ValueError(f"{path}: property {words[-1]} is {words[1]}, not float")
                names.append(words[2])
        table = np.fromfile(file, dtype="<f4", count=count * len(names)).reshape(count, len(names))
    column = {name: i for i, name in enumerate(names)}
    rest = sum(name.startswith("f_rest_") for name in names)
    missing = [name for name in _columns(1 + rest // 3) if name not in column]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: not a Gaussian splatting PLY")

    def pick(wanted: list[str]) -> Floats:
        return np.ascontiguousarray(table[:, [column[name] for name in wanted]], dtype=np.float32)

    dc = pick(["f_dc_0", "f_dc_1", "f_dc_2"])[:, None]
    higher = pick([f"f_rest_{i}" for i in range(rest)]).reshape(count, 3, rest // 3).transpose(0, 2, 1)
    return Gaussians(
        means=pick(["x", "y", "z"]),
        scales=pick([f"scale_{i}" for i in range(3)]),
        quats=pick([f"rot_{i}" for i in range(4)]),
        opacities=pick(["opacity"])[:, 0],
        sh=np.ascontiguousarray(np.concatenate([dc, higher], axis=1)),
    )
