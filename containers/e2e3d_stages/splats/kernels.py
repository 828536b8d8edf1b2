"""The CPU rasteriser's loops, compiled by numba.

The two inner loops go down the rows of a tile that a Gaussian reaches, LANES pixels at a time (see `lanes`). A row
takes no more than it must: no branches (selects instead), an exponential that is a short polynomial, what all rows have
in common computed before. The next Gaussians are fetched while one is drawn.

A Gaussian on the screen is a row of SCREEN fields: centre in px (x, y), conic (inverse 2D covariance: xx, xy, yy),
opacity, colour (3), the largest exponent that still gives an opacity of 1/255, and half width and half height in px
of the box in which it does.

`part` of `parts` names a thread's share of the work; the functions release the GIL. (numba's own parallel loops take
five times as long to compile, and their threads spin.) Results do not depend on the number of parts: what several
parts add to is kept apart, pair by pair of a tile and a Gaussian, and summed in one order.

Formulas: Zwicker et al. 2002 (EWA splatting) and Kerbl et al. 2023 (3D Gaussian splatting); dilation and thresholds
are those of gsplat's "classic" mode and of the web viewers.
"""

# Types are what numba infers.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from e2e3d_stages.splats.camera import DILATION, NEAR, Camera
from e2e3d_stages.splats.gaussians import C0
from e2e3d_stages.splats.lanes import (
    LANES,
    load,
    load_colours,
    magnitude,
    numbered,
    prefetch,
    smaller,
    spread,
    store,
    store_colours,
    total,
    where_at_most,
)
from e2e3d_stages.splats.params import RenderParams

ROWS = 64  # a tile's height
SCREEN = 12
MOMENTS = 10  # sums over a Gaussian's pixels: dL/d(exponent) times 1, x, y, xx, xy, yy; 3 colours; |dL/dx| + |dL/dy|

# Where the fields of a row of a tile begin, after transmittance: colour, or its upstream gradient, and on the way back
# the upstream gradient times what lies behind; and where the next row does.
_RED, _GREEN, _BLUE, _BEHIND, _NEXT = (LANES * field for field in range(1, 6))
_ZERO, _HALF, _ONE, _TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
_MIN_ALPHA, _MAX_ALPHA = np.float32(1 / 255), np.float32(0.999)
_MOST_REACH = 2 * math.log(255)  # in squared standard deviations, of what is wholly opaque
_OPAQUE = np.float32(1e-4)  # nothing is drawn behind less transmittance than this
_FAR = np.float32(6)  # exp(-6) < 1/255
# exp(-x/8) on [0, 6]; three squarings make exp(-x) of it, with a relative error below 6e-5.
_E0, _E1, _E2, _E3, _E4 = (
    np.polynomial.Chebyshev.interpolate(lambda x: np.exp(-x / 8), 4, domain=[0, 6])
    .convert(kind=np.polynomial.Polynomial)
    .coef.astype(np.float32)
)
_C1 = 0.4886025119029199
_C2 = (1.0925484305920792, -1.0925484305920792, 0.31539156525252005, -1.0925484305920792, 0.5462742152960396)
_C3 = (
    -0.5900435899266435,
    2.890611442640554,
    -0.4570457994644658,
    0.3731763325901154,
    -0.4570457994644658,
    1.445305721320277,
    -0.5900435899266435,
)

_compiled: Any = njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
_inlined: Any = njit(cache=True, fastmath=True, error_model="numpy", nogil=True, forceinline=True)


def lens(camera: Camera, params: RenderParams) -> tuple[Any, ...]:
    """What `project` and `project_backward` are told of the camera and of how to draw, as they take it."""
    pose = camera.pose.numpy()
    intrinsics = np.array([*camera.focal, *camera.centre], np.float32)
    return params.sh_degree, pose, camera.eye, intrinsics, camera.width, camera.height


@_inlined
def _exp(x):
    """exp(-x) for x in [0, 6]."""
    square = x * x
    e = (_E4 * square + _E3 * x + _E2) * square + (_E1 * x + _E0)
    e = e * e
    e = e * e
    return e * e


@_compiled
def _sh_basis(degree, x, y, z, basis):
    """Real spherical harmonics of a unit direction, in the order of the 3DGS PLY."""
    basis[0] = C0
    if degree >= 1:
        basis[1], basis[2], basis[3] = -_C1 * y, _C1 * z, -_C1 * x
    if degree >= 2:
        basis[4] = _C2[0] * x * y
        basis[5] = _C2[1] * y * z
        basis[6] = _C2[2] * (2 * z * z - x * x - y * y)
        basis[7] = _C2[3] * x * z
        basis[8] = _C2[4] * (x * x - y * y)
    if degree >= 3:
        basis[9] = _C3[0] * y * (3 * x * x - y * y)
        basis[10] = _C3[1] * x * y * z
        basis[11] = _C3[2] * y * (4 * z * z - x * x - y * y)
        basis[12] = _C3[3] * z * (2 * z * z - 3 * x * x - 3 * y * y)
        basis[13] = _C3[4] * x * (4 * z * z - x * x - y * y)
        basis[14] = _C3[5] * z * (x * x - y * y)
        basis[15] = _C3[6] * x * (x * x - 3 * y * y)


