"""What the stages' smoke checks share."""

from __future__ import annotations

from importlib import metadata

import numpy as np
from PIL import Image


def noise() -> Image.Image:
    """Coarse noise, in which every detector finds corners."""
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((256, 256))


def versions(*distributions: str) -> str:
    """Each distribution with its version."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in distributions)
