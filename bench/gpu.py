"""Everything that needs an NVIDIA GPU, in one go: `make gpu`.

    python bench/gpu.py [--only tests,ours,…] [--minutes 8]    # more for a GPU that is slower than an H100

Checks the driver; unpacks the wheels of `.gpu-wheels/` that this Python lacks (nothing is downloaded) and compiles
gsplat's kernels; runs the tests marked `gpu`; trains the prepared sample at preset `standard`, and with gsplat's own
strategies on the same views, cap and steps; times both loops step by step. A part that fails or takes too long does not
keep the others from running. Figures go to `$OUT/gpu.json`, or `build/gpu/`, as soon as they are there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "bench"
BUILD = ROOT / "build" / "gpu"
SITE = BUILD / "site"
OUT = Path(os.environ.get("OUT") or BUILD)
WHEELS = Path(os.environ.get("GPU_WHEELS") or ROOT / ".gpu-wheels")
TESTS = "tests/stages/train"
# Seconds that each part may take at the most, of the usual minutes; more minutes give each of them more.
USUAL_MINUTES = 8
LIMITS = {"tests": 150, "ours": 150, "default": 150, "third": 90, "steps": 60, "mcmc": 150}
KERNELS_LIMIT, OTHER_LIMIT = 300, 60
TOLD = ["seconds", "loop_seconds", "iterations", "steps_per_second", "psnr", "ssim", "cc_psnr", "cc_ssim", "gaussians"]
TOLD += ["peak_gpu_memory_bytes"]
SEEN_BY_TORCH = """
import torch
capability = "{}.{}".format(*torch.cuda.get_device_capability())
print(torch.__version__, torch.version.cuda, torch.cuda.get_device_name(), capability, sep="|")
"""


class Failed(Exception):
    """A part did not do what it should; the message says how."""


def main() -> int:
    """Run the parts one after the other; 0 where all went well, 2 where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(LIMITS), help="parts, by comma, beside those that all need")
    parser.add_argument("--minutes", type=float, default=USUAL_MINUTES, help="what is not done by then is left out")
    parser.add_argument("--set", action="append", default=[], help="a parameter of the train stage, name=value")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(f"Stopped. What was measured is in {OUT / 'gpu.json'}."))
    run = Run(options.minutes, [f"--set={change}" for change in options.set])
    if not run.part("driver", run.driver):
        return 2
    for name, work in run.parts().items():
        if name in ("libraries", "kernels") or name in options.only.split(","):
            run.part(name, work)
    print("\n" + table(run.figures), flush=True)
    return int(any("failed" in figures for figures in run.figures.values()))