@_compiled
def _sh_slope(degree, x, y, z, weight):
    """Gradient with respect to the direction of the sum of `weight[k]` times basis function k."""
    gx, gy, gz = 0.0, 0.0, 0.0
    if degree >= 1:
        gx, gy, gz = -_C1 * weight[3], -_C1 * weight[1], _C1 * weight[2]
    if degree >= 2:
        w4, w5, w6 = _C2[0] * weight[4], _C2[1] * weight[5], _C2[2] * weight[6]
        w7, w8 = _C2[3] * weight[7], _C2[4] * weight[8]
        gx += w4 * y - 2 * w6 * x + w7 * z + 2 * w8 * x
        gy += w4 * x + w5 * z - 2 * w6 * y - 2 * w8 * y
        gz += w5 * y + 4 * w6 * z + w7 * x
    if degree >= 3:
        xx, yy, zz = x * x, y * y, z * z
        w9, w10, w11, w12 = _C3[0] * weight[9], _C3[1] * weight[10], _C3[2] * weight[11], _C3[3] * weight[12]
        w13, w14, w15 = _C3[4] * weight[13], _C3[5] * weight[14], _C3[6] * weight[15]
        gx += 6 * w9 * x * y + w10 * y * z - 2 * w11 * x * y - 6 * w12 * x * z
        gx += w13 * (4 * zz - 3 * xx - yy) + 2 * w14 * x * z + 3 * w15 * (xx - yy)
        gy += 3 * w9 * (xx - yy) + w10 * x * z + w11 * (4 * zz - xx - 3 * yy) - 6 * w12 * y * z
        gy += -2 * w13 * x * y - 2 * w14 * y * z - 6 * w15 * x * y
        gz += w10 * x * y + 8 * w11 * y * z + w12 * (6 * zz - 3 * xx - 3 * yy) + 8 * w13 * x * z + w14 * (xx - yy)
    return gx, gy, gz


@_inlined
def _rotation(q):
    """Rotation matrix of a quaternion (w, x, y, z), row by row."""
    length = math.sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3])
    w, x, y, z = q[0] / length, q[1] / length, q[2] / length, q[3] / length
    return (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )


@_inlined
def _jacobian(x, y, z, camera, width, height):
    """The perspective's derivative in px: d(u)/dx, d(u)/dz, d(v)/dy, d(v)/dz, and whether x and y were in its limits.

    Beyond 1.3 times the half field of view the affine approximation breaks, so the direction is clamped there.
    """
    fx, fy, cx, cy = camera
    margin_x, margin_y = 0.15 * width / fx, 0.15 * height / fy
    u = min((width - cx) / fx + margin_x, max(-cx / fx - margin_x, x / z))
    v = min((height - cy) / fy + margin_y, max(-cy / fy - margin_y, y / z))
    return fx / z, -fx * u / z, fy / z, -fy * v / z, u == x / z, v == y / z


@_inlined
def _half_covariance(row0, row1, pose, rot, scale):
    """The 2 x 3 matrix whose product with its transpose is the 2D covariance: J W R S."""
    j00, j02, j11, j12 = row0[0], row0[1], row1[0], row1[1]
    t0 = (j00 * pose[0, 0] + j02 * pose[2, 0], j00 * pose[0, 1] + j02 * pose[2, 1], j00 * pose[0, 2] + j02 * pose[2, 2])
    t1 = (j11 * pose[1, 0] + j12 * pose[2, 0], j11 * pose[1, 1] + j12 * pose[2, 1], j11 * pose[1, 2] + j12 * pose[2, 2])
    h0 = (
        (t0[0] * rot[0][0] + t0[1] * rot[1][0] + t0[2] * rot[2][0]) * scale[0],
        (t0[0] * rot[0][1] + t0[1] * rot[1][1] + t0[2] * rot[2][1]) * scale[1],
        (t0[0] * rot[0][2] + t0[1] * rot[1][2] + t0[2] * rot[2][2]) * scale[2],
    )
    h1 = (
        (t1[0] * rot[0][0] + t1[1] * rot[1][0] + t1[2] * rot[2][0]) * scale[0],
        (t1[0] * rot[0][1] + t1[1] * rot[1][1] + t1[2] * rot[2][1]) * scale[1],
        (t1[0] * rot[0][2] + t1[1] * rot[1][2] + t1[2] * rot[2][2]) * scale[2],
    )
    return t0, t1, h0, h1


