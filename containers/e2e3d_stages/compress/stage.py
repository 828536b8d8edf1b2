"""The compress stage: clean the scene, write SOG and SPZ, measure what the compression changed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2e3d_stages.compress import cleaning, streaming
from e2e3d_stages.compress.params import Params, has_levels
from e2e3d_stages.contract.messages import StageError
from e2e3d_stages.runtime.context import StageContext
from e2e3d_stages.splats import sog, splat_transform, streamed
from e2e3d_stages.splats.cropping import published_scene
from e2e3d_stages.splats.gaussians import Floats, Gaussians, read_ply, write_ply

log = logging.getLogger(__name__)

SPZ_STEP = 1 / 4096
# Coarser than this share of the extent, SPZ's fixed step moves Gaussians visibly.
SPZ_COARSE = 1e-3
NOTABLE_INVISIBLE = 0.25
NOTABLE_FLOATING = 0.001


def run(context: StageContext) -> dict[str, Any]:
    """Compress the scene into scene.sog, and scene.spz and levels where asked for; compression.json tells the rest.

    :raises StageError: when no Gaussian is worth keeping, or splat-transform is missing or fails.
    """
    params: Params = context.params
    context.progress(0, 1, "scene", phase="cleaning")
    if params.spz:
        splat_transform.command()  # a missing program is worth knowing before the work
    source = published_scene(context.inputs)
    trained = read_ply(source)
    kept, removals = cleaning.clean(
        limit_sh(trained, params.sh_degree),
        min_opacity=params.min_opacity,
        floater_distance=params.floater_distance,
        max_floaters=params.max_floaters,
    )
    _warn_of(context, removals, len(trained))
    if len(kept) == 0:
        raise StageError(
            f"None of the scene's {len(trained)} Gaussians is worth keeping.",
            hint="Training did not end in a visible scene: take sharper photos with more overlap, or train longer "
            "(train_iterations).",
            details={"removals": [asdict(removal) for removal in removals]},
        )

    encoding = _write_sog(context, kept, context.output / "scene.sog")
    errors = measure(kept.select(encoding.order), sog.decode(context.output / "scene.sog"))
    spz_bytes = _write_spz(context, kept) if params.spz else 0
    levels = _write_levels(context, kept) if has_levels(params.stream_above, len(kept)) else {}

    sizes = {
        "ply_bytes": source.stat().st_size,
        "sog_bytes": (context.output / "scene.sog").stat().st_size,
        "spz_bytes": spz_bytes,
    }
    removed = {f"removed_{removal.reason}": removal.count if removal.removed else 0 for removal in removals}
    metrics = {
        "gaussians_in": len(trained),
        "gaussians": len(kept),
        **removed,
        "sh_degree": kept.sh_degree,
        **sizes,
        "ratio": round(sizes["ply_bytes"] / sizes["sog_bytes"], 2),
        "palette_size": encoding.palette_size,
        "palette_colour_error": encoding.palette_error,
        **errors,
        **levels,
    }
    report = {"removals": [asdict(removal) for removal in removals], "sog_files": encoding.image_bytes, **metrics}
    (context.output / "compression.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return metrics


def limit_sh(gaussians: Gaussians, degree: int) -> Gaussians:
    """Without the spherical-harmonics bands above `degree`."""
    return replace(gaussians, sh=gaussians.sh[:, : (degree + 1) ** 2])


def measure(original: Gaussians, decoded: Gaussians) -> dict[str, float]:
    """How far decoded Gaussians are from the originals, given in the same order.

    Positions as a share of the largest side of the scene's bounding box; scales as a difference of logarithms;
    rotations in degrees; opacity and the constant band's colour as shares of full brightness.
    """
    extent = float(np.ptp(original.means, axis=0).max()) or 1.0
    position = np.linalg.norm(decoded.means - original.means, axis=1) / extent
    unit = original.quats / np.linalg.norm(original.quats, axis=1, keepdims=True)
    cosine = np.abs(np.einsum("nd,nd->n", decoded.quats, unit, dtype=np.float64)).clip(0, 1)
    # Y₀₀ = 1 / (2√π) turns the constant coefficient into colour.
    colour = np.abs(decoded.sh[:, 0] - original.sh[:, 0]) / (2 * np.sqrt(np.pi))
    return {
        "position_error_max": float(position.max()),
        "position_error_median": float(np.median(position)),
        "scale_error_max": float(np.abs(decoded.scales - original.scales).max()),
        "rotation_error_max": float(np.degrees(2 * np.arccos(cosine)).max()),
        "opacity_error_max": float(np.abs(_sigmoid(decoded.opacities) - _sigmoid(original.opacities)).max()),
        "colour_error_max": float(colour.max()),
        "colour_error_median": float(np.median(colour)),
    }


def _write_sog(context: StageContext, gaussians: Gaussians, path: Path) -> sog.Encoding:
    total = 7 if gaussians.sh_degree else 5
    written: set[str] = set()

    def progress(name: str) -> None:
        context.check_stop()
        if name != "shN":  # a clustering has ended, no file yet
            written.add(name)
        context.progress(len(written), total, "files", phase="SOG")

    context.progress(0, total, "files", phase="SOG")
    return _encoder(context)(gaussians, path, progress=progress)


def _encoder(context: StageContext) -> Callable[..., sog.Encoding]:
    """`sog.encode` as this run wants it."""
    params: Params = context.params
    return partial(sog.encode, max_colour_error=params.max_colour_error, seed=params.seed, threads=context.threads)


def _write_spz(context: StageContext, gaussians: Gaussians) -> int:
    """Size in bytes of scene.spz; 0, with a warning, where the scene does not fit the format."""
    context.check_stop()
    farthest = float(np.abs(gaussians.means).max())
    if farthest >= splat_transform.SPZ_LIMIT:
        context.warn(
            "spz_range",
            f"The scene reaches {farthest:.0f} units from its origin and SPZ ends at {splat_transform.SPZ_LIMIT:.0f}: "
            "no SPZ file was written.",
            "Use the SOG file.",
        )
        return 0
    extent = float(np.ptp(gaussians.means, axis=0).max())
    if SPZ_STEP > SPZ_COARSE * extent > 0:
        context.warn(
            "spz_coarse",
            f"The scene is only {extent:.3g} units wide and SPZ places Gaussians in steps of 1/4096: "
            "its SPZ file looks coarse.",
            "Use the SOG file.",
        )
    context.progress(0, 1, "files", phase="SPZ")
    write_ply(context.scratch / "cleaned.ply", gaussians)
    splat_transform.convert(context.scratch / "cleaned.ply", context.output / "scene.spz")
    context.progress(1, 1, "files", phase="SPZ")
    return (context.output / "scene.spz").stat().st_size


def _write_levels(context: StageContext, gaussians: Gaussians) -> dict[str, Any]:
    """Metrics of the levels of detail: how many Gaussians each has, the finest first, and all files' bytes."""
    encode_parts = partial(_encoder(context), progress=lambda _name: context.check_stop())

    def encode(some: Gaussians, path: Path, parts: NDArray[np.int64]) -> None:
        encode_parts(some, path, parts=parts)

    def progress(done: int, total: int) -> None:
        context.check_stop()
        context.progress(done, total, "files", phase="levels")

    folder = context.output / streamed.FOLDER
    counts = streaming.write_levels(gaussians, folder, encode, progress=progress)
    return {"level_gaussians": counts, "level_bytes": sum(path.stat().st_size for path in folder.iterdir())}


