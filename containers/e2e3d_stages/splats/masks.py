"""What of a view's photo counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from e2e3d_stages.contract.paths import inside


def read_mask(folder: Path, view: dict[str, Any], width: int, height: int) -> NDArray[np.bool_] | None:
    """Where the photo of an entry of `views.json` counts, at a given size, (height, width); None where it does whole.

    :param folder: of the `sfm` artifact.
    """
    if "masked" not in view:
        return None
    with Image.open(inside(folder / "masks", f"{view['name']}.png")) as mask:
        kept = np.asarray(mask.convert("L").resize((width, height), Image.Resampling.BOX))
    # However small, something always counts.
    return np.asarray(kept >= min(128, int(kept.max())))
