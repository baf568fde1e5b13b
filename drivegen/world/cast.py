"""Rays against primitives: one hit, its normal, and the lists that keep the number of tests small."""

from __future__ import annotations

import numba as nb
import numpy as np

from drivegen.world.parts import AXES, BALL, BOX, CONE, CYLINDER, FOLIAGE, MATERIAL, SEED, SHAPE, TAPER, TAPERED

TILE_PX = 8
FAR = 1e9


@nb.njit(cache=True)
def hash3(x, y, z):  # type: ignore[no-untyped-def]
    """Hash three integers to a number in [0, 1).

    Args:
        x: first integer.
        y: second integer.
        z: third integer, often a seed.
    """
    h = np.uint32(x) * np.uint32(374761393) + np.uint32(y) * np.uint32(668265263) + np.uint32(z) * np.uint32(2147483647)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(1274126177)
    h = (h ^ (h >> np.uint32(16))) * np.uint32(2246822519)
    return ((h ^ (h >> np.uint32(15))) & np.uint32(0xFFFFFF)) / 16777216.0


@nb.njit(cache=True)
def noise(x, y, seed):  # type: ignore[no-untyped-def]
    """Return smooth value noise in the plane, in [0, 1).

    Args:
        x: first coordinate, in cells of the noise.
        y: second coordinate, in cells of the noise.
        seed: an integer; each gives another pattern.
    """
    i, j = int(np.floor(x)), int(np.floor(y))
    f, g = x - i, y - j
    f, g = f * f * (3 - 2 * f), g * g * (3 - 2 * g)
    a = hash3(i, j, seed) * (1 - f) + hash3(i + 1, j, seed) * f
    b = hash3(i, j + 1, seed) * (1 - f) + hash3(i + 1, j + 1, seed) * f
    return a * (1 - g) + b * g


@nb.njit(cache=True)
def noise3(x, y, z, seed):  # type: ignore[no-untyped-def]
    """Return smooth value noise in space, in [0, 1).

    Args:
        x: first coordinate, in cells of the noise.
        y: second coordinate, in cells of the noise.
        z: third coordinate, in cells of the noise.
        seed: an integer; each gives another pattern.
    """
    k = int(np.floor(z))
    f = z - k
    f = f * f * (3 - 2 * f)
    return noise(x, y, seed + 7919 * k) * (1 - f) + noise(x, y, seed + 7919 * (k + 1)) * f


@nb.njit(cache=True)
def _slab(a, b, lo, hi):  # type: ignore[no-untyped-def]
    """Clip [lo, hi] to where a + t·b <= 0."""
    if b > 1e-12:
        t = -a / b
        if t < hi:
            hi = t
    elif b < -1e-12:
        t = -a / b
        if t > lo:
            lo = t
    elif a > 0:
        hi = lo - 1.0
    return lo, hi


