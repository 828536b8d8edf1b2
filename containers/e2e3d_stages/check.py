"""`python -m e2e3d_stages check`: tries what stages need on something tiny; the last step of every image."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from e2e3d_stages.contract.messages import StageError, StageName


def check(stages: Iterable[StageName]) -> int:
    """Print one line a stage; the exit status is 1 when one of them cannot run here."""
    broken = False
    for stage in stages:
        try:
            print(f"{stage}: {import_module(f'e2e3d_stages.{stage}.check').check()}", flush=True)
        except Exception as error:
            hint = f" {error.hint}" if isinstance(error, StageError) else ""
            print(f"{stage} cannot run here: {type(error).__name__}: {error}{hint}", flush=True)
            broken = True
    return int(broken)