def _warn_of(context: StageContext, removals: list[cleaning.Removal], total: int) -> None:
    """Warn of what is more than ordinary tidying, and log the rest."""
    for removal in removals:
        log.info("%s: %d of %d, removed: %s", removal.reason, removal.count, total, removal.removed)
    broken, invisible, floating = (removal.count for removal in removals)
    if broken:
        context.warn(
            "broken_gaussians",
            f"{broken} of {total} Gaussians had values that are no numbers and were removed.",
            "Training was unstable: if the scene looks damaged, train again with another seed.",
        )
    if invisible > NOTABLE_INVISIBLE * total:
        context.warn(
            "many_invisible_gaussians",
            f"{invisible} of {total} Gaussians were too transparent to be seen and were removed.",
            "A lower limit on the number of Gaussians trains faster for the same picture.",
        )
    if not removals[2].removed:
        context.warn(
            "background_kept",
            f"{floating} of {total} Gaussians lie far outside the scene; so many are a background and were kept.",
            "Raise max_floaters to remove them.",
        )
    elif floating > NOTABLE_FLOATING * total:
        context.warn(
            "floating_gaussians",
            f"{floating} of {total} Gaussians floated far outside the scene and were removed.",
            "Raise floater_distance to keep them.",
        )


def _sigmoid(logits: Floats) -> Floats:
    opacity: Floats = (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)
    return opacity
