"""Publishing: everything becomes a page and a report."""

from __future__ import annotations

from e2e3d_stages.contract.spec import Deliverable, Limit, StageSpec
from e2e3d_stages.publish.params import PRESETS, Params

PAGE, REPORT, THUMBNAIL = "index.html", "report.html", "thumbnail.jpg"
# The page of a scene that has levels of detail; PAGE leads to it wherever it can load them.
STREAMED_PAGE = "streamed.html"
# The page of a scene that has a mesh.
MESH_PAGE = "mesh.html"

SPEC = StageSpec(
    name="publish",
    label="Page",
    work="Publish the page",
    about="The viewer, the report and the files, under scenes/<scene>/<run>/.",
    inputs=("ingest", "sfm", "train", "compress", "evaluate"),
    container="compressor",
    version=3,
    params=Params,
    presets=PRESETS,
    longest=Limit(seconds=3_600),
    deliverables=(
        Deliverable(PAGE, "the page, to keep or to send"),
        Deliverable(REPORT, "the report, to keep or to send"),
        Deliverable(THUMBNAIL),
        Deliverable(STREAMED_PAGE),
        Deliverable(MESH_PAGE, "the mesh beside the scene, to keep or to send"),
    ),
    filled=frozenset({"title"}),
    optional_inputs=("crop", "mesh", "render", "export"),
)
