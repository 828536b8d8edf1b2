"""Makes the pages of a scene: the viewer with the scene inside, and the report."""

from __future__ import annotations

import json
import shutil
from typing import Any

from e2e3d_stages.contract.formatting import as_size
from e2e3d_stages.contract.messages import StageError
from e2e3d_stages.publish.params import Params
from e2e3d_stages.publish.report import report_page
from e2e3d_stages.publish.spec import MESH_PAGE, PAGE, REPORT, STREAMED_PAGE, THUMBNAIL
from e2e3d_stages.publish.viewer_page import mesh_page, streamed_page, viewer_page, viewer_settings
from e2e3d_stages.runtime.context import StageContext
from e2e3d_stages.splats import streamed

NOTABLE_PAGE_BYTES = 100e6


def run(context: StageContext) -> dict[str, Any]:
    """Write index.html, report.html and thumbnail.jpg; streamed.html for levels of detail, mesh.html for a mesh.

    :raises StageError: when the viewer is not in this installation.
    """
    params: Params = context.params
    evaluated = context.inputs["evaluate"].folder
    opening = json.loads((evaluated / "evaluation.json").read_text(encoding="utf-8"))["opening_view"]
    views = json.loads((context.inputs["sfm"].folder / "views.json").read_text(encoding="utf-8"))
    view = next((view for view in views if view["name"] == opening["name"]), None)
    if view is None:
        raise StageError(
            f"The opening view {opening['name']} is not among sfm's views.",
            hint="Trigger again with evaluate under Re-run stages (force).",
        )
    compressed = context.inputs["compress"].folder
    settings = viewer_settings(view, opening["depth"])
    has_levels = (compressed / streamed.FOLDER / streamed.META).is_file()
    has_mesh = "mesh" in context.inputs

    context.progress(0, 2, "pages")
    if has_levels:
        levels = compressed / streamed.FOLDER
        sog = streamed.level_in_one_file(levels).read_bytes()
        first = streamed.first_shown(levels).name
        leading = streamed_page(params.title, first, settings, has_mesh=has_mesh)
        (context.output / STREAMED_PAGE).write_text(leading, encoding="utf-8")
    else:
        sog = (compressed / "scene.sog").read_bytes()
    page = viewer_page(params.title, sog, settings, has_levels=has_levels, has_mesh=has_mesh)
    advice = "Set stream_above of the compress stage, or lower max_gaussians of the train stage."
    page_bytes = _write_page(context, PAGE, page, advice)
    if has_mesh:
        glb = (context.inputs["mesh"].folder / "mesh.glb").read_bytes()
        advice = "Lower max_faces of the mesh stage."
        _write_page(context, MESH_PAGE, mesh_page(params.title, sog, glb, settings), advice)
    context.progress(1, 2, "pages")
    report = report_page(params.title, context.inputs, context.warnings).encode()
    (context.output / REPORT).write_bytes(report)
    shutil.copyfile(evaluated / THUMBNAIL, context.output / THUMBNAIL)
    context.progress(2, 2, "pages")
    return {
        "page_bytes": page_bytes,
        "report_bytes": len(report),
        "opening_view": view["name"],
        "warnings": sum(len(artifact.manifest.warnings) for artifact in context.inputs.values()),
    }


def _write_page(context: StageContext, name: str, page: str, advice: str) -> int:
    """Write a page; returns its size in bytes.

    :param advice: what to do against one that is too large.
    """
    data = page.encode()
    (context.output / name).write_bytes(data)
    if len(data) > NOTABLE_PAGE_BYTES:
        context.warn("large_page", f"The page {name} has {as_size(len(data))}: phones may fail to open it.", advice)
    return len(data)
