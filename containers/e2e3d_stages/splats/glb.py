"""GLB: a glTF document and its binary buffer in one file (glTF 2.0, 4.4)."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_JSON, _BIN = 0x4E4F534A, 0x004E4942


def write_glb(path: Path, document: Mapping[str, Any], parts: Iterable[bytes]) -> None:
    """Write a file of a document whose one buffer is all parts after one another."""
    text, data = json.dumps(document, separators=(",", ":")).encode(), b"".join(parts)
    text += b" " * (-len(text) % 4)
    data += b"\0" * (-len(data) % 4)
    with path.open("wb") as file:
        file.write(struct.pack("<4sIIII", b"glTF", 2, 28 + len(text) + len(data), len(text), _JSON))
        file.write(text)
        file.write(struct.pack("<II", len(data), _BIN))
        file.write(data)
