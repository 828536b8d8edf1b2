"""The figures that people compare, each declared once.

The gallery, a result, a comparison, the report, notifications, a batch's page and the demo iterate over these rows;
none of them names a figure's facts by itself. To add one, let a stage measure it and add a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from e2e3d_stages.contract.formatting import Format, formatted

# By stage, as their manifests have them.
Metrics = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Figure:
    """One number that tells how good a scene is, or what it took.

    :param name: its key in a run's record: in `metrics`, or at the top for a figure of the whole run.
    :param label: as people read it.
    :param format: how its value reads.
    :param better: which way is better, where either is.
    :param stage: the stage that measures it; None for a figure of the whole run.
    :param read: the value in the stages' metrics; by its own name in those of its stage when not given.
    :param over: the key of the number of photos that it is a mean over.
    :param whole: the key of the number that it is a part of, shown as `33 of 40`.
    :param phrase: what it reads like in a sentence.
    :param shown: whether people see it: a few are for programs that read `run.json`.
    :param card: whether a card in the gallery has room for it.
    """

    name: str
    label: str
    format: Format
    better: Literal["more", "less"] | None = None
    stage: str | None = None
    read: Callable[[Metrics], Any] | None = None
    over: str = ""
    whole: str = ""
    phrase: str = "{}"
    shown: bool = True
    card: bool = False

    def of_metrics(self, metrics: Metrics) -> Any:
        """Its value in the stages' metrics; None where it was not measured."""
        if self.stage is None or self.stage not in metrics:
            return None
        return self.read(metrics) if self.read else metrics[self.stage].get(self.name)

    def of_record(self, record: Mapping[str, Any]) -> Any:
        """Its value in a run's record; None where it was not measured."""
        return (record.get("metrics", {}) if self.stage else record).get(self.name)

    def text(self, record: Mapping[str, Any]) -> str:
        """Its value in a run's record as people read it."""
        value = formatted(self.of_record(record), self.format)
        whole = record.get("metrics", {}).get(self.whole) if self.whole else None
        return value if whole is None else f"{value} of {formatted(whole, self.format)}"

    def declared(self) -> dict[str, Any]:
        """What the pages in a browser need to show it."""
        names = ("name", "label", "format", "better", "stage", "over", "whole", "card")
        return {name: getattr(self, name) for name in names}


def _placed(metrics: Metrics) -> Any:
    return metrics["sfm"].get("photos_supported")


def _uploaded(metrics: Metrics) -> Any:
    """Photos that were uploaded, also those that ingest dropped; texts and side files are none."""
    ingest = metrics.get("ingest", {})
    return ingest["files_given"] - ingest.get("other_files", 0) if "files_given" in ingest else None


PHOTOS = Figure("photos", "Photos", "count", stage="ingest", phrase="{} photos", shown=False)
UPLOADED = Figure("photos_uploaded", "Photos uploaded", "count", stage="ingest", read=_uploaded, shown=False)
PLACED = Figure(
    "photos_placed",
    "Photos placed",
    "count",
    "more",
    stage="sfm",
    read=_placed,
    whole="photos_uploaded",
    phrase="{} photos placed",
    card=True,
)
PSNR = Figure("psnr", "PSNR", "decibels", "more", stage="evaluate", over="views", phrase="PSNR {}", card=True)
SSIM = Figure("ssim", "SSIM", "ratio", "more", stage="evaluate", over="views", phrase="SSIM {}")
# Of the render after its colours were fitted to the photo's: wrong light tells nothing of detail.
CC_PSNR = Figure("cc_psnr", "PSNR colour-corrected", "decibels", "more", stage="evaluate", over="views", card=True)
CC_SSIM = Figure("cc_ssim", "SSIM colour-corrected", "ratio", "more", stage="evaluate", over="views")
WORST = Figure("cc_psnr_worst", "Worst photo's PSNR colour-corrected", "decibels", "more", stage="evaluate")
# Nearer to what people see; of learned measures no weights travel with us.
MS_SSIM = Figure("cc_ms_ssim", "MS-SSIM colour-corrected", "ratio", "more", stage="evaluate", over="views")
FLIP = Figure("cc_flip", "FLIP colour-corrected", "ratio", "less", stage="evaluate", over="views")
UNSEEN = Figure("unseen", "Unseen share of held-out photos", "ratio", stage="evaluate", over="views")
GAUSSIANS = Figure("gaussians", "Gaussians", "count", stage="train", phrase="{} Gaussians")
SIZE = Figure("sog_bytes", "Size", "bytes", "less", stage="compress", card=True)
TRIANGLES = Figure("triangles", "Triangles", "count", stage="mesh", phrase="{} triangles", shown=False)
SECONDS = Figure("seconds", "Time", "seconds", "less", card=True)
PRICE = Figure("price", "Cost", "dollars", "less", card=True)
VIEWS = Figure("views", "Held-out photos", "count", stage="evaluate", shown=False)
AT_OTHER_SIZES = tuple(
    Figure(f"{figure.name}_{size}", f"{figure.label} {words}", figure.format, "more", stage="evaluate", shown=False)
    for size, words in (("400", "at 400 px"), ("full", "at full size"))
    for figure in (PSNR, SSIM, CC_PSNR, CC_SSIM)
)
LOOKS_AS_DRAWN = (
    Figure("ms_ssim", "MS-SSIM", "ratio", "more", stage="evaluate", over="views", shown=False),
    Figure("flip", "FLIP", "ratio", "less", stage="evaluate", over="views", shown=False),
)
LOSS = Figure("compression_loss_db", "Lost by compression", "decibels", "less", stage="evaluate", shown=False)

FIGURES: tuple[Figure, ...] = (
    *(PHOTOS, UPLOADED, PLACED, PSNR, CC_PSNR, SSIM, CC_SSIM, MS_SSIM, FLIP, WORST, UNSEEN),
    *(GAUSSIANS, SIZE, SECONDS, PRICE),
    *(VIEWS, *LOOKS_AS_DRAWN, *AT_OTHER_SIZES, LOSS, TRIANGLES),
)
SHOWN = tuple(figure for figure in FIGURES if figure.shown)
# Where there is room for a few.
CARD = tuple(figure for figure in SHOWN if figure.card)


def key_metrics(metrics: Metrics) -> dict[str, Any]:
    """The figures of a run's record, by name: those of the stages that are there, None where one was not measured."""
    return {figure.name: figure.of_metrics(metrics) for figure in FIGURES if figure.stage in metrics}


def lines(record: Mapping[str, Any], among: Iterable[Figure] = SHOWN) -> dict[str, str]:
    """Label and text of every figure that people see and that is known, of a run's record."""
    return {figure.label: figure.text(record) for figure in among if figure.of_record(record) is not None}
