"""Measures the scene against photos that training has not seen, before and after compression."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2e3d_stages.contract.messages import StageError
from e2e3d_stages.contract.paths import inside
from e2e3d_stages.evaluate.counting import Counting
from e2e3d_stages.evaluate.flip import flip
from e2e3d_stages.evaluate.opening import opening_view
from e2e3d_stages.evaluate.params import Params
from e2e3d_stages.evaluate.pictures import (
    Picture,
    blurred,
    difference,
    read_photo,
    resized,
    save,
    save_thumbnail,
    scaled,
)
from e2e3d_stages.evaluate.unseen import shown_by, unseen_share
from e2e3d_stages.runtime.context import StageContext
from e2e3d_stages.splats import sog
from e2e3d_stages.splats.camera import fitted_size
from e2e3d_stages.splats.cropping import published_box, published_scene
from e2e3d_stages.splats.gaussians import read_ply
from e2e3d_stages.splats.quality import colour_corrected, ms_ssim, psnr, ssim
from e2e3d_stages.splats.rasterizer import Renderer, use_threads
from e2e3d_stages.splats.views import View

Render = Callable[[View, int, int], Picture]

COMMON_LONG_SIDE = 400
TRAINING_VIEWS = 4

# Sizes at which every view is compared, as they end the metrics' names: as trained, 400 px, the photo's own. Nothing is
# drawn smaller than it was trained.
SUFFIXES = ("", "_400", "_full")


def run(context: StageContext) -> dict[str, Any]:
    """Measure and draw the views that were held out; without any, only what compression costs.

    Of a cropped scene it is what stayed that is measured, where the photos show it.

    :returns: means over the held-out views, None where there are none; `compression_loss_db` over whatever was viewed.
    :raises StageError: when there is no view at all.
    """
    use_threads(context.threads)
    views = json.loads((context.inputs["sfm"].folder / "views.json").read_text(encoding="utf-8"))
    training = json.loads((context.inputs["train"].folder / "training.json").read_text(encoding="utf-8"))
    if not views:
        raise StageError(
            "There is no photo with a known camera to compare with.",
            hint="Trigger again with sfm under Re-run stages (force).",
        )
    counts = Counting(context.inputs)
    telling = [view for view in views if counts.shows(view, *_common_size(view))] or views
    held_out = [view for view in telling if view["name"] in set(training["holdout"])]
    if not held_out:
        context.warn(
            "no_held_out_views",
            "Every photo was used for training, so how good the scene is from new places was not measured.",
            "For PSNR and SSIM give at least 8 photos and leave the train stage's parameter holdout above 0.",
        )
    shown = held_out or _evenly(telling, TRAINING_VIEWS)
    context.progress(0, len(shown), "photos", phase="comparing")
    gaussians = read_ply(published_scene(context.inputs))
    trained = Renderer(gaussians).image
    trained_on = set(training["training"])
    shown_before = Renderer(shown_by([view for view in views if view["name"] in trained_on], gaussians)).image
    compressed = Renderer(sog.decode(context.inputs["compress"].folder / "scene.sog")).image

    records = []
    for done, view in enumerate(shown, start=1):
        context.check_stop()
        record = measure(
            view, context.inputs["sfm"].folder / "images", counts, trained, compressed, training["long_side"]
        )
        size = _common_size(view)
        records.append({**record, "unseen": unseen_share(shown_before(view, *size), counts(view, *size))})
        context.progress(done, len(shown), "photos", phase="comparing")
    opening = _draw(context, views, shown, records, counts, trained, compressed)
    report = {
        "basis": "held-out" if held_out else "training",
        "long_side": training["long_side"],
        "opening_view": opening,
        "views": records,
    }
    (context.output / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return summary(records, held_out=len(held_out))


def measure(
    view: View, photos: Path, counts: Counting, trained: Render, compressed: Render, long_side: int
) -> dict[str, Any]:
    """One view's figures; where not all of the photo counts, over what does, whose share is `counted`.

    Each is there twice: of the picture as it is, and as `cc_…` of the colour-corrected one.

    :param view: an entry of `views.json`.
    :param photos: their folder.
    :param trained: draws the scene as trained: view, width, height → picture.
    :param compressed: draws it as decoded from the compressed file.
    :param long_side: the training size in px.
    """
    photo = read_photo(inside(photos, view["name"]))
    sizes = (fitted_size(*photo.size, long_side), fitted_size(*photo.size, COMMON_LONG_SIDE), photo.size)
    record: dict[str, Any] = {"name": view["name"]}
    scores: dict[tuple[int, int], dict[str, dict[str, float]]] = {}
    for size in dict.fromkeys(sizes):
        truth, counted = resized(photo, *size), counts(view, *size)
        # Made smaller as the photo is: drawn small, what is finer than a pixel would be sampled, and not averaged.
        drawn_at = max(size, sizes[0])
        pictures = {
            "{metric}{size}": scaled(trained(view, *drawn_at), *size),
            "{metric}{size}_compressed": scaled(compressed(view, *drawn_at), *size),
            "baseline_{metric}{size}": blurred(truth),
        }
        scores[size] = {name: scores_of(picture, truth, counted) for name, picture in pictures.items()}
        if size == sizes[0]:
            record.update(looks_of(pictures["{metric}{size}"], truth, counted))
        if size == photo.size and counted is not None:
            record["counted"] = round(float(counted.mean()), 4)
    for suffix, size in zip(SUFFIXES, sizes, strict=True):
        for name, values in scores[size].items():
            for metric, value in values.items():
                record[name.format(metric=metric, size=suffix)] = round(value, 4)
    return record


def _common_size(view: View) -> tuple[int, int]:
    return fitted_size(view["width"], view["height"], COMMON_LONG_SIDE)


def scores_of(picture: Picture, photo: Picture, counted: NDArray[np.bool_] | None) -> dict[str, float]:
    """PSNR in dB and SSIM of a picture, as it is and colour-corrected."""
    corrected = colour_corrected(picture, photo, counted)
    return {
        "psnr": psnr(picture, photo, counted),
        "ssim": ssim(picture, photo, counted),
        "cc_psnr": psnr(corrected, photo, counted),
        "cc_ssim": ssim(corrected, photo, counted),
    }


def looks_of(picture: Picture, photo: Picture, counted: NDArray[np.bool_] | None) -> dict[str, float]:
    """MS-SSIM and FLIP of a picture, nearer to what people see than PSNR and SSIM: as it is and colour-corrected."""
    corrected = colour_corrected(picture, photo, counted)
    return {
        name.format(metric): round(measured(each, photo, counted), 4)
        for metric, measured in (("ms_ssim", ms_ssim), ("flip", flip))
        for name, each in (("{}", picture), ("cc_{}", corrected))
    }


def summary(records: list[dict[str, Any]], held_out: int) -> dict[str, Any]:
    """Means over the views, and the worst: quality only where they were held out, the cost of compression always."""
    names = [name for name in records[0] if any(metric in name for metric in ("psnr", "ssim", "flip", "unseen"))]
    worst = min(records, key=lambda record: float(record["cc_psnr"]))
    means = {name: round(float(np.mean([record[name] for record in records])), 4) for name in names}
    return {
        "views": held_out,
        "compression_loss_db": round(means["psnr"] - means["psnr_compressed"], 4),
        **{name: value if held_out else None for name, value in means.items()},
        "cc_psnr_worst": worst["cc_psnr"] if held_out else None,
        "worst_view": worst["name"] if held_out else None,
    }


def _draw(
    context: StageContext,
    views: list[View],
    shown: list[View],
    records: list[dict[str, Any]],
    counts: Counting,
    trained: Render,
    compressed: Render,
) -> dict[str, Any]:
    """Write the pictures and name them in the records; returns where the scene opens."""
    params: Params = context.params
    folder = context.output / "pictures"
    folder.mkdir()
    ranking = sorted(range(len(shown)), key=lambda i: records[i]["psnr"])
    drawn_views = sorted(_evenly(ranking, params.pictures))
    for done, i in enumerate(drawn_views):
        context.progress(done, len(drawn_views) + 1, "pictures", phase="drawing")
        photo = read_photo(inside(context.inputs["sfm"].folder / "images", shown[i]["name"]))
        size = fitted_size(*photo.size, params.picture_size)
        truth, render = resized(photo, *size), trained(shown[i], *size)
        counted = counts(shown[i], *size)
        corrected = colour_corrected(render, truth, counted)
        compared = corrected if counted is None else np.where(counted[..., None], corrected, truth)
        stem = Path(shown[i]["name"]).stem
        drawn = {"photo": truth, "render": render, "difference": difference(compared, truth)}
        for kind, picture in drawn.items():
            save(picture, folder / f"{stem}-{kind}.jpg", params.picture_size)
        records[i]["pictures"] = {kind: f"pictures/{stem}-{kind}.jpg" for kind in drawn}
    context.progress(len(drawn_views), len(drawn_views) + 1, "pictures", phase="drawing")
    with np.load(context.inputs["sfm"].folder / "points.npz") as points:
        shown_there = published_box(context.inputs).holds(points["xyz"])[points["point"]]
        index, depth = opening_view(views, points["xyz"], points["view"][shown_there], points["point"][shown_there])
    view = views[index]
    save_thumbnail(compressed(view, view["width"], view["height"]), context.output / "thumbnail.jpg")
    context.progress(len(drawn_views) + 1, len(drawn_views) + 1, "pictures", phase="drawing")
    return {"name": view["name"], "depth": round(depth, 4)}


def _evenly(items: list[Any], count: int) -> list[Any]:
    """At most that many, first and last among them, the rest evenly between."""
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[i] for i in places]
