"""PlayCanvas's splat-transform (Node.js): the converter for formats we do not write, and the judge of those we do."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from e2e3d_stages.contract.messages import StageError

NAME = "splat-transform"
# SPZ holds coordinates in 24 bits, 12 of them behind the point: beyond this many units they wrap around.
SPZ_LIMIT = 2048.0
HINT = (
    "Install it with `npm ci --prefix containers/compressor --omit=peer --ignore-scripts` and link "
    "node_modules/.bin/splat-transform into a folder of PATH or beside the Python interpreter, "
    "or with `npm install --global @playcanvas/splat-transform@2.7.1`; or do without what it writes (compress_spz, "
    "export_gltf, export_tiles)."
)


def command() -> list[str]:
    """The words that start splat-transform: beside the Python interpreter first, else on PATH.

    :raises StageError: when it or Node.js is not installed.
    """
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    script, node = shutil.which(NAME, path=places), shutil.which("node", path=places)
    missing = [name for name, found in ((NAME, script), ("node", node)) if found is None]
    if script is None or node is None:
        raise StageError(f"{' and '.join(missing)} cannot be found, and SPZ and glTF need it.", hint=HINT)
    # Naming Node.js takes the one beside Python; the script's first line would take whatever PATH has.
    return [node, str(Path(script).resolve())]


def convert(
    source: Path,
    target: Path,
    *,
    options: tuple[str, ...] = (),
    actions: tuple[str, ...] = (),
    timeout: float | None = None,
) -> None:
    """Convert one splat file into another; the formats are the file names' endings.

    SPZ keeps positions right-up-back (y and z of ours negated), as its specification asks; the program turns them
    when it writes and back when it reads, so a PLY that went through SPZ is in our frame again.

    The program can leave an empty or half-written file behind, so it writes aside and only a whole file gets its name.

    :param options: more words for its command line, e.g. `("-g", "cpu")`.
    :param actions: what is done to the Gaussians, e.g. `("--rotate", "180,0,0")`.
    :param timeout: seconds.
    :raises StageError: when it fails or writes nothing.
    :raises subprocess.TimeoutExpired: when it takes longer than `timeout`; it is killed then.
    """
    aside = target.with_name(f".writing-{target.name}")
    words = [*command(), "--quiet", "--overwrite", *options, str(source), *actions, str(aside)]
    try:
        exit_status, output = _run(words, timeout)
        size = aside.stat().st_size if aside.exists() else 0
        if exit_status != 0 or size == 0:
            raise StageError(
                f"splat-transform could not write {target.name}: exit status {exit_status}, {size} bytes written.",
                hint="Its last words are in the task's log; do without it (compress_spz, export_gltf, export_tiles).",
                details={"output": output[-2000:]},
            )
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def _run(words: list[str], timeout: float | None) -> tuple[int, str]:
    """Exit status, and what the program wrote; nothing of it is left running, however this ends."""
    # A session of its own: PyPI's `node` is a Python program that starts Node.js, and killing it alone leaves that.
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return process.returncode, output
