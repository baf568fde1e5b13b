"""The loop over a view's pixels."""

from __future__ import annotations

import numba as nb
import numpy as np

from drivegen.world.cast import FAR, TILE_PX, hit, nearest_hit, noise
from drivegen.world.classes import SKY as SKY_CLASS
from drivegen.world.classes import TERRAIN, WALKWAY
from drivegen.world.light import FOG, FOG_RGB, WET
from drivegen.world.parts import CLASS, INSTANCE
from drivegen.world.shade import haze, shade_ground, shade_part, sky
from drivegen.world.surface import ground_class


@nb.njit(cache=True)
def _view_ray(rotation, K, u, v):  # type: ignore[no-untyped-def]
    """World direction of pixel (u, v), of depth 1 along the optical axis."""
    y = (v - K[1, 2]) / K[1, 1]
    x = (u - K[0, 2] - K[0, 1] * y) / K[0, 0]
    return (
        rotation[0, 0] * x + rotation[0, 1] * y + rotation[0, 2],
        rotation[1, 0] * x + rotation[1, 1] * y + rotation[1, 2],
        rotation[2, 0] * x + rotation[2, 1] * y + rotation[2, 2],
    )


@nb.njit(cache=True)
def labels_of(scene, eye, rotation, K, width, height, bins, classes, instances, depth, alone, seen):  # type: ignore[no-untyped-def]
    """Fill class, instance and depth images from the pixel centres, and count each instance's pixels.

    Args:
        scene: the arrays of `Prepared.scene`.
        eye: (3,), the camera's centre in metres.
        rotation: (3, 3), from the camera to the world.
        K: (3, 3) intrinsics in pixels.
        width: of the image, in pixels.
        height: of the image, in pixels.
        bins: (bounds, starts, items): the primitives that each tile of the image meets.
        classes: (H, W) output, class values.
        instances: (H, W) output, box number + 1, 0 for none.
        depth: (H, W) output, metres along the optical axis.
        alone: (boxes + 1,) gets the pixels that each instance would have if nothing stood before it.
        seen: (boxes + 1,) gets the pixels that each instance has.
    """
    numbers, labels, _, ground, _, _, _, _, _ = scene
    bounds, starts, items = bins
    columns = (width + TILE_PX - 1) // TILE_PX
    last = np.full(alone.shape[0], -1, dtype=np.int64)
    for j in range(height):
        for i in range(width):
            cell = (j // TILE_PX) * columns + i // TILE_PX
            dx, dy, dz = _view_ray(rotation, K, i + 0.5, j + 0.5)
            best, found = FAR, -1
            if dz < 0:
                best = -eye[2] / dz
            for k in range(starts[cell], starts[cell + 1]):
                n = items[k]
                who = labels[n, INSTANCE]
                if bounds[n, 4] > best and (who == 0 or last[who] == j * width + i):
                    continue
                t = hit(numbers, labels, n, eye[0], eye[1], eye[2], dx, dy, dz, FAR)
                if t < FAR and who > 0 and last[who] != j * width + i:
                    last[who] = j * width + i
                    alone[who] += 1
                if t < best:
                    best, found = t, n
            if found >= 0:
                classes[j, i] = labels[found, CLASS]
                instances[j, i] = labels[found, INSTANCE]
                seen[labels[found, INSTANCE]] += 1
            elif dz < 0:
                classes[j, i], _, _ = ground_class(ground, eye[0] + best * dx, eye[1] + best * dy)
            else:
                classes[j, i] = SKY_CLASS
            depth[j, i] = best if best < FAR else np.inf


@nb.njit(cache=True)
def _radiance(scene, eye, dx, dy, dz, bins, mirror, cell):  # type: ignore[no-untyped-def]
    """Radiance (r, g, b) along one ray; d has depth 1."""
    numbers, labels, env, _, _, _, _, _, _ = scene
    bounds, starts, items = bins
    ex, ey, ez = eye[0], eye[1], eye[2]
    norm = (dx * dx + dy * dy + dz * dz) ** 0.5
    ux, uy, uz = dx / norm, dy / norm, dz / norm
    limit = -ez / dz if dz < 0 else FAR
    t, found = nearest_hit(numbers, labels, bounds, starts, items, cell, ex, ey, ez, dx, dy, dz, limit)
    if found >= 0:
        r, g, b = shade_part(scene, found, ex + t * dx, ey + t * dy, ez + t * dz, ux, uy, uz)
        return haze(env, r, g, b, t * norm)
    if dz >= 0:
        r, g, b = sky(env, ux, uy, uz)
        f = min(1.0, env[FOG] * 26) * np.exp(-uz * 5)  # haze thickens towards the horizon
        return r * (1 - f) + env[FOG_RGB] * f, g * (1 - f) + env[FOG_RGB + 1] * f, b * (1 - f) + env[FOG_RGB + 2] * f
    x, y = ex + t * dx, ey + t * dy
    r, g, b, label = shade_ground(scene, x, y, t * norm)
    if env[WET] > 0 and label != TERRAIN:
        puddle = noise(x * 0.35, y * 0.35, 5)
        water = min(1.0, max(0.0, (puddle - 0.42) * 4.0)) * (0.55 if label == WALKWAY else 1.0)
        cos = -uz
        f = (0.05 + 0.6 * (1 - cos) ** 4) * (0.4 + 0.6 * water)
        wave = 0.1 * (1.15 - water)
        rx = dx + wave * norm * (noise(x * 3.1, y * 3.1, 6) - 0.5)
        ry = dy + wave * norm * (noise(x * 3.1, y * 3.1, 7) - 0.5)
        mb, ms, mi = mirror
        q, other = nearest_hit(numbers, labels, mb, ms, mi, cell, x, y, 0.0, rx, ry, -dz, FAR)
        length = (rx * rx + ry * ry + dz * dz) ** 0.5
        vx, vy, vz = rx / length, ry / length, -dz / length
        if other >= 0:
            sr, sg, sb = shade_part(scene, other, x + q * rx, y + q * ry, -q * dz, vx, vy, vz)
            sr, sg, sb = haze(env, sr, sg, sb, q * length)
        else:
            sr, sg, sb = sky(env, vx, vy, vz)
        dark = 1 - 0.4 * (0.5 + 0.5 * water)
        r, g, b = r * dark * (1 - f) + sr * f, g * dark * (1 - f) + sg * f, b * dark * (1 - f) + sb * f
    return haze(env, r, g, b, t * norm)


@nb.njit(cache=True)
def colours_of(scene, eye, rotation, K, width, height, bins, mirror, image):  # type: ignore[no-untyped-def]
    """Fill the linear image from 2 x 2 samples per pixel.

    Args:
        scene: the arrays of `Prepared.scene`.
        eye: (3,), the camera's centre in metres.
        rotation: (3, 3), from the camera to the world.
        K: (3, 3) intrinsics in pixels.
        width: of the image, in pixels.
        height: of the image, in pixels.
        bins: (bounds, starts, items): the primitives that each tile of the image meets.
        mirror: the same of the world reflected in the ground, for wet roads.
        image: (H, W, 3) output, zeros before.
    """
    columns = (width + TILE_PX - 1) // TILE_PX
    for j in range(height):
        for i in range(width):
            cell = (j // TILE_PX) * columns + i // TILE_PX
            for k in range(4):
                u, v = i + 0.25 + 0.5 * (k & 1), j + 0.25 + 0.5 * (k >> 1)
                dx, dy, dz = _view_ray(rotation, K, u, v)
                r, g, b = _radiance(scene, eye, dx, dy, dz, bins, mirror, cell)
                # a bright lamp may not drown the other samples
                image[j, i, 0] += min(r, 12.0) / 4
                image[j, i, 1] += min(g, 12.0) / 4
                image[j, i, 2] += min(b, 12.0) / 4
