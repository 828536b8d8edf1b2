"""Whether each photo's light is learned: the sample as it is, and with photos made brighter, darker, warmer and colder.

    python bench/light.py FOLDER [--set NAME=VALUE]

Held-out photos stay as they are. Trains both at preset `draft`, some minutes of CPU each, and prints the figures of the
held-out views, and how far the learned light is from what was planted, over what is learned of the sample as it is.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

EV, WARMER_EV = 1.0, 0.4
LIMIT_SECONDS = 3_600.0


def plant(sfm: Path, folder: Path, light: dict[str, tuple[float, float]]) -> Path:
    """A copy of an `sfm` artifact whose photos are taken in another light.

    :param light: by the photo's name, how many EV brighter it is, and how many EV more its red rises than its blue.
    """
    shutil.copytree(sfm, folder)
    for name, (ev, warmer_ev) in light.items():
        path = folder / "images" / name
        with Image.open(path) as photo:
            values = linear(np.asarray(photo.convert("RGB")) / 255)
        values *= 2.0 ** (ev + warmer_ev * np.array([0.5, 0, -0.5]))
        Image.fromarray(np.round(encoded(values) * 255).astype(np.uint8)).save(path, quality=95)
    return folder


def linear(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """sRGB's values, 0 to 1, as light (IEC 61966-2-1)."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def encoded(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """The way back; more than white is white."""
    light = light.clip(0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def chosen(names: list[str]) -> dict[str, tuple[float, float]]:
    """Half of the photos an EV brighter, half an EV darker, each of them warm or cold."""
    random = np.random.default_rng(0)
    signs = [random.permutation(np.resize([-1, 1], len(names))) for _ in range(2)]
    return {name: (EV * int(up), WARMER_EV * int(warm)) for name, up, warm in zip(names, *signs, strict=True)}


def errors(light: list[dict[str, Any]], before: list[dict[str, Any]], planted: dict[str, tuple[float, float]]) -> Any:
    """How far what was learned is from what was planted, (V, 2) in EV: exposure, and red over blue.

    :param before: what was learned of the same photos before.
    """
    learned = np.array(
        [(a["ev"] - b["ev"], a["warmer_ev"] - b["warmer_ev"]) for a, b in zip(light, before, strict=True)]
    )
    wanted = np.array([planted[each["name"]] for each in light])
    return (learned - learned.mean(0)) - (wanted - wanted.mean(0))


def main() -> None:
    """Make both sets, train both and print."""
    from gpu_training import train_ours
    from prepared import write_artifact

    from e2e3d_stages.train.params import PRESETS, Params
    from e2e3d_stages.train.scene import split_heldout

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the sets and the scenes go")
    parser.add_argument("--set", action="append", default=[], help="a parameter of the train stage, name=value")
    options = parser.parse_args()
    changes = {name: json.loads(value) for name, _, value in (change.partition("=") for change in options.set)}
    params = Params.model_validate({**PRESETS["draft"], "light": "on", **changes})
    sample = write_artifact(options.folder / "sample")
    views, _ = split_heldout(json.loads((sample / "views.json").read_text()), params.holdout)
    light = chosen([view["name"] for view in views])
    learned = []
    for sfm in (sample, plant(sample, options.folder / "planted", light)):
        figures = train_ours(sfm, params, LIMIT_SECONDS, keep=sfm / "scene.ply")
        learned.append(json.loads((sfm / "scene.training.json").read_text())["light"])
        print(json.dumps({"set": sfm.name, **figures}), flush=True)
    wrong = np.abs(errors(learned[1], learned[0], light))
    print(json.dumps({"ev_wrong_mean": wrong[:, 0].mean(), "ev_wrong_most": wrong[:, 0].max()}))
    print(json.dumps({"warmer_wrong_mean": wrong[:, 1].mean(), "warmer_wrong_most": wrong[:, 1].max()}))


if __name__ == "__main__":
    main()
