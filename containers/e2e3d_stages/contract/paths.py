"""Names from outside become paths only here.

Keys of a bucket, names in an archive, files that a manifest lists, ids of runs: whoever wrote them may have meant
another place.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

# In bytes: what file systems take.
LONGEST_STEP = 255
# Control characters, line breaks, and what is no character at all.
_UNSPEAKABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})


class UnsafePath(ValueError):
    """A name that is no path below a folder."""


def safe_path(path: str) -> str:
    """The path, if it stays below whatever folder it is joined to, on every store.

    :raises UnsafePath: when a step of it is empty (as in `a//b`, `/a` and the empty path), `.` or `..`, too long for a
        file's name, or has control characters.
    """
    problem = path_problem(path)
    if problem:
        raise UnsafePath(f"{shown(path)!r} is no path: {problem}.")
    return path


def path_problem(path: str) -> str:
    """What is wrong with a path, in words; nothing when it is safe."""
    return next(filter(None, map(_problem, path.split("/"))), "")


def _problem(step: str) -> str:
    if not step:
        return "one of its steps is empty"
    if step in (".", ".."):
        return f"it has the step {step!r}"
    if any(unicodedata.category(sign) in _UNSPEAKABLE for sign in step):
        return "it has characters that no name has"
    if len(step.encode()) > LONGEST_STEP:
        return f"one of its steps is longer than {LONGEST_STEP} bytes"
    return ""


# For whatever is read from a file that somebody else may have written.
SafePath = Annotated[str, AfterValidator(safe_path)]


def inside(folder: Path, path: str) -> Path:
    """Where a path lies below a folder. A link on the way is followed, if it stays in the folder.

    :raises UnsafePath: when the path leads out of it.
    """
    return stay_inside(folder, folder / safe_path(path))


def stay_inside(folder: Path, path: Path) -> Path:
    """The path, if no link on it leads out of the folder.

    :raises UnsafePath: when one does.
    """
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise UnsafePath(f"{shown(path.name)!r} is a link that leads out of its folder, or lies below one.")
    return path


def folder_name(text: str) -> str:
    """A folder's name for a text that may be anything: another one for each text, and readable.

    What has only small letters, digits, `_` and `-` stays as it is. Of everything else only so much is kept, with a dot
    and a digest that tells it apart, also where a file system makes no difference between `Run` and `run`.
    """
    if re.fullmatch(r"[a-z0-9][a-z0-9_-]{,99}", text):
        return text
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", text)[:100].strip("-") or "run"
    return f"{readable}.{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:16]}"


def shown(name: str, most: int = 200) -> str:
    """A name as it can be stored as text and told to people, whatever it is made of."""
    text = "".join(
        sign.encode("unicode_escape").decode() if unicodedata.category(sign) in _UNSPEAKABLE else sign for sign in name
    )
    return text if len(text) <= most else f"{text[:most]}…"
