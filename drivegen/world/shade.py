"""Light on surfaces: sky, sun with cast shadows, darkening near contacts, lamps, glass, wet ground, haze."""

from __future__ import annotations

import numba as nb
import numpy as np

from drivegen.world.cast import FAR, hit, noise, normal
from drivegen.world.light import BOUNCE, CLOUD_RGB, CLOUDS, FOG, FOG_RGB, HORIZON, LAMPS, SKY, SUN, SUN_RGB, ZENITH
from drivegen.world.parts import (
    BRICK,
    COLOUR,
    CURTAIN,
    FACADE,
    FOLIAGE,
    GLASS,
    GLOW_DAY,
    GLOW_NIGHT,
    HALF,
    LIGHT,
    MATERIAL,
    PAINT,
    SEED,
    STRIPED,
)
from drivegen.world.streets import HALF_M
from drivegen.world.surface import ground_class, ground_colour, wall

GRID_M = 4.0
COLUMNS = int(2 * HALF_M / GRID_M)
"""Cells of the ground grids that list shadow casters, lights and footprints."""


@nb.njit(cache=True)
def cell_of(x, y):  # type: ignore[no-untyped-def]
    """Cell of a point in the ground grids, -1 outside."""
    i, j = int(np.floor((x + HALF_M) / GRID_M)), int(np.floor((y + HALF_M) / GRID_M))
    if 0 <= i < COLUMNS and 0 <= j < COLUMNS:
        return j * COLUMNS + i
    return -1


@nb.njit(cache=True)
def sky(env, dx, dy, dz):  # type: ignore[no-untyped-def]
    """Return the radiance (r, g, b) of the sky in a direction.

    Args:
        env: (SIZE,), of `environment`.
        dx, dy, dz: unit direction.
    """
    up = max(dz, 0.0)
    f = 1 - np.exp(-3.5 * up)
    r = env[HORIZON] + (env[ZENITH] - env[HORIZON]) * f
    g = env[HORIZON + 1] + (env[ZENITH + 1] - env[HORIZON + 1]) * f
    b = env[HORIZON + 2] + (env[ZENITH + 2] - env[HORIZON + 2]) * f
    toward = max(0.0, dx * env[SUN] + dy * env[SUN + 1] + dz * env[SUN + 2])
    glow = 0.16 * toward**6 + 0.35 * toward**40
    r, g, b = r + glow * env[SUN_RGB], g + glow * env[SUN_RGB + 1], b + glow * env[SUN_RGB + 2]
    if env[CLOUDS] > 0 and dz > 0.01:
        u, v = dx / (dz + 0.12) * 1.1, dy / (dz + 0.12) * 1.1
        n = 0.6 * noise(u, v, 11) + 0.28 * noise(u * 2.3, v * 2.3, 12) + 0.12 * noise(u * 5.1, v * 5.1, 13)
        a = (n - (0.85 - 0.6 * env[CLOUDS])) / 0.22
        a = min(1.0, max(0.0, a)) * min(1.0, dz * 7) * 0.85
        m = 0.75 + 0.5 * n
        r += (env[CLOUD_RGB] * m - r) * a
        g += (env[CLOUD_RGB + 1] * m - g) * a
        b += (env[CLOUD_RGB + 2] * m - b) * a
    if toward > 0.9994:
        r, g, b = r + 6 * env[SUN_RGB], g + 6 * env[SUN_RGB + 1], b + 6 * env[SUN_RGB + 2]
    return r, g, b


@nb.njit(cache=True)
def sunlit(numbers, labels, casters, env, x, y, z):  # type: ignore[no-untyped-def]
    """Return 1 where the sun reaches a point, 0 in a cast shadow.

    Args:
        numbers: (N, WIDTH), of `Parts`.
        labels: (N, 5), of `Parts`.
        casters: (starts, items), the primitives that can shade each cell of the ground grid.
        env: (SIZE,), of `environment`.
        x, y, z: the point, in metres.
    """
    starts, items = casters
    cell = cell_of(x - z * env[SUN] / env[SUN + 2], y - z * env[SUN + 1] / env[SUN + 2])
    if cell < 0:
        return 1.0
    for k in range(starts[cell], starts[cell + 1]):
        if hit(numbers, labels, items[k], x, y, z, env[SUN], env[SUN + 1], env[SUN + 2], FAR) < FAR:
            return 0.0
    return 1.0


