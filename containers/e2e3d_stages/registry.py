"""The stages, in the order of the way from photos to a page."""

from __future__ import annotations

from e2e3d_stages.compress.spec import SPEC as COMPRESS
from e2e3d_stages.contract.messages import InvalidRequest
from e2e3d_stages.contract.spec import StageSpec
from e2e3d_stages.crop.spec import SPEC as CROP
from e2e3d_stages.evaluate.spec import SPEC as EVALUATE
from e2e3d_stages.export.spec import SPEC as EXPORT
from e2e3d_stages.ingest.spec import SPEC as INGEST
from e2e3d_stages.mesh.spec import SPEC as MESH
from e2e3d_stages.publish.spec import SPEC as PUBLISH
from e2e3d_stages.render.spec import SPEC as RENDER
from e2e3d_stages.sfm.spec import SPEC as SFM
from e2e3d_stages.train.spec import SPEC as TRAIN

STAGES: dict[str, StageSpec] = {
    spec.name: spec for spec in (INGEST, SFM, TRAIN, CROP, COMPRESS, EVALUATE, MESH, RENDER, EXPORT, PUBLISH)
}


def stage_named(name: str) -> StageSpec:
    """One stage.

    :raises InvalidRequest: when there is none of that name.
    """
    if name not in STAGES:
        raise InvalidRequest(f"There is no stage {name!r}.", hint=f"Choose one of {', '.join(STAGES)}.")
    return STAGES[name]
