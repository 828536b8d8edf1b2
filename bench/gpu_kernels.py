"""Compiles gsplat's CUDA kernels for this machine's GPU, where the `3dgs` image has them: as the module `gsplat.csrc`.

    python bench/gpu_kernels.py FOLDER

What was compiled stays in FOLDER and is taken from there the next time. gsplat would compile by itself at its first
use, in silence and wherever the home directory is.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path


def main(folder: Path) -> None:
    """Put the module beside gsplat's Python code, and try whether it loads."""
    import torch

    (gsplat,) = map(Path, importlib.util.find_spec("gsplat").submodule_search_locations)  # type: ignore[union-attr,arg-type]
    target = os.environ.get("TORCH_CUDA_ARCH_LIST") or "{}.{}".format(*torch.cuda.get_device_capability())
    os.environ["TORCH_CUDA_ARCH_LIST"] = target
    parts = (metadata.version("gsplat"), f"torch{torch.__version__}", sys.implementation.cache_tag, target)
    kept = folder / "-".join(parts) / "csrc.so"
    if not (kept.exists() and loads(kept, gsplat)):
        build(gsplat, kept.parent)
        if not loads(kept, gsplat):
            raise SystemExit("gsplat's kernels were compiled, but do not load.")
    print(f"{kept} is in use", flush=True)


def loads(module: Path, gsplat: Path) -> bool:
    """Install the module and import it in a fresh process: one that does not fit may end it."""
    shutil.copy(module, gsplat / "csrc.so")
    tried = subprocess.run([sys.executable, "-c", "import torch; from gsplat import csrc"], check=False)
    return tried.returncode == 0


def build(gsplat: Path, folder: Path) -> None:
    """All kernels, with the options of gsplat's own builds, telling how far it is."""
    os.environ["CUDA_HOME"] = str(cuda_home())
    from torch.utils import cpp_extension  # looks for CUDA when it is imported

    folder.mkdir(parents=True, exist_ok=True)
    cuda = gsplat / "cuda"
    sources = sorted(map(str, [*cuda.glob("csrc/*.cu"), *cuda.glob("csrc/*.cpp"), cuda / "ext.cpp"]))
    started, ready = time.monotonic(), threading.Event()
    threading.Thread(target=tell, args=(folder, len(sources), ready), daemon=True).start()
    cpp_extension.load(
        name="csrc",
        sources=sources,
        extra_include_paths=[str(cuda / "include"), str(cuda / "csrc" / "third_party" / "glm")],
        extra_cflags=["-O3", "-Wno-attributes"],
        extra_cuda_cflags=["-O3", "-use_fast_math", "-diag-suppress=20012,186"],
        build_directory=str(folder),
        with_cuda=True,
        is_python_module=False,
    )
    ready.set()
    print(f"compiled in {time.monotonic() - started:.0f} s", flush=True)


def tell(folder: Path, files: int, ready: threading.Event) -> None:
    """Say now and then how many files are compiled."""
    while not ready.wait(10):
        print(f"{len(list(folder.glob('*.o')))} of {files} files compiled", flush=True)


def cuda_home() -> Path:
    """Where the toolkit of the compiler on the path is; what is on the path may be a script that calls it."""
    told = subprocess.run(
        ["nvcc", "--dryrun", "-x", "cu", "-c", os.devnull], capture_output=True, text=True, check=False
    )
    top = re.search(r"TOP=(.*)", told.stderr + told.stdout)
    if top is None:
        raise SystemExit("The compiler nvcc does not say where its toolkit is; set CUDA_HOME.")
    return Path(os.environ.get("CUDA_HOME") or top[1].strip()).resolve()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
