"""The report of one run: what its artifact cannot know is filled in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from e2e3d_stages.contract.pages import fill_slots, rendered
from e2e3d_stages.registry import STAGES

_TEMPLATES = Path(__file__).parent / "templates"
# Each is a template here, and a slot of the page.
_SLOTS = ("run_card", "run")


def with_run(page: str, record: Mapping[str, Any]) -> str:
    """The report with the facts of one run where the artifact has those of its making.

    :param record: from `record.record_of`.
    """
    work = {name: spec.work for name, spec in STAGES.items()}
    return fill_slots(page, {slot: rendered(_TEMPLATES / f"{slot}.html", run=record, work=work) for slot in _SLOTS})
