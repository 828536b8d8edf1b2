"""Whose fault an error is: that of the data that somebody uploaded, or that of the machine."""

from __future__ import annotations

import errno

from e2e3d_stages.contract.messages import StageError

# What a file says to a place beyond its end, which damaged data ask for.
_BAD_PLACES = frozenset({errno.EINVAL, errno.EOVERFLOW})


def is_damage(error: Exception) -> bool:
    """Whether an error that came out of a decoder speaks of the data it read.

    Decoders raise whatever they stumble over, so that what is **not** of the data is listed: what a disk or a network
    says (an `OSError` with a number), memory that ran out, and what a store says.
    """
    if isinstance(error, OSError):
        return error.errno is None or error.errno in _BAD_PLACES
    return not isinstance(error, (StageError, MemoryError))
