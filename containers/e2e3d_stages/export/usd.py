"""Gaussians in OpenUSD: the schema ParticleField3DGaussianSplat, OpenUSD 26.03 and later."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pxr import Gf, Usd, UsdGeom, UsdVol, Vt

from e2e3d_stages.splats.gaussians import Gaussians


def write_usd(path: Path, gaussians: Gaussians, metric: bool) -> None:
    """A binary stage with the Gaussians below a transform that turns the scene's frame (y down) y up.

    :param metric: whether the scene's unit is a metre.
    """
    stage = Usd.Stage.CreateNew(str(path))
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    if metric:
        UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    root = UsdGeom.Xform.Define(stage, "/scene")
    root.AddRotateXOp().Set(180.0)
    stage.SetDefaultPrim(root.GetPrim())
    splats = UsdVol.ParticleField3DGaussianSplat.Define(stage, "/scene/gaussians")
    quats = gaussians.quats / np.linalg.norm(gaussians.quats, axis=1, keepdims=True)
    values = {
        "positions": Vt.Vec3fArray.FromNumpy(gaussians.means),
        # Vt has the real part last.
        "orientations": Vt.QuatfArray.FromNumpy(np.ascontiguousarray(np.roll(quats, -1, axis=1), np.float32)),
        "scales": Vt.Vec3fArray.FromNumpy(np.exp(gaussians.scales)),
        "opacities": Vt.FloatArray.FromNumpy(1 / (1 + np.exp(-gaussians.opacities))),
        "radiance:sphericalHarmonicsDegree": gaussians.sh_degree,
        "radiance:sphericalHarmonicsCoefficients": Vt.Vec3fArray.FromNumpy(
            np.ascontiguousarray(gaussians.sh.reshape(-1, 3))
        ),
        "extent": Vt.Vec3fArray(
            [Gf.Vec3f(*map(float, gaussians.means.min(0))), Gf.Vec3f(*map(float, gaussians.means.max(0)))]
        ),
    }
    for name, value in values.items():
        splats.GetPrim().GetAttribute(name).Set(value)
    stage.Save()
