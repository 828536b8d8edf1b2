"""Whether scenes can be cropped here."""

from __future__ import annotations

from e2e3d_stages.crop.finding import floating
from e2e3d_stages.runtime.checks import versions
from e2e3d_stages.splats.sample import cloud


def check() -> str:
    """What hangs together."""
    floating(cloud())
    return versions("scipy")
