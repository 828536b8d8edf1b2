"""How close a render is to its photo."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from e2e3d_stages.splats import cpu
from e2e3d_stages.splats.ssim_window import SSIM_TAPS

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # from fine to coarse


def psnr(image: NDArray[np.floating], photo: NDArray[np.floating], counted: NDArray[np.bool_] | None = None) -> float:
    """Peak signal-to-noise ratio in dB of two (H, W, 3) pictures in 0 to 1; 100 where they are equal.

    :param counted: (H, W), the pixels that are compared; all when not given.
    """
    squares = (image.astype(np.float64) - photo.astype(np.float64)) ** 2
    error = float(np.mean(squares if counted is None else squares[counted]))
    return 100.0 if error < 1e-10 else -10.0 * float(np.log10(error))


def ssim(image: NDArray[np.floating], photo: NDArray[np.floating], counted: NDArray[np.bool_] | None = None) -> float:
    """Structural similarity of two (H, W, 3) pictures in 0 to 1, mean over channels.

    Wang et al. 2004: 11 x 11 Gaussian window with sigma 1.5, only where the window lies inside the picture.

    :param counted: (H, W), the pixels that are compared: the mean is over the windows around them, and what of these
        windows does not count is the same in both pictures. All when not given.
    :raises ValueError: when the shapes differ or a side is shorter than the window.
    """
    if image.shape != photo.shape or min(image.shape[:2]) < SSIM_TAPS:
        raise ValueError(f"cannot compare {image.shape} with {photo.shape}")
    x, y = image.astype(np.float32), photo.astype(np.float32)
    if counted is not None:
        x = np.where(counted[..., None], x, y)
    luminance, contrast = _similarities(x, y, counted)
    return float(np.mean(luminance * contrast, dtype=np.float64))


def ms_ssim(
    image: NDArray[np.floating], photo: NDArray[np.floating], counted: NDArray[np.bool_] | None = None
) -> float:
    """Structural similarity at up to five scales, each half of the one before; from coarse shapes to pixels.

    Wang et al. 2003. Of a picture that is too small for five scales, those that it has room for, the weights in
    proportion.

    :param counted: (H, W), the pixels that are compared, as `ssim` does; all when not given.
    :raises ValueError: when the shapes differ or a side is shorter than the window.
    """
    if image.shape != photo.shape or min(image.shape[:2]) < SSIM_TAPS:
        raise ValueError(f"cannot compare {image.shape} with {photo.shape}")
    x, y = image.astype(np.float32), photo.astype(np.float32)
    if counted is not None:
        x = np.where(counted[..., None], x, y)
    scales = min(len(MS_SSIM_WEIGHTS), int(np.log2(min(image.shape[:2]) / SSIM_TAPS)) + 1)
    weights = np.array(MS_SSIM_WEIGHTS[:scales]) / sum(MS_SSIM_WEIGHTS[:scales])
    product = np.ones(image.shape[2])
    for scale, weight in enumerate(weights):
        luminance, contrast = _similarities(x, y, counted)
        values = luminance * contrast if scale == scales - 1 else contrast
        product *= values.mean(0, dtype=np.float64).clip(min=0) ** weight
        x, y = _halved(x), _halved(y)
        counted = None if counted is None else _halved(counted[..., None].astype(np.float32))[..., 0] >= 0.5
    return float(product.mean())


def colour_corrected(
    image: NDArray[np.floating], photo: NDArray[np.floating], counted: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """The picture in the photo's exposure and white balance, as far as an affine map of its colours goes there.

    The 3 x 4 matrix is the one of least squares. Of what is compared so, only what no change of light explains is wrong
    (gsplat's `color_correct_affine`).

    :param counted: (H, W), the pixels that the matrix is fitted to; all when not given.
    :returns: (H, W, 3) in 0 to 1.
    """
    pixels = image.reshape(-1, 3).astype(np.float64)
    given = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1)
    wanted = photo.reshape(-1, 3).astype(np.float64)
    chosen = slice(None) if counted is None else counted.ravel()
    # Of a picture in one colour many matrices are the best; the smallest is taken.
    matrix, *_ = np.linalg.lstsq(given[chosen].T @ given[chosen], given[chosen].T @ wanted[chosen], rcond=1e-9)
    corrected: NDArray[np.float32] = (given @ matrix).clip(0, 1).reshape(image.shape).astype(np.float32)
    return corrected


def _similarities(
    x: NDArray[np.float32], y: NDArray[np.float32], counted: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """SSIM's two factors, luminance and contrast with structure, (P, 3) each: of the windows that count."""
    luminance, contrast = cpu.ssim_factors(x, y)
    half, chosen = SSIM_TAPS // 2, np.ones(luminance.shape[:2], bool)
    if counted is not None and (around := counted[half:-half, half:-half]).any():
        chosen = around
    return luminance[chosen], contrast[chosen]


def _halved(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of 2 x 2 pixels; an odd last row or column is left out."""
    even = picture[: len(picture) // 2 * 2, : picture.shape[1] // 2 * 2]
    return ((even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4).astype(np.float32)