@nb.njit(cache=True)
def hit(numbers, labels, i, ox, oy, oz, dx, dy, dz, tmax):  # type: ignore[no-untyped-def]
    """Intersect a ray with one primitive: the distance in units of d, or FAR for no hit within (1e-4, tmax).

    Args:
        numbers: (N, WIDTH), of `Parts`.
        labels: (N, 5), of `Parts`.
        i: index of the primitive.
        ox, oy, oz: origin of the ray, in metres.
        dx, dy, dz: its direction d, of any length.
        tmax: hits at or beyond this distance do not count.
    """
    p = numbers[i]
    ex, ey, ez = ox - p[0], oy - p[1], oz - p[2]
    px = p[3] * ex + p[4] * ey + p[5] * ez
    qx = p[3] * dx + p[4] * dy + p[5] * dz
    py = p[6] * ex + p[7] * ey + p[8] * ez
    qy = p[6] * dx + p[7] * dy + p[8] * dz
    pz = p[9] * ex + p[10] * ey + p[11] * ez
    qz = p[9] * dx + p[10] * dy + p[11] * dz
    shape = labels[i, SHAPE]
    lo, hi = 1e-4, tmax
    lo, hi = _slab(pz - 1, qz, lo, hi)
    lo, hi = _slab(-pz - 1, -qz, lo, hi)
    if lo > hi:
        return FAR
    if shape == BOX:
        lo, hi = _slab(px - 1, qx, lo, hi)
        lo, hi = _slab(-px - 1, -qx, lo, hi)
        lo, hi = _slab(py - 1, qy, lo, hi)
        lo, hi = _slab(-py - 1, -qy, lo, hi)
    elif shape == TAPERED:
        a, b = p[TAPER] / 2, p[TAPER + 1] / 2
        lo, hi = _slab(px + a * pz - 1 + a, qx + a * qz, lo, hi)
        lo, hi = _slab(-px + a * pz - 1 + a, -qx + a * qz, lo, hi)
        lo, hi = _slab(py + b * pz - 1 + b, qy + b * qz, lo, hi)
        lo, hi = _slab(-py + b * pz - 1 + b, -qy + b * qz, lo, hi)
    else:
        if shape == BALL:
            a = qx * qx + qy * qy + qz * qz
            b = px * qx + py * qy + pz * qz
            c = px * px + py * py + pz * pz - 1
        elif shape == CYLINDER:
            a = qx * qx + qy * qy
            b = px * qx + py * qy
            c = px * px + py * py - 1
        else:
            k = p[TAPER] / 2
            r, s = 1 - k - k * pz, -k * qz
            a = qx * qx + qy * qy - s * s
            b = px * qx + py * qy - r * s
            c = px * px + py * py - r * r
        if abs(a) < 1e-12:
            return FAR
        disc = b * b - a * c
        if disc < 0:
            return FAR
        root = disc**0.5
        if a > 0:
            lo = max(lo, (-b - root) / a)
            hi = min(hi, (-b + root) / a)
        else:  # within the steep part of a cone's double: the nearer root in range
            t = min((-b - root) / a, (-b + root) / a)
            u = max((-b - root) / a, (-b + root) / a)
            if lo <= t <= hi:
                hi = min(hi, t) if c <= 0 else hi
                lo = t if c > 0 else lo
            elif lo <= u <= hi:
                lo = u if c > 0 else lo
            elif c > 0:
                return FAR
    if lo > hi or lo <= 1e-4:
        return FAR
    if labels[i, MATERIAL] == FOLIAGE:
        # leaves: holes towards the rim, fixed in the world
        x, y, z = ox + lo * dx, oy + lo * dy, oz + lo * dz
        lx, ly, lz = px + lo * qx, py + lo * qy, pz + lo * qz
        norm = (qx * qx + qy * qy + qz * qz) ** 0.5
        facing = abs(lx * qx + ly * qy + lz * qz) / norm if shape == BALL else 0.6
        if noise3(x * 2.6, y * 2.6, z * 2.6, labels[i, SEED]) > 0.3 + 0.6 * facing:
            return FAR
    return lo


@nb.njit(cache=True)
def normal(numbers, labels, i, x, y, z):  # type: ignore[no-untyped-def]
    """Return the unit normal (3) of a primitive at a point on it, and the point (3) in the primitive's own units.

    Args:
        numbers: (N, WIDTH), of `Parts`.
        labels: (N, 5), of `Parts`.
        i: index of the primitive.
        x, y, z: the point, in metres.
    """
    p = numbers[i]
    ex, ey, ez = x - p[0], y - p[1], z - p[2]
    u = p[3] * ex + p[4] * ey + p[5] * ez
    v = p[6] * ex + p[7] * ey + p[8] * ez
    w = p[9] * ex + p[10] * ey + p[11] * ez
    shape = labels[i, SHAPE]
    nx, ny, nz = 0.0, 0.0, 0.0
    a, b = 0.0, 0.0
    if shape == TAPERED:
        a, b = p[TAPER] / 2, p[TAPER + 1] / 2
    cap = abs(abs(w) - 1)
    if shape == BALL:
        nx, ny, nz = u, v, w
    elif shape in (BOX, TAPERED):
        side = abs(abs(u) + a * w - 1 + a)
        other = abs(abs(v) + b * w - 1 + b)
        if side <= other and side <= cap:
            nx, nz = np.sign(u), a
        elif other <= cap:
            ny, nz = np.sign(v), b
        else:
            nz = np.sign(w)
    else:
        k = p[TAPER] / 2 if shape == CONE else 0.0
        r = (u * u + v * v) ** 0.5
        if abs(r - (1 - k - k * w)) <= cap + 1e-6:
            nx, ny, nz = u / (r + 1e-9), v / (r + 1e-9), k
        else:
            nz = np.sign(w)
    gx = p[3] * nx + p[6] * ny + p[9] * nz
    gy = p[4] * nx + p[7] * ny + p[10] * nz
    gz = p[5] * nx + p[8] * ny + p[11] * nz
    norm = (gx * gx + gy * gy + gz * gz) ** 0.5 + 1e-12
    return gx / norm, gy / norm, gz / norm, u, v, w


