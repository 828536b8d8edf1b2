"""How large a photo is, from its first bytes and without a library that decodes it."""

from __future__ import annotations

# Enough for a thumbnail, a colour profile and other things that stand before a JPEG's size.
HEADER_BYTES = 256 * 1024

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
# Start of frame, whichever way it is coded: ITU-T T.81, table B.1.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def long_side(data: bytes) -> int | None:
    """Longest side in px of the JPEG or PNG that begins so, or None where that is not told."""
    if data.startswith(_PNG) and len(data) >= 24:
        return max(int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"))
    place = 2 if data.startswith(_JPEG) else len(data)
    while place + 9 <= len(data) and data[place] == 0xFF:
        if data[place + 1] in _FRAMES:
            return max(
                int.from_bytes(data[place + 5 : place + 7], "big"), int.from_bytes(data[place + 7 : place + 9], "big")
            )
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None