@_compiled
def project(part, parts, means, quats, scales, opacities, sh, degree, pose, eye, camera, width, height, screen, depth):
    """Fill `screen` (N, SCREEN) and `depth` (N,); a Gaussian that cannot be seen gets depth 0.

    :param pose: (4, 4) world to camera.
    :param eye: (3,) the camera's place in the world.
    :param camera: focal lengths and principal point in px, (fx, fy, cx, cy).
    """
    basis = np.empty(16)  # made once: an allocation a Gaussian costs more than its arithmetic
    for i in range(len(means) * part // parts, len(means) * (part + 1) // parts):
        depth[i] = 0
        m = means[i]
        z = pose[2, 0] * m[0] + pose[2, 1] * m[1] + pose[2, 2] * m[2] + pose[2, 3]
        if z < NEAR or opacities[i] < _MIN_ALPHA:
            continue
        x = pose[0, 0] * m[0] + pose[0, 1] * m[1] + pose[0, 2] * m[2] + pose[0, 3]
        y = pose[1, 0] * m[0] + pose[1, 1] * m[1] + pose[1, 2] * m[2] + pose[1, 3]
        j00, j02, j11, j12, _, _ = _jacobian(x, y, z, camera, width, height)
        u, v = camera[0] * x / z + camera[2], camera[1] * y / z + camera[3]
        # Most of what is not in the picture is told by its longest axis: no matrices are needed.
        longest = max(scales[i, 0], scales[i, 1], scales[i, 2])
        reach_x = _MOST_REACH * (longest * longest * (j00 * j00 + j02 * j02) + DILATION)
        reach_y = _MOST_REACH * (longest * longest * (j11 * j11 + j12 * j12) + DILATION)
        beside, above = max(-u, u - width, 0.0), max(-v, v - height, 0.0)
        if beside * beside > reach_x or above * above > reach_y:
            continue
        rot = _rotation(quats[i])
        _, _, h0, h1 = _half_covariance((j00, j02), (j11, j12), pose, rot, scales[i])
        xx = h0[0] * h0[0] + h0[1] * h0[1] + h0[2] * h0[2] + DILATION
        xy = h0[0] * h1[0] + h0[1] * h1[1] + h0[2] * h1[2]
        yy = h1[0] * h1[0] + h1[1] * h1[1] + h1[2] * h1[2] + DILATION
        reach = math.log(255 * opacities[i])
        rx, ry = math.sqrt(2 * reach * xx), math.sqrt(2 * reach * yy)
        if u + rx <= 0 or u - rx >= width or v + ry <= 0 or v - ry >= height:
            continue
        det = xx * yy - xy * xy
        depth[i] = z
        s = screen[i]
        s[0], s[1], s[2], s[3], s[4], s[5] = u, v, yy / det, -xy / det, xx / det, min(opacities[i], _MAX_ALPHA)
        s[9], s[10], s[11] = reach, rx, ry
        dx, dy, dz = m[0] - eye[0], m[1] - eye[1], m[2] - eye[2]
        length = math.sqrt(dx * dx + dy * dy + dz * dz)
        _sh_basis(degree, dx / length, dy / length, dz / length, basis)
        for c in range(3):
            colour = 0.5
            for k in range((degree + 1) * (degree + 1)):
                colour += basis[k] * sh[i, k, c]
            s[6 + c] = max(colour, 0.0)


@_compiled
def project_backward(
    part, parts, means, quats, scales, opacities, sh, degree, pose, eye, camera, width, height, screen, depth, begin,
    moments, d_means, d_quats, d_scales, d_opacities, d_sh, d_screen,
):  # fmt: skip
    """Carry the rasteriser's `moments` (pairs, MOMENTS) back to the Gaussians.

    :param begin: (N + 1,) where each Gaussian's pairs begin, and the last one's end.

    `d_screen` (N,) gets the summed absolute gradient (x and y) of the centre in px (Ye et al. 2024, AbsGS).
    """
    # Made once: allocations a Gaussian would take longer than its arithmetic.
    g, d_rot, d_t = np.empty(MOMENTS, np.float32), np.empty((3, 3)), np.empty((2, 3))
    basis, weight = np.empty(16), np.empty(16)
    for i in range(len(means) * part // parts, len(means) * (part + 1) // parts):
        if depth[i] == 0:
            continue
        g[:] = 0
        for pair in range(begin[i], begin[i + 1]):
            for k in range(MOMENTS):
                g[k] += moments[pair, k]
        s, m = screen[i], means[i]
        a, b, c = s[2], s[3], s[4]
        d_screen[i] = g[9]
        d_opacities[i] = -g[0] / opacities[i] if opacities[i] < _MAX_ALPHA else _ZERO
        # The conic is the covariance's inverse, so its gradient is carried by -Q G Q.
        g_xx, g_xy, g_yy = 0.5 * g[3], 0.5 * g[4], 0.5 * g[5]
        p00, p01, p10, p11 = a * g_xx + b * g_xy, a * g_xy + b * g_yy, b * g_xx + c * g_xy, b * g_xy + c * g_yy
        v_xx, v_xy, v_yy = -(p00 * a + p01 * b), -(p00 * b + p01 * c), -(p10 * b + p11 * c)
        x = pose[0, 0] * m[0] + pose[0, 1] * m[1] + pose[0, 2] * m[2] + pose[0, 3]
        y = pose[1, 0] * m[0] + pose[1, 1] * m[1] + pose[1, 2] * m[2] + pose[1, 3]
        z = pose[2, 0] * m[0] + pose[2, 1] * m[1] + pose[2, 2] * m[2] + pose[2, 3]
        rot = _rotation(quats[i])
        j00, j02, j11, j12, in_x, in_y = _jacobian(x, y, z, camera, width, height)
        t0, t1, h0, h1 = _half_covariance((j00, j02), (j11, j12), pose, rot, scales[i])
        d_t[:] = 0
        for k in range(3):
            g0, g1 = 2 * (v_xx * h0[k] + v_xy * h1[k]), 2 * (v_xy * h0[k] + v_yy * h1[k])
            scale, along = scales[i, k], 0.0
            for r in range(3):
                d_half = g0 * t0[r] + g1 * t1[r]
                along += d_half * rot[r][k]
                d_rot[r, k] = d_half * scale
                d_t[0, r] += g0 * rot[r][k] * scale
                d_t[1, r] += g1 * rot[r][k] * scale
            d_scales[i, k] = along
        _quaternion_backward(quats[i], d_rot, d_quats[i])
        d_j00 = d_t[0, 0] * pose[0, 0] + d_t[0, 1] * pose[0, 1] + d_t[0, 2] * pose[0, 2]
        d_j02 = d_t[0, 0] * pose[2, 0] + d_t[0, 1] * pose[2, 1] + d_t[0, 2] * pose[2, 2]
        d_j11 = d_t[1, 0] * pose[1, 0] + d_t[1, 1] * pose[1, 1] + d_t[1, 2] * pose[1, 2]
        d_j12 = d_t[1, 0] * pose[2, 0] + d_t[1, 1] * pose[2, 1] + d_t[1, 2] * pose[2, 2]
        d_u, d_v = -(a * g[1] + b * g[2]), -(b * g[1] + c * g[2])
        d_x, d_y = d_u * j00, d_v * j11
        d_z = -(d_u * camera[0] * x + d_v * camera[1] * y) / (z * z)
        d_z -= (d_j00 * j00 + d_j11 * j11) / z
        # Inside the limits J02 is -f x / z², at a limit -f u / z.
        d_z -= d_j02 * j02 * (2 if in_x else 1) / z + d_j12 * j12 * (2 if in_y else 1) / z
        if in_x:
            d_x -= d_j02 * camera[0] / (z * z)
        if in_y:
            d_y -= d_j12 * camera[1] / (z * z)
        dx, dy, dz = m[0] - eye[0], m[1] - eye[1], m[2] - eye[2]
        length = math.sqrt(dx * dx + dy * dy + dz * dz)
        dx, dy, dz = dx / length, dy / length, dz / length
        gx, gy, gz = _colour_backward(degree, dx, dy, dz, s[6:9], g[6:9], sh[i], d_sh[i], basis, weight)
        along = gx * dx + gy * dy + gz * dz
        d_means[i, 0] = pose[0, 0] * d_x + pose[1, 0] * d_y + pose[2, 0] * d_z + (gx - along * dx) / length
        d_means[i, 1] = pose[0, 1] * d_x + pose[1, 1] * d_y + pose[2, 1] * d_z + (gy - along * dy) / length
        d_means[i, 2] = pose[0, 2] * d_x + pose[1, 2] * d_y + pose[2, 2] * d_z + (gz - along * dz) / length


@_compiled
def _colour_backward(degree, x, y, z, colour, d_colour, sh, d_sh, basis, weight):
    """Fill the gradient of spherical harmonics; returns that of the unit direction."""
    weight[:] = 0
    _sh_basis(degree, x, y, z, basis)
    for c in range(3):
        if colour[c] > 0:  # darker than black was cut off
            for k in range((degree + 1) * (degree + 1)):
                d_sh[k, c] = d_colour[c] * basis[k]
                weight[k] += d_colour[c] * sh[k, c]
    return _sh_slope(degree, x, y, z, weight)


@_compiled
def _quaternion_backward(q, d_rot, d_q):
    """Gradient of an unnormalised quaternion from that of its rotation matrix."""
    length = math.sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3])
    w, x, y, z = q[0] / length, q[1] / length, q[2] / length, q[3] / length
    skew_x, skew_y, skew_z = d_rot[2, 1] - d_rot[1, 2], d_rot[0, 2] - d_rot[2, 0], d_rot[1, 0] - d_rot[0, 1]
    sum_xy, sum_xz, sum_yz = d_rot[0, 1] + d_rot[1, 0], d_rot[0, 2] + d_rot[2, 0], d_rot[1, 2] + d_rot[2, 1]
    g_w = 2 * (x * skew_x + y * skew_y + z * skew_z)
    g_x = 2 * (y * sum_xy + z * sum_xz + w * skew_x - 2 * x * (d_rot[1, 1] + d_rot[2, 2]))
    g_y = 2 * (x * sum_xy + z * sum_yz + w * skew_y - 2 * y * (d_rot[0, 0] + d_rot[2, 2]))
    g_z = 2 * (x * sum_xz + y * sum_yz + w * skew_z - 2 * z * (d_rot[0, 0] + d_rot[1, 1]))
    along = g_w * w + g_x * x + g_y * y + g_z * z
    d_q[0], d_q[1] = (g_w - along * w) / length, (g_x - along * x) / length
    d_q[2], d_q[3] = (g_y - along * y) / length, (g_z - along * z) / length