@nb.njit(cache=True)
def screen_bounds(numbers, count, pose, K, width, height, mirror, near):  # type: ignore[no-untyped-def]
    """Return the pixel rectangle and the nearest depth (N, 5) of each primitive; an empty rectangle where it is out of view.

    Args:
        numbers: (N, WIDTH), of `Parts`.
        count: N.
        pose: (3, 4), maps the world to the camera.
        K: (3, 3) intrinsics in pixels.
        width: of the image, in pixels.
        height: of the image, in pixels.
        mirror: whether the world is reflected in the ground first.
        near: depth in metres of the near plane.
    """
    out = np.empty((count, 5))
    corner = np.empty((8, 3))
    for i in range(count):
        p = numbers[i]
        zmin, zmax = FAR, -FAR
        for k in range(8):
            s0 = 1.0 if k & 1 else -1.0
            s1 = 1.0 if k & 2 else -1.0
            s2 = 1.0 if k & 4 else -1.0
            x = p[0] + s0 * p[AXES] + s1 * p[AXES + 3] + s2 * p[AXES + 6]
            y = p[1] + s0 * p[AXES + 1] + s1 * p[AXES + 4] + s2 * p[AXES + 7]
            z = p[2] + s0 * p[AXES + 2] + s1 * p[AXES + 5] + s2 * p[AXES + 8]
            if mirror:
                z = -z
            for r in range(3):
                corner[k, r] = pose[r, 0] * x + pose[r, 1] * y + pose[r, 2] * z + pose[r, 3]
            zmin, zmax = min(zmin, corner[k, 2]), max(zmax, corner[k, 2])
        u0, v0, u1, v1 = FAR, FAR, -FAR, -FAR
        if zmax > near:
            for k in range(8):
                for e in range(4):
                    if e == 3:
                        if corner[k, 2] < near:
                            continue
                        x, y, z = corner[k, 0], corner[k, 1], corner[k, 2]
                    else:
                        m = k ^ (1 << e)
                        if m < k or (corner[k, 2] >= near) == (corner[m, 2] >= near):
                            continue
                        f = (near - corner[k, 2]) / (corner[m, 2] - corner[k, 2])
                        x = corner[k, 0] + f * (corner[m, 0] - corner[k, 0])
                        y = corner[k, 1] + f * (corner[m, 1] - corner[k, 1])
                        z = near
                    u, v = (K[0, 0] * x + K[0, 1] * y) / z + K[0, 2], K[1, 1] * y / z + K[1, 2]
                    u0, u1, v0, v1 = min(u0, u), max(u1, u), min(v0, v), max(v1, v)
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = u0 - 0.5, v0 - 0.5, u1 + 0.5, v1 + 0.5
        out[i, 4] = max(zmin, 0.0)
        if u1 < -0.5 or v1 < -0.5 or u0 > width + 0.5 or v0 > height + 0.5:
            out[i, 2] = -FAR
    return out


@nb.njit(cache=True)
def bin_rectangles(bounds, order, cell, columns, rows):  # type: ignore[no-untyped-def]
    """List the rectangles that meet each cell of a grid: (starts (cells + 1,), items).

    Args:
        bounds: (N, 5), of `screen_bounds`.
        order: (N,) indices; every cell's list keeps this order.
        cell: side of a cell, in pixels.
        columns: number of cells in a row.
        rows: number of rows.
    """
    starts = np.zeros(columns * rows + 1, dtype=np.int64)
    for turn in range(2):
        if turn == 1:
            total = 0
            for c in range(columns * rows + 1):
                n = starts[c]
                starts[c] = total
                total += n
            items = np.empty(total, dtype=np.int32)
            fill = starts.copy()
        for k in range(order.shape[0]):
            i = order[k]
            if bounds[i, 2] < bounds[i, 0] or bounds[i, 2] < 0 or bounds[i, 3] < 0:
                continue
            c0, c1 = max(0, int(bounds[i, 0] / cell)), min(columns - 1, int(min(bounds[i, 2], 1e6) / cell))
            r0, r1 = max(0, int(bounds[i, 1] / cell)), min(rows - 1, int(min(bounds[i, 3], 1e6) / cell))
            for r in range(r0, r1 + 1):
                for c in range(c0, c1 + 1):
                    if turn == 0:
                        starts[r * columns + c] += 1
                    else:
                        items[fill[r * columns + c]] = i
                        fill[r * columns + c] += 1
    return starts, items


@nb.njit(cache=True)
def nearest_hit(numbers, labels, bounds, starts, items, cell, ox, oy, oz, dx, dy, dz, tmax):  # type: ignore[no-untyped-def]
    """Return the nearest primitive of one cell's list as (t, index); index -1 for none.

    Args:
        numbers: (N, WIDTH), of `Parts`.
        labels: (N, 5), of `Parts`.
        bounds: (N, 5), of `screen_bounds`.
        starts: (cells + 1,), of `bin_rectangles`.
        items: the lists of `bin_rectangles`, sorted by depth.
        cell: number of the cell.
        ox, oy, oz: origin of the ray, in metres.
        dx, dy, dz: its direction, of depth 1 along the optical axis.
        tmax: hits at or beyond this depth do not count.
    """
    best, found = tmax, -1
    for k in range(starts[cell], starts[cell + 1]):
        i = items[k]
        if bounds[i, 4] > best:
            break
        t = hit(numbers, labels, i, ox, oy, oz, dx, dy, dz, best)
        if t < best:
            best, found = t, i
    return best, found
