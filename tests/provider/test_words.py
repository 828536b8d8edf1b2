"""Words of failure: each says what a person does next, in the words of the form."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_e2e3d.exceptions import QualityGateFailed, stage_failed
from airflow_provider_e2e3d.pipelines.form import reconstruction_params
from airflow_provider_e2e3d.pipelines.reconstruct import refuse_unknown
from airflow_provider_e2e3d.scenes.outcome import Reason
from e2e3d_stages.contract.messages import Failure, FailureCode, InvalidRequest, StageError
from e2e3d_stages.registry import STAGES
from tests.conftest import ROOT

ERRORS: list[type[StageError]] = [StageError, *StageError.__subclasses__()]
KINDS = {"QualityGateFailed", "Unavailable", *(kind.__name__ for kind in ERRORS)}
FILES = sorted([*(ROOT / "airflow_provider_e2e3d").rglob("*.py"), *(ROOT / "containers/e2e3d_stages").rglob("*.py")])


def raised(file: Path) -> Iterator[ast.Call]:
    """Failures that a file makes."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
            yield node


def words(node: ast.AST) -> str:
    """Every piece of text in an expression."""
    return " ".join(str(part.value) for part in ast.walk(node) if isinstance(part, ast.Constant))


def test_every_failure_says_what_to_do() -> None:
    found = [(file, call) for file in FILES for call in raised(file)]
    assert len(found) > 100
    silent = [f"{file}:{call.lineno}" for file, call in found if "hint" not in {word.arg for word in call.keywords}]
    assert silent == []


def test_hints_of_the_stages_name_fields_as_the_form_does(profiles: Path) -> None:
    form = set(reconstruction_params())
    fields = {name: stage for stage in STAGES.values() for name in stage.params.model_fields if "_" in name}
    for file in FILES:
        for call in raised(file) if "e2e3d_stages" in file.parts else ():
            hint = " ".join(words(word.value) for word in call.keywords if word.arg == "hint")
            for name in re.findall(r"[a-z]+(?:_[a-z]+)+", hint):
                assert name in form or name not in fields, f"{file}:{call.lineno} {name}"


def test_the_log_of_a_failed_task_ends_with_the_reason_and_what_to_do() -> None:
    told = stage_failed(
        Failure(code=FailureCode.OUT_OF_MEMORY, message="Memory ran out.", hint="Choose a smaller preset.")
    )
    assert str(told) == "Memory ran out. Choose a smaller preset."
    gate = QualityGateFailed("Only 2 of 10 photos could be placed.", hint="Take more photos.")
    assert str(gate) == "Only 2 of 10 photos could be placed.\nTake more photos."
    assert str(Reason.of("sfm", gate)) == ("Only 2 of 10 photos could be placed. Take more photos. (sfm, quality_gate)")


def test_a_name_that_is_misspelt_is_told_with_the_right_one(profiles: Path) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        refuse_unknown(["train_iteration"], reconstruction_params())
    assert refusal.value.hint == "Did you mean train_iterations?"