@_compiled
def depth_order(depth):
    """Indices of the visible Gaussians from near to far: a radix sort of the depths' bits (all positive)."""
    visible = np.nonzero(depth)[0].astype(np.int32)
    key, swap_key = depth[visible].view(np.uint32), np.empty(len(visible), np.uint32)
    order, swap = visible, np.empty(len(visible), np.int32)
    for shift in (0, 11, 22):
        start = np.zeros(2049, np.int64)
        for k in key:
            start[((k >> shift) & 2047) + 1] += 1
        start = np.cumsum(start)
        for i in range(len(key)):
            digit = (key[i] >> shift) & 2047
            swap_key[start[digit]], swap[start[digit]] = key[i], order[i]
            start[digit] += 1
        key, swap_key, order, swap = swap_key, key, swap, order
    return order


@_inlined
def _tiles(s, columns, rows):
    """First and past-the-end tile that a Gaussian's box touches, in x and in y."""
    return (
        max(int((s[0] - s[10]) / LANES), 0),
        min(int((s[0] + s[10]) / LANES) + 1, columns),
        max(int((s[1] - s[11]) / ROWS), 0),
        min(int((s[1] + s[11]) / ROWS) + 1, rows),
    )


@_inlined
def _rows(s, x0, height):
    """First and past-the-end row of the picture in which a Gaussian reaches pixels of the tiles that begin at x0.

    An ellipse's upper bound is concave over x, so over a tile's width it is highest where x is next to the peak's.
    """
    left = x0 + _HALF - s[0]
    right = left + np.float32(LANES - 1)
    a, b, c = s[2], s[3], s[4]
    peak = -b / a * s[11]
    top, low = min(max(-peak, left), right), min(max(peak, left), right)
    most, det = _TWO * c * s[9], a * c - b * b
    above, below = most - det * top * top, most - det * low * low
    if above < 0 and below < 0:
        return 0, 0
    first = s[1] - (b * top + math.sqrt(max(above, _ZERO))) / c
    last = s[1] - (b * low - math.sqrt(max(below, _ZERO))) / c
    return max(int(first + _HALF), 0), min(int(last + _HALF), height)


