"""Which photos show the same, by their SIFT features: for photos in no order, of which not all pairs can be compared.

Each photo becomes one vector of what its features add to a small vocabulary (VLAD: Jégou et al. 2010, with the
normalisation of Arandjelović & Zisserman 2013). The vocabulary is the capture's own, so that nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from e2e3d_stages.sfm.pairs import Pair

Floats = NDArray[np.float32]

WORDS = 64
ROUNDS = 8
# Features that the vocabulary is made of, and most of one photo that are looked at.
SAMPLED, MOST_FEATURES = 20_000, 2_000


def alike(count: int, descriptors: Callable[[int], NDArray[np.uint8]], neighbors: int, seed: int) -> list[Pair]:
    """Each photo with those that are most like it: at most `neighbors` times as many pairs as photos.

    :param descriptors: of a photo, by its place, (n, 128).
    """
    rng = np.random.default_rng(seed)

    def some(place: int, most: int) -> Floats:
        found = descriptors(place)
        if len(found) > most:
            found = found[rng.choice(len(found), most, replace=False)]
        return np.asarray(found / 512, np.float32)

    words = _vocabulary(np.concatenate([some(place, max(1, SAMPLED // count)) for place in range(count)]), rng)
    vectors = np.stack([_vector(some(place, MOST_FEATURES), words) for place in range(count)])
    pairs = set()
    for place, vector in enumerate(vectors):
        likeness = vectors @ vector
        likeness[place] = -np.inf
        nearest = np.argsort(-likeness, kind="stable")[: min(neighbors, count - 1)]
        pairs |= {(min(place, int(other)), max(place, int(other))) for other in nearest}
    return sorted(pairs)


def _vocabulary(features: Floats, rng: np.random.Generator) -> Floats:
    """The centres of k-means, and fewer where there are few features."""
    words = features[rng.choice(len(features), min(WORDS, len(features)), replace=False)]
    for _ in range(ROUNDS):
        chosen = _chosen(features, words)
        counts = chosen.sum(axis=1, keepdims=True)
        words = np.where(counts > 0, chosen @ features / np.maximum(counts, 1), words)
    return words


def _vector(features: Floats, words: Floats) -> Floats:
    chosen = _chosen(features, words)
    residuals = chosen @ features - chosen.sum(axis=1, keepdims=True) * words
    residuals /= np.maximum(np.linalg.norm(residuals, axis=1, keepdims=True), 1e-12)
    flat: Floats = residuals.ravel()
    flat /= max(float(np.linalg.norm(flat)), 1e-12)
    return flat


def _chosen(features: Floats, words: Floats) -> Floats:
    """Which word is nearest to each feature: (words, features), 1 where it is."""
    chosen = np.zeros((len(words), len(features)), np.float32)
    if len(words):
        nearest = np.argmin((words**2).sum(1) - 2 * features @ words.T, axis=1)
        chosen[nearest, np.arange(len(features))] = 1
    return chosen
