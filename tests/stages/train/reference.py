"""Rasteriser and SSIM in plain torch, differentiated by autograd: slow, short, what the kernels must equal.

Formulas: Kerbl et al. 2023, Zwicker et al. 2002; thresholds as in `e2e3d_stages.splats.kernels`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from e2e3d_stages.splats.camera import Camera
from e2e3d_stages.splats.params import RenderParams
from e2e3d_stages.splats.rendering import Splats
from e2e3d_stages.splats.ssim_window import SSIM_C1, SSIM_C2, SSIM_TAPS, ssim_window

TILE = 16


def rotations(quats: Tensor) -> Tensor:
    """(N, 3, 3) of (N, 4) quaternions, w first."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).reshape(-1, 3, 3)


def harmonics(degree: int, direction: Tensor) -> Tensor:
    """(N, (degree + 1)²) real spherical harmonics of (N, 3) unit vectors."""
    x, y, z = direction.unbind(-1)
    terms = [torch.full_like(x, 0.28209479177387814)]
    if degree >= 1:
        terms += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree >= 2:
        terms += [1.0925484305920792 * x * y, -1.0925484305920792 * y * z]
        terms += [0.31539156525252005 * (2 * z * z - x * x - y * y)]
        terms += [-1.0925484305920792 * x * z, 0.5462742152960396 * (x * x - y * y)]
    if degree >= 3:
        terms += [-0.5900435899266435 * y * (3 * x * x - y * y), 2.890611442640554 * x * y * z]
        terms += [-0.4570457994644658 * y * (4 * z * z - x * x - y * y)]
        terms += [0.3731763325901154 * z * (2 * z * z - 3 * x * x - 3 * y * y)]
        terms += [-0.4570457994644658 * x * (4 * z * z - x * x - y * y)]
        terms += [1.445305721320277 * z * (x * x - y * y), -0.5900435899266435 * x * (x * x - 3 * y * y)]
    return torch.stack(terms, -1)


def render(splats: Splats, camera: Camera, params: RenderParams, background: Tensor) -> Tensor:
    """The picture, (H, W, 3)."""
    means, quats, scales, opacities, sh = splats
    pose = camera.pose.to(means.dtype)
    rotation, eye = pose[:3, :3], -pose[:3, :3].T @ pose[:3, 3]
    (fx, fy), (cx, cy) = camera.focal, camera.centre
    points = means @ rotation.T + pose[:3, 3]
    keep = (points[:, 2] >= 0.2) & (opacities >= 1 / 255)
    keep = keep.nonzero()[:, 0][points[keep, 2].argsort()]
    points, opacities = points[keep], opacities[keep]
    x, y, z = points.unbind(-1)
    margin_x, margin_y = 0.15 * camera.width / fx, 0.15 * camera.height / fy
    u = (x / z).clamp(-cx / fx - margin_x, (camera.width - cx) / fx + margin_x)
    v = (y / z).clamp(-cy / fy - margin_y, (camera.height - cy) / fy + margin_y)
    zero = torch.zeros_like(z)
    jacobian = torch.stack([fx / z, zero, -fx * u / z, zero, fy / z, -fy * v / z], -1).reshape(-1, 2, 3)
    half = jacobian @ rotation @ rotations(quats[keep]) @ torch.diag_embed(scales[keep])
    covariance = half @ half.transpose(1, 2) + 0.3 * torch.eye(2, dtype=means.dtype)
    conic = torch.linalg.inv(covariance)
    centre = torch.stack([fx * x / z + cx, fy * y / z + cy], -1)
    direction = torch.nn.functional.normalize(means[keep] - eye, dim=-1)
    basis = harmonics(params.sh_degree, direction)
    colour = (torch.einsum("nk,nkc->nc", basis, sh[keep, : basis.shape[1]]) + 0.5).relu()
    reach = (2 * torch.log(255 * opacities)[:, None] * covariance.diagonal(dim1=1, dim2=2)).sqrt().detach()
    tiles = [(x, y) for y in range(0, camera.height, TILE) for x in range(0, camera.width, TILE)]
    sizes = [(min(TILE, camera.width - x), min(TILE, camera.height - y)) for x, y in tiles]
    near = [
        ((centre + reach > torch.tensor(tile)) & (centre - reach < torch.tensor(tile) + torch.tensor(size))).all(-1)
        for tile, size in zip(tiles, sizes, strict=True)
    ]
    # Gathered once for all tiles: gathering tile by tile would cost a gradient of full length for each.
    features = torch.cat([centre, conic.flatten(1), opacities[:, None], colour], 1)
    drawn = features[torch.cat([mask.nonzero()[:, 0] for mask in near])].split([int(mask.sum()) for mask in near])
    pictures = [_tile(*args, background) for args in zip(drawn, tiles, sizes, strict=True)]
    columns = -(-camera.width // TILE)
    rows = [torch.cat(pictures[i : i + columns], 1) for i in range(0, len(pictures), columns)]
    return torch.cat(rows, 0)


def _tile(features: Tensor, corner: tuple[int, int], size: tuple[int, int], background: Tensor) -> Tensor:
    across, down = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="xy")
    pixels = torch.stack([across, down], -1).reshape(-1, 1, 2) + torch.tensor(corner) + 0.5
    dx, dy = (pixels - features[:, :2]).unbind(-1)
    xx, xy, _, yy, opacity = features[:, 2:7].unbind(-1)
    alpha = (opacity * torch.exp(-0.5 * (xx * dx**2 + yy * dy**2) - xy * dx * dy)).clamp(max=0.999)
    alpha = torch.where(alpha >= 1 / 255, alpha, 0)
    transmittance = torch.cumprod(torch.cat([torch.ones_like(pixels[..., 0]), 1 - alpha], 1), 1)[:, :-1]
    weight = torch.where(transmittance > 1e-4, alpha * transmittance, 0)
    left = 1 - weight.sum(1, keepdim=True)
    return (weight @ features[:, 7:] + left * background).reshape(size[1], size[0], 3)


def structural_similarity(image: Tensor, photo: Tensor, rows: slice = slice(None)) -> Tensor:
    """Mean SSIM of (H, W, 3) pictures in some rows; beyond the picture everything counts as 0."""
    x, y = (t.permute(2, 0, 1)[:, None] for t in (image, photo))
    window = torch.as_tensor(ssim_window(), dtype=image.dtype, device=image.device)

    def blur(t: Tensor) -> Tensor:
        t = torch.nn.functional.conv2d(t, window.view(1, 1, 1, -1), padding=(0, SSIM_TAPS // 2))
        return torch.nn.functional.conv2d(t, window.view(1, 1, -1, 1), padding=(SSIM_TAPS // 2, 0))

    mean_x, mean_y = blur(x), blur(y)
    covariance = blur(x * y) - mean_x * mean_y
    variances = blur(x * x) + blur(y * y) - mean_x**2 - mean_y**2
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x**2 + mean_y**2 + SSIM_C1)
    return (luminance * (2 * covariance + SSIM_C2) / (variances + SSIM_C2))[..., rows, :].mean()