@nb.njit(cache=True)
def lamplight(lights, lit, x, y, z, nx, ny, nz):  # type: ignore[no-untyped-def]
    """Return the irradiance (r, g, b) from lamps and headlights.

    Args:
        lights: (M, 11), of `lamps`.
        lit: (starts, items), the lights that reach each cell of the ground grid.
        x, y, z: the point, in metres.
        nx, ny, nz: its unit normal.
    """
    starts, items = lit
    r, g, b = 0.0, 0.0, 0.0
    cell = cell_of(x, y)
    if cell < 0:
        return r, g, b
    for k in range(starts[cell], starts[cell + 1]):
        p = lights[items[k]]
        ux, uy, uz = p[0] - x, p[1] - y, p[2] - z
        d2 = ux * ux + uy * uy + uz * uz
        if d2 > p[10] * p[10]:
            continue
        d = d2**0.5 + 1e-6
        cos = (ux * nx + uy * ny + uz * nz) / d
        if cos <= -0.2:
            continue
        cos = (cos + 0.2) / 1.2
        cone = 1.0
        if p[6] > -1:
            cone = (-(ux * p[3] + uy * p[4] + uz * p[5]) / d - p[6]) / (1 - p[6])
            if cone <= 0:
                continue
            cone = cone * cone * (3 - 2 * cone)
        edge = 1 - d / p[10]
        m = cos * cone * edge / (8.0 + d2 * 0.5) * 2.2
        r, g, b = r + m * p[7], g + m * p[8], b + m * p[9]
    return r, g, b


@nb.njit(cache=True)
def contact(feet, near, x, y):  # type: ignore[no-untyped-def]
    """Return the share of sky light that objects standing close by leave on the ground.

    Args:
        feet: (N, 8) footprints: x, y, cos, sin, half-length, half-width, reach, strength.
        near: (starts, items), the footprints near each cell of the ground grid.
        x: of the point on the ground, in metres.
        y: of the point on the ground, in metres.
    """
    starts, items = near
    cell = cell_of(x, y)
    if cell < 0:
        return 1.0
    left = 1.0
    for k in range(starts[cell], starts[cell + 1]):
        p = feet[items[k]]
        ux, uy = x - p[0], y - p[1]
        a = abs(ux * p[2] + uy * p[3]) - p[4]
        c = abs(-ux * p[3] + uy * p[2]) - p[5]
        d = (max(a, 0.0) ** 2 + max(c, 0.0) ** 2) ** 0.5 if a > 0 or c > 0 else max(a, c)
        f = min(1.0, max(0.0, (d + p[6] * 0.25) / (p[6] * 1.25)))
        left = min(left, 1 - p[7] * (1 - f) ** 1.5)
    return left


@nb.njit(cache=True)
def haze(env, r, g, b, distance):  # type: ignore[no-untyped-def]
    """Blend a colour into the haze with distance.

    Args:
        env: (SIZE,), of `environment`.
        r, g, b: radiance without haze.
        distance: in metres.
    """
    f = np.exp(-env[FOG] * distance)
    return r * f + env[FOG_RGB] * (1 - f), g * f + env[FOG_RGB + 1] * (1 - f), b * f + env[FOG_RGB + 2] * (1 - f)


@nb.njit(cache=True)
def shade_ground(scene, x, y, distance):  # type: ignore[no-untyped-def]
    """Return the radiance (r, g, b) of the dry ground at a point, and its class.

    Args:
        scene: the arrays of `Prepared.scene`.
        x: of the point, in metres.
        y: of the point, in metres.
        distance: from the eye, in metres.
    """
    numbers, labels, env, ground, casters, lights, lit, feet, near = scene
    label, kind, inside = ground_class(ground, x, y)
    r, g, b = ground_colour(ground, env, label, kind, inside, x, y)
    left = contact(feet, near, x, y)
    er, eg, eb = env[SKY] * left, env[SKY + 1] * left, env[SKY + 2] * left
    if env[SUN_RGB] > 0.2:
        s = sunlit(numbers, labels, casters, env, x, y, 0.002) * env[SUN + 2]
        s *= 0.35 + 0.65 * left
        er, eg, eb = er + s * env[SUN_RGB], eg + s * env[SUN_RGB + 1], eb + s * env[SUN_RGB + 2]
    if lights.shape[0] > 0:
        lr, lg, lb = lamplight(lights, lit, x, y, 0.0, 0.0, 0.0, 1.0)
        er, eg, eb = er + lr * left, eg + lg * left, eb + lb * left
    return r * er, g * eg, b * eb, label