class Run:
    """The parts, and what they found."""

    def __init__(self, minutes: float, changes: list[str]) -> None:
        self.deadline, self.patience, self.changes = time.monotonic() + 60 * minutes, minutes / USUAL_MINUTES, changes
        self.figures: dict[str, dict[str, Any]] = {}
        self.environment = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join([str(SITE), str(ROOT / "containers"), str(BENCH)]),
            "PATH": os.pathsep.join([str(SITE / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "MAX_JOBS": os.environ.get("MAX_JOBS") or str(len(os.sched_getaffinity(0))),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        BUILD.mkdir(parents=True, exist_ok=True)
        OUT.mkdir(parents=True, exist_ok=True)

    def parts(self) -> dict[str, Any]:
        """By name, in the order in which they run: what is quick and must be right first."""
        return {
            "libraries": self.libraries,
            "kernels": self.kernels,
            "tests": self.tests,
            **{name: lambda name=name: self.train(name) for name in LIMITS if name != "tests"},
        }

    def part(self, name: str, work: Any) -> bool:
        """Run one and note what it found, or how it failed."""
        print(f"\n== {name}", flush=True)
        started = time.monotonic()
        try:
            self.figures[name] = work() or {}
        except (Failed, OSError, ValueError, IndexError) as error:
            self.figures[name] = {"failed": str(error)}
            print(f"{name} failed: {error}", flush=True)
        self.figures[name]["part_seconds"] = round(time.monotonic() - started, 1)
        (OUT / "gpu.json").write_text(json.dumps(self.figures, indent=1) + "\n")
        print(f"== {name}: {json.dumps(self.figures[name])}", flush=True)
        return "failed" not in self.figures[name]

    def driver(self) -> dict[str, Any]:
        """The GPU, as the driver and torch see it."""
        if shutil.which("nvidia-smi") is None:
            raise Failed("There is no nvidia-smi, so no NVIDIA driver: make gpu needs a machine with a CUDA GPU.")
        query = "name,driver_version,memory.total,compute_cap"
        print(self.call("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", limit=OTHER_LIMIT).strip())
        told = self.call(sys.executable, "-c", SEEN_BY_TORCH, limit=OTHER_LIMIT).strip().splitlines()[-1].split("|")
        self.environment.setdefault("TORCH_CUDA_ARCH_LIST", told[3])
        return {"torch": told[0], "cuda": told[1], "gpu": told[2], "python": sys.version.split()[0]}

    def libraries(self) -> dict[str, Any]:
        """Those wheels whose library this Python lacks, and always gsplat, whose kernels go beside it."""
        chosen = [wheel for wheel in sorted(WHEELS.glob("*.whl")) if lacks(wheel)]
        if chosen:
            shutil.rmtree(SITE, ignore_errors=True)
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
            self.call(*pip, "--target", str(SITE), *map(str, chosen), limit=OTHER_LIMIT)
        self.call(
            sys.executable, "-c", "import pydantic, numba, PIL, torch, e2e3d_stages.runtime.context", limit=OTHER_LIMIT
        )
        return {"unpacked": [wheel.name.partition("-")[0] for wheel in chosen]}

    def kernels(self) -> None:
        """gsplat's, compiled unless they were before."""
        self.show(sys.executable, str(BENCH / "gpu_kernels.py"), str(BUILD / "kernels"), limit=KERNELS_LIMIT)

    def tests(self) -> None:
        """Those that need a GPU, without the configuration of the others, which need Airflow and more."""
        pytest = [sys.executable, "-m", "pytest", "-p", "pytest_timeout", "-p", "no:cacheprovider", "-v", "-s"]
        self.show(*pytest, "-m", "gpu", f"--confcutdir={TESTS}", TESTS, limit=LIMITS["tests"])

    def train(self, what: str) -> dict[str, Any]:
        """One training, or the timing of steps, in a process of its own."""
        sfm, result = BUILD / "sfm", BUILD / f"{what}.json"
        if not sfm.exists():
            code = "from pathlib import Path; from prepared import write_artifact; write_artifact(Path(r'{}'))"
            self.call(sys.executable, "-c", code.format(sfm), limit=OTHER_LIMIT)
        limit = LIMITS[what]
        # It ends by itself before that; where it can, with figures of how far it came.
        inner = ["--limit", str(self.patience * limit - 30), *self.changes]
        self.show(sys.executable, str(BENCH / "gpu_training.py"), what, str(sfm), str(result), *inner, limit=limit)
        if what == "ours" and OUT != BUILD:
            shutil.copy(BUILD / "ours.jpg", OUT)
        figures: dict[str, Any] = json.loads(result.read_text())
        return figures

    def show(self, *command: str, limit: float) -> None:
        """Run a command that prints as it goes."""
        self._run(command, limit, stdout=None)

    def call(self, *command: str, limit: float) -> str:
        """Run a command and return what it prints."""
        return self._run(command, limit, stdout=subprocess.PIPE)

    def _run(self, command: tuple[str, ...], limit: float, stdout: int | None) -> str:
        limit = min(limit * self.patience, self.deadline - time.monotonic())
        if limit <= 1:
            raise Failed("There was no time left for it.")
        process = subprocess.Popen(
            command, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=stdout,
            stderr=None if stdout is None else subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            told = process.communicate(timeout=limit)[0] or ""
        except BaseException as error:
            # With all that it started, or a compiler would go on beside the next part.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise Failed(f"It took more than {limit:.0f} s.") from error
            raise
        if process.returncode:
            raise Failed(f"{Path(command[0]).name} ended with status {process.returncode}. {told[-1500:]}")
        return told


def lacks(wheel: Path) -> bool:
    """Whether this Python lacks the wheel's library or has an older one; gsplat, for its kernels, is taken anyway."""
    name, version = wheel.name.split("-")[:2]
    try:
        return name == "gsplat" or numbers(metadata.version(name)) < numbers(version)
    except metadata.PackageNotFoundError:
        return True


def numbers(version: str) -> list[int]:
    """A version's first numbers, to compare."""
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def table(figures: dict[str, dict[str, Any]]) -> str:
    """What a person wants to see, ours beside gsplat's."""
    columns = [name for name in ("ours", "third", "default", "mcmc") if name in figures]
    lines = ["".join([f"{'':24}", *(f"{name:>16}" for name in columns)])]
    lines += ["".join([f"{row:24}", *(f"{figures[name].get(row, '-')!s:>16}" for name in columns)]) for row in TOLD]
    for name, found in figures.items():
        if "failed" in found:
            lines.append(f"{name} FAILED: {found['failed'][:300]}")
    if "steps" in figures:
        lines.append(f"loops at the same Gaussians, steps/s: {json.dumps(figures['steps'])}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
