"""How long SOG of 100,000 Gaussians with SH degree 3 takes, how small it is and what it changes.

Beside it the time that PlayCanvas's splat-transform takes for the same file on the CPU, stopped after a minute.

    python bench/compress.py [--json]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "stages" / "compress"))

from coloured_scene import coloured_scene

from e2e3d_stages.compress.stage import measure
from e2e3d_stages.contract.messages import StageError
from e2e3d_stages.runtime.context import thread_count
from e2e3d_stages.splats import sog, splat_transform
from e2e3d_stages.splats.gaussians import write_ply

COUNT = 100_000
DEGREE = 3
LIMIT_SECONDS = 20.0
REFERENCE_LIMIT_SECONDS = 60.0


def reference_seconds(ply: Path, target: Path) -> float | None:
    """Seconds that splat-transform takes to write SOG on the CPU; None when stopped at the limit.

    :raises StageError: when it is missing or fails.
    """
    start = time.perf_counter()
    try:
        splat_transform.convert(ply, target, options=("-g", "cpu"), timeout=REFERENCE_LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        return None
    return time.perf_counter() - start


def main() -> None:
    """Run once and print the figures; exits 1 when ours takes longer than its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    given = coloured_scene(COUNT, DEGREE, noise=0.03, opacity=0.0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_ply(folder / "scene.ply", given)
        start, cpu_start = time.perf_counter(), time.process_time()
        encoding = sog.encode(given, folder / "scene.sog", threads=thread_count())
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        decoded = sog.decode(folder / "scene.sog")
        ordered = given.select(encoding.order)
        residual = (decoded.sh - ordered.sh)[:, 1:]
        figures: dict[str, Any] = {
            "gaussians": COUNT,
            "sh_degree": DEGREE,
            "seconds": round(seconds, 2),
            "cpu_seconds": round(cpu_seconds, 2),
            "limit_seconds": LIMIT_SECONDS,
            "ply_bytes": (folder / "scene.ply").stat().st_size,
            "sog_bytes": (folder / "scene.sog").stat().st_size,
            "ratio": round((folder / "scene.ply").stat().st_size / (folder / "scene.sog").stat().st_size, 2),
            "palette_size": encoding.palette_size,
            "sh_residual_variance": float(
                (residual**2).sum() / ((ordered.sh[:, 1:] - ordered.sh[:, 1:].mean(0)) ** 2).sum()
            ),
            "palette_colour_error": encoding.palette_error,
            **measure(ordered, decoded),
        }
        try:
            reference = reference_seconds(folder / "scene.ply", folder / "reference.sog")
            figures["splat_transform_seconds"] = reference
            figures["splat_transform"] = "finished" if reference else f"stopped after {REFERENCE_LIMIT_SECONDS:.0f} s"
        except StageError as error:
            figures["splat_transform"] = f"not measured: {error}"
    if arguments.json:
        print(json.dumps(figures))
    else:
        for figure, value in figures.items():
            print(f"{figure:24} {value:.3g}" if isinstance(value, float) else f"{figure:24} {value}")
    if seconds > LIMIT_SECONDS:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
