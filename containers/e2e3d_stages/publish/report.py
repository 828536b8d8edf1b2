"""The report: what a person wants to know of a scene, from the manifests and files of the stages that made it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from e2e3d_stages.contract import Manifest
from e2e3d_stages.publish.drawings import plan, training_curve
from e2e3d_stages.runtime import InputArtifact

TEMPLATES = Path(__file__).parent / "templates"
STAGE_WORK = {
    "ingest": "Prepare the photos",
    "sfm": "Find the cameras",
    "train": "Train the scene",
    "compress": "Compress",
    "evaluate": "Measure",
}
FORMATS = {
    "scene.sog": "for the web viewer",
    "scene.spz": "for other viewers",
    "scene.ply": "uncompressed, for editing",
}
SIZES = (("", "as trained"), ("_400", "for comparison"), ("_full", "as photographed"))
KINDS = ("psnr{}", "psnr{}_compressed", "baseline_psnr{}")


def report_page(title: str, inputs: Mapping[str, InputArtifact]) -> str:
    """The whole report as one HTML page with its pictures inside.

    :param title: the scene's name, any text.
    :param inputs: the artifacts of all stages before this one, by stage.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": as_size, "duration": as_duration, "count": as_count, "figure": as_figure}
    return environment.get_template("report.html").render(facts(title, inputs))


def facts(title: str, inputs: Mapping[str, InputArtifact]) -> dict[str, Any]:
    """Everything that the template shows."""
    manifests = {stage: artifact.manifest for stage, artifact in inputs.items()}
    evaluation = _json(inputs["evaluate"].folder / "evaluation.json")
    training = _json(inputs["train"].folder / "training.json")
    views = _json(inputs["sfm"].folder / "views.json")
    with np.load(inputs["sfm"].folder / "points.npz") as points:
        drawing = plan(points["xyz"], points["rgb"], views, set(training["holdout"]))
    return {
        "title": title,
        "thumbnail": _data_uri(inputs["evaluate"].folder / "thumbnail.jpg"),
        "finished": max(manifest.usage.finished for manifest in manifests.values()),
        "photos": _photos(inputs),
        "sfm": manifests["sfm"].metrics,
        "train": manifests["train"].metrics,
        "quality": manifests["evaluate"].metrics,
        "held_out": evaluation["basis"] == "held-out",
        "comparisons": _comparisons(evaluation, manifests["evaluate"].metrics, views),
        "pictures": [
            {
                **view,
                "pictures": {
                    kind: _data_uri(inputs["evaluate"].folder / path) for kind, path in view["pictures"].items()
                },
            }
            for view in evaluation["views"]
            if "pictures" in view
        ],
        "curve": training_curve(training["curve"]),
        "resumed_from": training["resumed_from"],
        "plan": drawing,
        "files": _files(manifests),
        "compress": manifests["compress"].metrics,
        "stages": _stages(manifests),
        "total_seconds": sum(manifest.usage.wall_seconds for manifest in manifests.values()),
        "warnings": [
            (STAGE_WORK[stage], advice) for stage, manifest in manifests.items() for advice in manifest.warnings
        ],
        "capture": manifests["ingest"].capture,
        "digests": {stage: artifact.digest for stage, artifact in inputs.items()},
    }


def _photos(inputs: Mapping[str, InputArtifact]) -> dict[str, Any]:
    """How many photos were given and used, and why the others were not."""
    prepared = _json(inputs["ingest"].folder / "photos.json")
    source = {photo["name"]: photo["source"] for photo in prepared["photos"]}
    placed = _json(inputs["sfm"].folder / "photos.json")
    unused = [(item["source"], item["detail"] or item["reason"]) for item in prepared["dropped"]]
    unused += [
        (source.get(photo["name"], photo["name"]), photo["reason"] or "too little in common with the others")
        for photo in placed
        if not photo["supported"]
    ]
    return {
        "given": len(placed) + sum(item["reason"] != "not_a_photo" for item in prepared["dropped"]),
        "registered": sum(photo["registered"] for photo in placed),
        "used": sum(photo["supported"] for photo in placed),
        "unused": unused,
    }


def _comparisons(evaluation: dict[str, Any], metrics: dict[str, Any], views: list[dict[str, Any]]) -> list[dict]:
    """One row for each size at which the held-out photos were compared; a size that comes twice is shown once."""
    if evaluation["basis"] != "held-out":
        return []
    full = max(max(view["width"], view["height"]) for view in views)
    rows: dict[int, dict[str, Any]] = {}
    for (suffix, label), size in zip(SIZES, (min(evaluation["long_side"], full), min(400, full), full), strict=True):
        names = [kind.format(suffix) for kind in KINDS]
        figures = [(metrics[name], metrics[name.replace("psnr", "ssim")]) for name in names]
        rows.setdefault(size, {"size": size, "label": label, "figures": figures})
    return list(rows.values())


def _files(manifests: Mapping[str, Manifest]) -> list[dict[str, Any]]:
    """The scene's formats, smallest first."""
    stored = {file.path: file for stage in ("train", "compress") for file in manifests[stage].files}
    found = [{"name": name, "use": use, "file": stored[name]} for name, use in FORMATS.items() if name in stored]
    return sorted(found, key=lambda entry: entry["file"].size)


def _stages(manifests: Mapping[str, Manifest]) -> list[dict[str, Any]]:
    longest = max(manifest.usage.wall_seconds for manifest in manifests.values())
    return [
        {
            "name": stage,
            "work": STAGE_WORK[stage],
            "manifest": manifest,
            "share": manifest.usage.wall_seconds / longest if longest else 0,
        }
        for stage, manifest in manifests.items()
    ]


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _data_uri(path: Path) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()


def as_size(count: float) -> str:
    """Bytes in the unit that reads best: 2 MB, 513 kB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}" if count < 1000 * scale else f"{count / scale:,.0f} {unit}"
    return f"{count:.0f} B"


def as_duration(seconds: float) -> str:
    """Seconds in words that fit a table: 8.2 s, 4 min 10 s, 2 h 5 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def as_count(number: float) -> str:
    """A whole number with separators."""
    return f"{number:,.0f}"


def as_figure(number: float | None, digits: int = 2) -> str:
    """A figure, or a dash where nothing was measured."""
    return "–" if number is None else f"{number:.{digits}f}"
