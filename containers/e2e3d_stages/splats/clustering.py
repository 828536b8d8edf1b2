"""Vector quantisation of spherical harmonics: a palette by k-means in two levels (faiss)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

MIN_PALETTE = 64
MAX_PALETTE = 65_536
ITERATIONS = 5

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Palette:
    """Vectors that stand for many.

    :param centroids: (P, D) the palette's entries.
    :param labels: (N,) the entry that stands for each vector.
    :param squared_error: mean over the vectors of the squared distance to their entry.
    """

    centroids: Floats
    labels: Labels
    squared_error: float


def choose_palette(
    vectors: Floats, max_squared_error: float, *, seed: int, threads: int, check: Callable[[], None]
) -> Palette:
    """The smallest palette, of a power of two entries, whose mean squared error is at most `max_squared_error`.

    The error falls as the palette grows, so a bisection over the powers of two finds it in four clusterings; where
    even 65,536 entries miss the bound, that largest palette is returned.

    :param vectors: (N, D) what is quantised.
    :param check: called between clusterings; may raise to stop.
    """
    largest = min(MAX_PALETTE, len(vectors))
    sizes = [size for size in (MIN_PALETTE << i for i in range(11)) if size < largest] + [largest]
    low, high = 0, len(sizes) - 1
    best: Palette | None = None
    while low < high:
        check()
        middle = (low + high) // 2
        palette = two_level_kmeans(vectors, sizes[middle], seed=seed, threads=threads)
        if palette.squared_error <= max_squared_error:
            best, high = palette, middle
        else:
            low = middle + 1
    return best if best is not None else two_level_kmeans(vectors, sizes[high], seed=seed, threads=threads)


def two_level_kmeans(vectors: Floats, size: int, *, seed: int, threads: int) -> Palette:
    """k-means for very many clusters: coarse clusters first, then each split alone.

    Cost grows with N·√size instead of N·size: 65,536 clusters of 100,000 vectors take seconds. The entries are
    shared out among the coarse clusters by their number of vectors, and stay in the coarse clusters' order, so that
    labels of similar vectors share their high byte.

    :param vectors: (N, D), N ≥ 1.
    :param size: entries wanted, at most N.
    :param threads: coarse clusters split at the same time; the result does not depend on it.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    size = min(size, len(vectors))
    coarse_count = max(1, int(np.sqrt(size)))
    with ThreadPoolExecutor(threads, initializer=_one_thread) as pool:
        _, coarse = pool.submit(_kmeans, vectors, coarse_count, seed).result()
        order = np.argsort(coarse, kind="stable")
        ends = np.cumsum(np.bincount(coarse, minlength=coarse_count))
        # One entry for each; rounding the running sum of the rest, not each share, makes them add up to `size`.
        shares = 1 + np.diff(np.round(ends * ((size - coarse_count) / len(vectors))).astype(int), prepend=0)
        groups = [
            (members, int(share))
            for members, share in zip(np.split(order, ends[:-1]), shares, strict=True)
            if len(members)
        ]
        splits = list(pool.map(lambda group: _kmeans(vectors[group[0]], group[1], seed), groups))
    firsts = np.cumsum([0] + [len(centroids) for centroids, _ in splits])
    labels = np.empty(len(vectors), dtype=np.int64)
    for (members, _), (_, own), first in zip(groups, splits, firsts[:-1], strict=True):
        labels[members] = first + own
    palette = np.concatenate([centroids for centroids, _ in splits])
    residual = vectors - palette[labels]
    return Palette(palette, labels, float(np.mean(np.einsum("nd,nd->n", residual, residual, dtype=np.float64))))


def _kmeans(vectors: Floats, count: int, seed: int) -> tuple[Floats, Labels]:
    """Centroids (count or fewer, D) and the label (N,) of each vector."""
    if count >= len(vectors):
        return vectors, np.arange(len(vectors))
    if count == 1:
        return vectors.mean(axis=0, keepdims=True), np.zeros(len(vectors), dtype=np.int64)
    # faiss only warns of few points per centroid; a palette is meant to have few.
    kmeans = faiss.Kmeans(vectors.shape[1], count, niter=ITERATIONS, seed=seed, min_points_per_centroid=1)
    kmeans.train(vectors)
    _, labels = kmeans.index.search(vectors, 1)
    centroids: Floats = np.asarray(kmeans.centroids)
    own: Labels = labels[:, 0]
    return centroids, own


def _one_thread() -> None:
    """Keep faiss to the calling thread: its own threads wait busily, which costs more than it saves here."""
    faiss.omp_set_num_threads(1)