@nb.njit(cache=True)
def shade_part(scene, i, x, y, z, dx, dy, dz):  # type: ignore[no-untyped-def]
    """Return the radiance (r, g, b) of a primitive at a point.

    Args:
        scene: the arrays of `Prepared.scene`.
        i: index of the primitive.
        x, y, z: the point, in metres.
        dx, dy, dz: unit direction from the eye to the point.
    """
    numbers, labels, env, _, casters, lights, lit, _, _ = scene
    p = numbers[i]
    material, seed = labels[i, MATERIAL], labels[i, SEED]
    nx, ny, nz, u, v, w = normal(numbers, labels, i, x, y, z)
    r, g, b = p[COLOUR], p[COLOUR + 1], p[COLOUR + 2]
    gloss, fr, fg, fb = 0.0, 0.0, 0.0, 0.0
    if material == LIGHT:
        m = (
            p[GLOW_DAY] + (p[GLOW_NIGHT] - p[GLOW_DAY]) * env[LAMPS]
            if p[GLOW_NIGHT] > 0
            else p[GLOW_DAY] * (1 - 0.9 * env[LAMPS])
        )
        fr, fg, fb = r * m, g * m, b * m
    elif material in (FACADE, BRICK, CURTAIN) and abs(nz) < 0.5:
        along = u * p[HALF] if abs(v) > abs(u) else v * p[HALF + 1]
        salt = seed + (int(np.sign(v)) * 3 if abs(v) > abs(u) else int(np.sign(u)) * 5)
        along += p[HALF] + p[HALF + 1]
        r, g, b, glass, fr, fg, fb = wall(
            env, r, g, b, material == BRICK, material == CURTAIN, along, z, 2 * p[HALF + 2], salt + 40
        )
        gloss = 0.75 * glass
    elif material == FOLIAGE:
        n = noise(x * 1.7 + z, y * 1.7 - z, seed)
        m = 0.55 + 0.75 * n
        r, g, b = r * m, g * m, b * m * 0.9
        nx, ny, nz = nx + (n - 0.5) * 0.9, ny + (noise(x * 2.1, z * 2.1, seed) - 0.5) * 0.9, nz + 0.15
        norm = (nx * nx + ny * ny + nz * nz) ** 0.5
        nx, ny, nz = nx / norm, ny / norm, nz / norm
    elif material == PAINT:
        gloss = 0.32
    elif material == GLASS:
        gloss = 0.85
        m = p[GLOW_NIGHT] * env[LAMPS]
        fr, fg, fb = m * 0.9, m * 0.85, m * 0.62
    elif material == STRIPED:
        # bands across the longest side: white between the colour
        q = w * 1.6 if p[HALF + 2] > 0.25 and p[HALF + 1] < 0.4 else v * p[HALF + 1] * 1.7 + w * p[HALF + 2] * 1.7
        if (q + 100.3) % 1.0 < 0.45:
            r, g, b = 0.78, 0.78, 0.76
    up = 0.5 + 0.5 * nz
    low = min(1.0, 0.45 + 0.55 * z / 1.2) if nz < 0.5 else 1.0
    er = (env[BOUNCE] + (env[SKY] - env[BOUNCE]) * up) * low
    eg = (env[BOUNCE + 1] + (env[SKY + 1] - env[BOUNCE + 1]) * up) * low
    eb = (env[BOUNCE + 2] + (env[SKY + 2] - env[BOUNCE + 2]) * up) * low
    facing = nx * env[SUN] + ny * env[SUN + 1] + nz * env[SUN + 2]
    light = 0.0
    if env[SUN_RGB] > 0.2 and facing > 0:
        light = sunlit(numbers, labels, casters, env, x + nx * 0.01, y + ny * 0.01, z + nz * 0.01)
        s = light * facing
        er, eg, eb = er + s * env[SUN_RGB], eg + s * env[SUN_RGB + 1], eb + s * env[SUN_RGB + 2]
    if lights.shape[0] > 0:
        lr, lg, lb = lamplight(lights, lit, x, y, z, nx, ny, nz)
        er, eg, eb = er + lr, eg + lg, eb + lb
    r, g, b = r * er + fr, g * eg + fg, b * eb + fb
    if gloss > 0:
        cos = -(dx * nx + dy * ny + dz * nz)
        f = gloss * (0.12 + 0.88 * (1 - min(1.0, max(0.0, cos))) ** 4)
        rx, ry, rz = dx + 2 * cos * nx, dy + 2 * cos * ny, dz + 2 * cos * nz
        if rz > 0:
            sr, sg, sb = sky(env, rx, ry, rz)
            m = f * min(1.0, 0.35 + 2.5 * rz)
        else:
            sr, sg, sb = env[BOUNCE], env[BOUNCE + 1], env[BOUNCE + 2]
            m = f * 0.6
        r, g, b = r * (1 - f) + sr * m, g * (1 - f) + sg * m, b * (1 - f) + sb * m
        shine = max(0.0, rx * env[SUN] + ry * env[SUN + 1] + rz * env[SUN + 2]) ** 60 * light * gloss * 1.2
        r, g, b = r + shine * env[SUN_RGB], g + shine * env[SUN_RGB + 1], b + shine * env[SUN_RGB + 2]
    return r, g, b
