"""PlayCanvas's splat-transform (Node.js): the converter for formats we do not write, and the judge of those we do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from e2e3d_stages.contract import StageError

NAME = "splat-transform"
HINT = (
    "Install it with `npm ci --prefix containers/compressor --omit=peer --ignore-scripts` and put "
    "node_modules/.bin/splat-transform on PATH or beside the Python interpreter; "
    "or run the compress stage with spz=false."
)


def command() -> list[str]:
    """The words that start splat-transform: beside the Python interpreter first, else on PATH.

    :raises StageError: when it or Node.js is not installed.
    """
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    script, node = shutil.which(NAME, path=places), shutil.which("node", path=places)
    missing = [name for name, found in ((NAME, script), ("node", node)) if found is None]
    if script is None or node is None:
        raise StageError(f"{' and '.join(missing)} cannot be found, and SPZ needs it.", hint=HINT)
    # Naming Node.js takes the one beside Python; the script's first line would take whatever PATH has.
    return [node, str(Path(script).resolve())]


def convert(source: Path, target: Path, *, options: tuple[str, ...] = (), timeout: float | None = None) -> None:
    """Convert one splat file into another; the formats are the file names' endings.

    The program can leave an empty or half-written file behind, so it writes aside and only a whole file gets its name.

    :param options: more words for its command line, e.g. `("-g", "cpu")`.
    :param timeout: seconds.
    :raises StageError: when it fails or writes nothing.
    :raises subprocess.TimeoutExpired: when it takes longer than `timeout`; it is killed then.
    """
    aside = target.with_name(f".writing-{target.name}")
    words = [*command(), "--quiet", "--overwrite", *options, str(source), str(aside)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=timeout, check=False)
        size = aside.stat().st_size if aside.exists() else 0
        if done.returncode != 0 or size == 0:
            raise StageError(
                f"splat-transform could not write {target.name}: exit status {done.returncode}, {size} bytes written.",
                hint="Its last words are in the details; spz=false leaves SPZ out.",
                details={"output": (done.stdout + done.stderr)[-2000:]},
            )
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