@_compiled
def find_pairs(part, parts, screen, depth, width, height, number):
    """The tiles that each Gaussian of this part touches, one Gaussian after the other; they are numbered row by row.

    Returns of each such pair the tile, and the first and the past-the-end of its rows that the Gaussian reaches.

    :param number: (N,) gets how many these are.
    """
    columns, rows = (width + LANES - 1) // LANES, (height + ROWS - 1) // ROWS
    first, last = len(depth) * part // parts, len(depth) * (part + 1) // parts
    room = 0
    for i in range(first, last):
        if depth[i] > 0:
            tx0, tx1, ty0, ty1 = _tiles(screen[i], columns, rows)
            room += max(tx1 - tx0, 0) * max(ty1 - ty0, 0)
    pairs, found = np.empty((room, 3), np.int32), 0
    for i in range(first, last):
        before = found
        if depth[i] > 0:
            s = screen[i]
            tx0, tx1, ty0, ty1 = _tiles(s, columns, rows)
            for tx in range(tx0, tx1):
                row0, row1 = _rows(s, np.float32(tx * LANES), height)
                for ty in range(max(row0 // ROWS, ty0), min((row1 + ROWS - 1) // ROWS, ty1)):
                    pair = pairs[found]
                    pair[0] = ty * columns + tx
                    pair[1], pair[2] = max(row0 - ty * ROWS, 0), min(row1 - ty * ROWS, ROWS)
                    found += 1
        number[i] = found - before
    return pairs[:found]


@_compiled
def count_pairs(part, parts, order, begin, pairs, count):
    """Fill this part's row of `count` (parts, tiles): how many of its Gaussians touch each tile.

    :param order: the visible Gaussians from near to far; a part takes some that follow one another.
    :param begin: (N + 1,) where each Gaussian's begin in `pairs`.
    """
    count[part] = 0
    for i in order[len(order) * part // parts : len(order) * (part + 1) // parts]:
        for k in range(begin[i], begin[i + 1]):
            count[part, pairs[k, 0]] += 1


@_compiled
def sort_pairs(part, parts, order, begin, pairs, place, drawing):
    """Put this part's pairs of a tile and a Gaussian where the tiles have them.

    :param place: (parts, tiles) where this part's pairs of each tile begin in `drawing`; counted up.
    :param drawing: (pairs, 4) gets of each the Gaussian, its first and past-the-end row, and its place in `pairs`.
    """
    for i in order[len(order) * part // parts : len(order) * (part + 1) // parts]:
        for k in range(begin[i], begin[i + 1]):
            pair = pairs[k]
            drawn = drawing[place[part, pair[0]]]
            drawn[0], drawn[1], drawn[2], drawn[3] = i, pair[1], pair[2], k
            place[part, pair[0]] += 1


@_compiled
def _all_below(scratch, rows, least):
    """Whether no pixel of a tile's first rows lets as much light through as that."""
    for at in range(0, rows * _NEXT, _NEXT):
        for k in range(at, at + LANES):
            if scratch[k] >= least:
                return False
    return True


@_compiled
def _draw_tile(screen, drawing, first, last, x0, y0, inside, scratch):
    """Composite Gaussians over a tile, near to far; returns how many were drawn before it was opaque.

    :param inside: how many of its rows are in the picture.
    """
    one, far, opaque = spread(_ONE), spread(_FAR), spread(_OPAQUE)
    for n in range(first, last):
        if (n - first) % 32 == 31 and _all_below(scratch, inside, _OPAQUE):
            return n
        if n + 3 < last:
            prefetch(screen, drawing[n + 3, 0])
        i, first_row, end_row = drawing[n, 0], drawing[n, 1], drawing[n, 2]
        s = screen[i]
        opacity, red, green, blue, reach = s[5], s[6], s[7], s[8], spread(s[9])
        dx, dy = numbered() + (x0 + _HALF - s[0]), spread(y0 + np.float32(first_row) - _HALF - s[1])
        across, slant, half_c = _HALF * s[2] * dx * dx, s[3] * dx, spread(_HALF * s[4])
        for at in range(first_row * _NEXT, end_row * _NEXT, _NEXT):
            dy = dy + one
            power = across + dy * (slant + half_c * dy)
            transmittance = load(scratch, at)
            weight = where_at_most(power, reach, opacity * transmittance * _exp(smaller(power, far)))
            weight = where_at_most(opaque, transmittance, weight)
            store(scratch, at, transmittance - weight)
            store(scratch, at + _RED, load(scratch, at + _RED) + weight * red)
            store(scratch, at + _GREEN, load(scratch, at + _GREEN) + weight * green)
            store(scratch, at + _BLUE, load(scratch, at + _BLUE) + weight * blue)
    return last


@_compiled
def draw(part, parts, screen, start, drawing, background, image, transmittance, drawn):
    """Fill `image` (H, W, 3), `transmittance` (H, W) and, for the way back, `drawn` (tiles,)."""
    height, width = transmittance.shape
    columns = (width + LANES - 1) // LANES
    scratch, edge = np.empty(ROWS * _NEXT, np.float32), np.empty(3 * LANES, np.float32)
    colours, light = image.reshape(3 * height * width), transmittance.reshape(height * width)
    for tile in range(part, len(drawn), parts):
        x0, y0 = tile % columns * LANES, tile // columns * ROWS
        beyond = x0 + LANES - width  # columns of the tile, where this is above 0
        for at in range(0, ROWS * _NEXT, _NEXT):
            store(scratch, at, spread(_ONE))
            for field in (_RED, _GREEN, _BLUE):
                store(scratch, at + field, spread(_ZERO))
        first, last, inside = start[tile], start[tile + 1], min(ROWS, height - y0)
        drawn[tile] = _draw_tile(screen, drawing, first, last, np.float32(x0), np.float32(y0), inside, scratch)
        for row in range(inside):
            pixel, at = (y0 + row) * width + x0, row * _NEXT
            left = load(scratch, at)
            red = load(scratch, at + _RED) + left * background[0]
            green = load(scratch, at + _GREEN) + left * background[1]
            blue = load(scratch, at + _BLUE) + left * background[2]
            if beyond > 0:
                store_colours(edge, 0, red, green, blue)
                colours[3 * pixel : 3 * (pixel + LANES - beyond)] = edge[: 3 * (LANES - beyond)]
                light[pixel : pixel + LANES - beyond] = scratch[at : at + LANES - beyond]
            else:
                store_colours(colours, 3 * pixel, red, green, blue)
                store(light, pixel, left)


@_compiled
def slopes(part, parts, means, quats, scales, pose, camera, width, height, screen, depth, slope):
    """Fill `slope` (N, 2): by how much each visible Gaussian's depth changes per px to the right and down.

    It is the mean depth of a Gaussian given the pixel: Zhang et al. 2024, RaDe-GS.
    """
    for i in range(len(means) * part // parts, len(means) * (part + 1) // parts):
        if depth[i] == 0:
            continue
        m, s = means[i], screen[i]
        x = pose[0, 0] * m[0] + pose[0, 1] * m[1] + pose[0, 2] * m[2] + pose[0, 3]
        y = pose[1, 0] * m[0] + pose[1, 1] * m[1] + pose[1, 2] * m[2] + pose[1, 3]
        rot = _rotation(quats[i])
        j00, j02, j11, j12, _, _ = _jacobian(x, y, depth[i], camera, width, height)
        _, _, h0, h1 = _half_covariance((j00, j02), (j11, j12), pose, rot, scales[i])
        zx, zy = 0.0, 0.0
        for k in range(3):
            hz = (pose[2, 0] * rot[0][k] + pose[2, 1] * rot[1][k] + pose[2, 2] * rot[2][k]) * scales[i, k]
            zx += h0[k] * hz
            zy += h1[k] * hz
        slope[i, 0], slope[i, 1] = zx * s[2] + zy * s[3], zx * s[3] + zy * s[4]


@_compiled
def draw_depth(part, parts, screen, depth, slope, start, drawing, median):
    """Fill `median` (H, W): the depth at which half of the light is gone, 0 where it never is."""
    height, width = median.shape
    columns = (width + LANES - 1) // LANES
    scratch = np.empty(ROWS * _NEXT, np.float32)
    one, far, half = spread(_ONE), spread(_FAR), spread(_HALF)
    for tile in range(part, len(start) - 1, parts):
        x0, y0 = tile % columns * LANES, tile // columns * ROWS
        inside = min(ROWS, height - y0)
        for at in range(0, ROWS * _NEXT, _NEXT):
            store(scratch, at, one)
            store(scratch, at + _RED, spread(_ZERO))
        for n in range(start[tile], start[tile + 1]):
            if (n - start[tile]) % 32 == 31 and _all_below(scratch, inside, _HALF):
                break
            i, first_row, end_row = drawing[n, 0], drawing[n, 1], drawing[n, 2]
            s = screen[i]
            opacity, reach = s[5], spread(s[9])
            left, above = np.float32(x0) + _HALF - s[0], np.float32(y0) + np.float32(first_row) - _HALF - s[1]
            dx, dy = numbered() + left, spread(above)
            across, slant, half_c = _HALF * s[2] * dx * dx, s[3] * dx, spread(_HALF * s[4])
            here = depth[i] + slope[i, 0] * dx
            for at in range(first_row * _NEXT, end_row * _NEXT, _NEXT):
                dy = dy + one
                power = across + dy * (slant + half_c * dy)
                before = load(scratch, at)
                after = before - where_at_most(power, reach, opacity * before * _exp(smaller(power, far)))
                store(scratch, at, after)
                depths = here + slope[i, 1] * dy
                crossed = where_at_most(after, half, depths) - where_at_most(before, half, depths)
                store(scratch, at + _RED, load(scratch, at + _RED) + crossed)
        for row in range(inside):
            for x in range(x0, min(x0 + LANES, width)):
                median[y0 + row, x] = scratch[row * _NEXT + _RED + x - x0]


@_compiled
def _undraw_tile(screen, drawing, first, last, x0, y0, scratch, moments):
    """Go over a tile's Gaussians again, near to far, and add up the gradient of each pair.

    What lies behind a Gaussian is the stored colour minus what was composited so far, so nothing is kept per pixel
    and Gaussian; only its product with the upstream gradient matters.
    """
    one, none, far, opaque = spread(_ONE), spread(_ZERO), spread(_FAR), spread(_OPAQUE)
    for n in range(first, last):
        if n + 3 < last:
            prefetch(screen, drawing[n + 3, 0])
            prefetch(moments, drawing[n + 3, 3])
        i, first_row, end_row = drawing[n, 0], drawing[n, 1], drawing[n, 2]
        s = screen[i]
        a, b, c, opacity, reach = s[2], s[3], s[4], s[5], spread(s[9])
        red, green, blue = s[6], s[7], s[8]
        dx, dy = numbered() + (x0 + _HALF - s[0]), spread(y0 + np.float32(first_row) - _HALF - s[1])
        steep, slant, half_c = a * dx, b * dx, spread(_HALF * c)
        across = _HALF * steep * dx
        # Of the exponent's gradient, each lane by itself: its sum, and those of it times dy and dy squared.
        s_1, s_y, s_yy, s_abs = none, none, none, none
        s_red, s_green, s_blue = none, none, none
        for at in range(first_row * _NEXT, end_row * _NEXT, _NEXT):
            dy = dy + one
            power = across + dy * (slant + half_c * dy)
            transmittance = load(scratch, at)
            alpha = where_at_most(power, reach, opacity * _exp(smaller(power, far)))
            alpha = where_at_most(opaque, transmittance, alpha)
            g_red, g_green, g_blue = load(scratch, at + _RED), load(scratch, at + _GREEN), load(scratch, at + _BLUE)
            weight = alpha * transmittance
            drawn = weight * (g_red * red + g_green * green + g_blue * blue)
            behind = load(scratch, at + _BEHIND) - drawn
            store(scratch, at, transmittance - weight)
            store(scratch, at + _BEHIND, behind)
            s_red = s_red + weight * g_red
            s_green = s_green + weight * g_green
            s_blue = s_blue + weight * g_blue
            slope = alpha / (_ONE - alpha) * behind - drawn
            slope_y = slope * dy
            s_1 = s_1 + slope
            s_y = s_y + slope_y
            s_yy = s_yy + slope_y * dy
            s_abs = s_abs + magnitude(slope) * (magnitude(steep + b * dy) + magnitude(slant + c * dy))
        g = moments[drawing[n, 3]]
        g[0], g[1], g[2] = total(s_1), total(s_1 * dx), total(s_y)
        g[3], g[4], g[5] = total(s_1 * dx * dx), total(s_y * dx), total(s_yy)
        g[6], g[7], g[8], g[9] = total(s_red), total(s_green), total(s_blue), total(s_abs)


@_compiled
def draw_backward(part, parts, screen, start, drawing, drawn, image, d_image, moments):
    """Fill `moments` (pairs, MOMENTS) from dL/d(image)."""
    height, width = image.shape[:2]
    columns = (width + LANES - 1) // LANES
    scratch, edge = np.empty(ROWS * _NEXT, np.float32), np.empty(3 * LANES, np.float32)
    colours, slopes = image.reshape(3 * height * width), d_image.reshape(3 * height * width)
    for tile in range(part, len(drawn), parts):
        x0, y0 = tile % columns * LANES, tile // columns * ROWS
        beyond = x0 + LANES - width
        for row in range(min(ROWS, height - y0)):
            pixel, at = 3 * ((y0 + row) * width + x0), row * _NEXT
            if beyond > 0:
                edge[:] = 0
                edge[: 3 * (LANES - beyond)] = slopes[pixel : pixel + 3 * (LANES - beyond)]
                red, green, blue = load_colours(edge, 0)
                edge[: 3 * (LANES - beyond)] = colours[pixel : pixel + 3 * (LANES - beyond)]
                r, g, b = load_colours(edge, 0)
            else:
                red, green, blue = load_colours(slopes, pixel)
                r, g, b = load_colours(colours, pixel)
            store(scratch, at, spread(_ONE))
            store(scratch, at + _RED, red)
            store(scratch, at + _GREEN, green)
            store(scratch, at + _BLUE, blue)
            store(scratch, at + _BEHIND, r * red + g * green + b * blue)
        first, last = start[tile], drawn[tile]
        _undraw_tile(screen, drawing, first, last, np.float32(x0), np.float32(y0), scratch, moments)
        for n in range(last, start[tile + 1]):
            moments[drawing[n, 3]] = 0
