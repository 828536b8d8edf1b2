"""The report: what a person wants to know of a scene, from the manifests and files of the stages that made it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from e2e3d_stages.contract.messages import Advice
from e2e3d_stages.contract.pages import rendered
from e2e3d_stages.contract.paths import inside
from e2e3d_stages.publish.curve import training_curve
from e2e3d_stages.publish.photos import data_uri, photo_facts, source_names
from e2e3d_stages.publish.plans import plans
from e2e3d_stages.publish.spec import SPEC
from e2e3d_stages.runtime.context import InputArtifact
from e2e3d_stages.splats.views import in_metres

# A photo that differs more from the mean is named; of many those that differ most.
NOTABLE_EV, MOST_NOTABLE = 0.5, 8
# What is shown as a difference at all.
SEEN_EV = 0.1

TEMPLATES = Path(__file__).parent / "templates"
SIZES = (("", "as trained"), ("_400", "for comparison"), ("_full", "as photographed"))
KINDS = ("{}{}", "{}{}_compressed", "baseline_{}{}")
METRICS = (("", "psnr", "ssim"), ("colour-corrected", "cc_psnr", "cc_ssim"))


def report_page(title: str, inputs: Mapping[str, InputArtifact], warnings: Sequence[Advice] = ()) -> str:
    """The whole report as one HTML page with its pictures inside.

    :param title: the scene's name, any text.
    :param inputs: the artifacts of all stages before this one, by stage.
    :param warnings: this stage's own.
    """
    return rendered(TEMPLATES / "report.html", **facts(title, inputs, warnings))


def facts(title: str, inputs: Mapping[str, InputArtifact], warnings: Sequence[Advice]) -> dict[str, Any]:
    """Everything that the template shows."""
    manifests = {stage: artifact.manifest for stage, artifact in inputs.items()}
    evaluation = _json(inputs["evaluate"].folder / "evaluation.json")
    training = _json(inputs["train"].folder / "training.json")
    views = _json(inputs["sfm"].folder / "views.json")
    names = source_names(inputs)
    told = [(stage, advice) for stage, manifest in manifests.items() for advice in manifest.warnings]
    return {
        "title": title,
        "thumbnail": _picture(inputs["evaluate"].folder / "thumbnail.jpg"),
        "finished": max(manifest.usage.finished for manifest in manifests.values()),
        "photos": photo_facts(inputs),
        "sfm": manifests["sfm"].metrics,
        "train": manifests["train"].metrics,
        "quality": manifests["evaluate"].metrics,
        "held_out": evaluation["basis"] == "held-out",
        "counted": [view["counted"] for view in evaluation["views"] if "counted" in view],
        "comparisons": _comparisons(evaluation, manifests["evaluate"].metrics, views),
        "views": _views(evaluation, inputs["evaluate"].folder, names),
        "light": _light(training["light"] or (), names),
        "curve": training_curve(training["curve"]),
        "resumed_from": training["resumed_from"],
        "plans": plans(inputs["sfm"].folder, set(training["holdout"]), names) if views else None,
        "metric": in_metres(inputs["sfm"]),
        "crop": manifests.get("crop"),
        "mesh": _mesh(inputs),
        "files": _files(inputs),
        "others": _others(inputs),
        "compress": manifests["compress"].metrics,
        "work": {spec.name: spec.work for spec in (*(artifact.spec for artifact in inputs.values()), SPEC)},
        "stages": {stage: manifest.facts() for stage, manifest in manifests.items()},
        "warnings": [*told, *(("publish", advice) for advice in warnings)],
        "manifests": manifests,
        "digests": {stage: artifact.digest for stage, artifact in inputs.items()},
    }


def _views(evaluation: dict[str, Any], folder: Path, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Every view that was measured, under the name that its photo has in the capture; some with pictures."""
    return [
        {
            **view,
            "name": names.get(view["name"], view["name"]),
            "pictures": {kind: _picture(inside(folder, path)) for kind, path in view.get("pictures", {}).items()},
        }
        for view in evaluation["views"]
    ]


def _light(light: Sequence[dict[str, Any]], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """How each photo differs from the mean light, in words; the few that stand out are notable."""
    most = sorted((abs(photo["ev"]) for photo in light), reverse=True)[:MOST_NOTABLE]
    return [
        {
            "name": names.get(photo["name"], photo["name"]),
            "words": light_words(photo["ev"], photo["warmer_ev"]),
            "notable": abs(photo["ev"]) >= max(NOTABLE_EV, most[-1]),
        }
        for photo in light
    ]


def light_words(ev: float, warmer_ev: float) -> str:
    """A photo's light against the mean: `0.8 EV darker and colder`."""
    words = [f"{abs(ev):.1f} EV {'brighter' if ev > 0 else 'darker'}"] if abs(ev) >= SEEN_EV else []
    words += ["warmer" if warmer_ev > 0 else "colder"] if abs(warmer_ev) >= SEEN_EV else []
    return " and ".join(words) or "the same"


def _comparisons(
    evaluation: dict[str, Any], metrics: dict[str, Any], views: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The figures at each size at which the held-out photos were compared, as drawn and colour-corrected.

    A size that comes twice is shown once.
    """
    if evaluation["basis"] != "held-out":
        return []
    full = max(max(view["width"], view["height"]) for view in views)
    rows: dict[int, dict[str, Any]] = {}
    for (suffix, label), size in zip(SIZES, (min(evaluation["long_side"], full), min(400, full), full), strict=True):
        lines = {
            words: [(metrics[kind.format(psnr, suffix)], metrics[kind.format(ssim, suffix)]) for kind in KINDS]
            for words, psnr, ssim in METRICS
        }
        rows.setdefault(size, {"size": size, "label": label, "lines": lines})
    return list(rows.values())


def _files(inputs: Mapping[str, InputArtifact]) -> list[dict[str, Any]]:
    """The scene's formats, smallest first, with the PSNR in dB that each costs where that was measured."""
    loss = {
        "scene.sog": inputs["evaluate"].manifest.metrics["compression_loss_db"],
        "scene.ply": 0.0,
        "cropped.ply": 0.0,
    }
    found = [
        {"name": file.path, "use": each.use, "file": file, "loss": loss.get(file.path)}
        for artifact in inputs.values()
        for each in artifact.spec.deliverables
        for file in artifact.manifest.files
        if each.format_of_scene and each.holds(file.path)
    ]
    return sorted(found, key=lambda entry: entry["file"].size)


def _mesh(inputs: Mapping[str, InputArtifact]) -> dict[str, Any] | None:
    """A mesh's figures and picture; None where none was asked for."""
    if "mesh" not in inputs:
        return None
    made = inputs["mesh"]
    return {
        **made.manifest.metrics,
        "picture": _picture(made.folder / "mesh.jpg"),
    }


def _others(inputs: Mapping[str, InputArtifact]) -> list[dict[str, Any]]:
    """The files for other programs than viewers of Gaussians, in the order of the stages."""
    return [
        {"name": file.path, "use": each.use, "file": file}
        for artifact in inputs.values()
        for each in artifact.spec.deliverables
        for file in artifact.manifest.files
        if each.use and not each.format_of_scene and each.holds(file.path)
    ]


def _picture(path: Path) -> str:
    return data_uri(path.read_bytes())


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
