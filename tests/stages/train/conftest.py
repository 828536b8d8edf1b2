"""Scenes and jobs for the tests of the train stage."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[3] / "bench"))

from synthetic import FakeJob, write_sfm

from e2e3d_stages.splats import rasterizer
from e2e3d_stages.train import stage

# On pictures this small torch's threads take more than they give, and another worker of pytest wants the core.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def sfm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An `sfm` artifact of 9 small photos."""
    return write_sfm(tmp_path_factory.mktemp("sfm") / "files")


@pytest.fixture
def make_job(sfm: Path, tmp_path: Path) -> Callable[..., FakeJob]:
    """A job on the small scene with some parameters changed; every call shares the checkpoints."""
    return lambda **params: FakeJob(params.pop("sfm", sfm), tmp_path, **params)


@pytest.fixture
def cuda() -> torch.device:
    """A GPU, or a visible skip."""
    if not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA GPU")
    return torch.device("cuda")


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], Any]:
    """`with cpu(True):` trains and draws on the CPU, GPU or not."""

    @contextmanager
    def only(chosen: bool) -> Iterator[None]:
        with monkeypatch.context() as patch:
            for module in (rasterizer, stage) if chosen else ():
                patch.setattr(module, "best_device", lambda: torch.device("cpu"))
            yield

    return only
