"""Class and colour of the ground and the façades at a point, fixed in the world."""

from __future__ import annotations

import numba as nb
import numpy as np

from drivegen.world.cast import hash3, noise
from drivegen.world.classes import CARPARK, LANE_MARKING, PED_CROSSING, ROAD, STOP_LINE, TERRAIN, WALKWAY
from drivegen.world.fields import CELL_M, CROSSINGS, DASH_M, DOUBLE_M, LOTS, NODES, STOPS, SURFACE
from drivegen.world.fields import WALKWAY as PAVEMENT
from drivegen.world.light import ASPHALT, LIT, PAVING, SEED, TERRAIN_KIND
from drivegen.world.light import TERRAIN as LAND
from drivegen.world.streets import HALF_M

_DASH, _PERIOD = DASH_M
_WIDE, _BROAD = 0.1, 0.23


@nb.njit(cache=True)
def _mix(field, i, j, f, g):  # type: ignore[no-untyped-def]
    return (field[j, i] * (1 - f) + field[j, i + 1] * f) * (1 - g) + (field[j + 1, i] * (1 - f) + field[j + 1, i + 1] * f) * g


@nb.njit(cache=True)
def ground_class(ground, x, y):  # type: ignore[no-untyped-def]
    """Return the class of the ground at a point, the kind of the painted line there (-1 none), and the distance inside the
    road.

    Args:
        ground: the arrays of `Fields`.
        x: in metres.
        y: in metres.
    """
    areas, line, along, ident, kinds, lengths, _, _ = ground
    u, v = (x + HALF_M) / CELL_M, (y + HALF_M) / CELL_M
    if not (0 <= u < NODES - 1 and 0 <= v < NODES - 1):
        return TERRAIN, -1, -1.0
    i, j = int(u), int(v)
    f, g = u - i, v - j
    inside = _mix(areas[SURFACE], i, j, f, g)
    if _mix(areas[CROSSINGS], i, j, f, g) > 0:
        return PED_CROSSING, -1, inside
    if _mix(areas[STOPS], i, j, f, g) > 0:
        return STOP_LINE, -1, inside
    if _mix(areas[LOTS], i, j, f, g) > 0:
        return CARPARK, -1, inside
    if inside > 0:
        side = _mix(line, i, j, f, g)
        number = min(min(ident[0, j, i], ident[0, j + 1, i]), min(ident[0, j, i + 1], ident[0, j + 1, i + 1]))
        if abs(side) < 0.3 and number > 0:  # all four nodes know a line: beyond its band there is no distance
            kind = kinds[number]
            s = _mix(along, i, j, f, g)
            wide = abs(side) < _BROAD and abs(side) > DOUBLE_M * 0.6 if kind == 2 else abs(side) < _WIDE
            dashed = kind == 1 or kind == 3
            if wide and 0 <= s <= lengths[number] and (not dashed or s % _PERIOD < _DASH):
                return LANE_MARKING, kind, inside
        return ROAD, -1, inside
    if _mix(areas[PAVEMENT], i, j, f, g) > 0:
        return WALKWAY, -1, inside
    return TERRAIN, -1, inside


@nb.njit(cache=True)
def ground_colour(ground, env, label, kind, inside, x, y):  # type: ignore[no-untyped-def]
    """Return the albedo (r, g, b) of the ground at a point.

    Args:
        ground: the arrays of `Fields`.
        env: (SIZE,), of `environment`.
        label: class of the ground there.
        kind: kind of the painted line there, -1 for none.
        inside: distance inside the road, in metres.
        x: in metres.
        y: in metres.
    """
    seed = int(env[SEED])
    broad = noise(x * 0.22, y * 0.22, seed)
    fine = noise(x * 1.9, y * 1.9, seed + 1)
    if label == WALKWAY:
        m = 0.84 + 0.2 * broad + 0.12 * fine
        if inside > -0.28:
            m *= 1.35  # kerb stone
        elif (x * 0.7) % 1.0 < 0.05 or (y * 0.7) % 1.0 < 0.05:
            m *= 0.8
        return env[PAVING] * m, env[PAVING + 1] * m, env[PAVING + 2] * m
    if label == TERRAIN:
        m = 0.6 + 0.5 * broad + 0.35 * fine
        if env[TERRAIN_KIND] == 1:
            m = 0.9 + 0.2 * broad
            if (int(np.floor(x / 2.4)) + int(np.floor(y / 2.4))) % 2 == 0:
                m *= 0.9
        return env[LAND] * m, env[LAND + 1] * m, env[LAND + 2] * m
    m = 0.8 + 0.3 * broad + 0.22 * fine
    r, g, b = env[ASPHALT] * m, env[ASPHALT + 1] * m, env[ASPHALT + 2] * m
    worn = 0.62 + 0.25 * fine
    if label == LANE_MARKING:
        if kind >= 2:
            return worn * 0.95, worn * 0.62, worn * 0.08
        return worn, worn, worn * 0.97
    if label == STOP_LINE:
        return worn, worn, worn
    if label == PED_CROSSING:
        _, _, _, ident, _, _, crossing, _ = ground
        i, j = int((x + HALF_M) / CELL_M), int((y + HALF_M) / CELL_M)
        number = max(max(ident[1, j, i], ident[1, j + 1, i]), max(ident[1, j, i + 1], ident[1, j + 1, i + 1]))
        if number > 0:
            c = crossing[number - 1]
            across = -(x - c[0]) * c[3] + (y - c[1]) * c[2]
            if across % 1.1 < 0.58:
                return worn, worn, worn
        return r, g, b
    if label == CARPARK:
        r, g, b = r * 1.25 + 0.02, g * 1.22 + 0.02, b * 1.2 + 0.02
        lot = ground[7]
        for k in range(lot.shape[0]):
            u = (x - lot[k, 0]) * lot[k, 2] + (y - lot[k, 1]) * lot[k, 3] + lot[k, 4] - 0.525
            v = abs(-(x - lot[k, 0]) * lot[k, 3] + (y - lot[k, 1]) * lot[k, 2])
            if lot[k, 5] - 5.6 < v < lot[k, 5] - 0.2 and u > -0.2 and u % 2.75 < 0.16:
                return worn, worn, worn
        return r, g, b
    if inside < 0.35:  # gutter
        return r * 0.8, g * 0.8, b * 0.8
    return r, g, b


@nb.njit(cache=True)
def wall(env, r, g, b, brick, curtain, along, height, top, seed):  # type: ignore[no-untyped-def]
    """Return the look of a point on a façade: albedo (3), 1 for glass, light of a lit window (3).

    Args:
        env: (SIZE,), of `environment`.
        r, g, b: albedo of the plain wall.
        brick: whether the wall is of bricks.
        curtain: whether it is a curtain wall of glass.
        along: metres along the façade.
        height: metres above the ground.
        top: height of the building in metres.
        seed: of the building.
    """
    storey = 3.3 if not curtain else 3.6
    bay = 2.2 + 1.6 * hash3(seed, 1, 2)
    if curtain:
        bay = 1.8
    floor, column = int(np.floor(height / storey)), int(np.floor(along / bay))
    v, u = height / storey - floor, along / bay - column
    shade = 0.92 + 0.16 * hash3(seed, floor, 5)
    glass = False
    if floor == 0 and hash3(seed, 3, 3) < 0.5 and not curtain:
        if v > 0.82:  # the fascia over a shop
            m = 0.25 + 0.6 * hash3(seed, 8, 1)
            h = hash3(seed, 9, int(np.floor(along / (bay * 3))))
            return m * (0.3 + 0.7 * h), m * abs(1 - 2 * h), m * (1 - h) + 0.05, 0.0, 0.0, 0.0, 0.0
        glass = 0.06 < u < 0.94 and v > 0.14
    elif curtain:
        glass = u > 0.07 and v > 0.12
    else:
        wide, low = 0.2 + 0.14 * hash3(seed, 4, 4), 0.26 + 0.1 * hash3(seed, 5, 4)
        glass = wide < u < 1 - wide and low < v < 0.86 and height < top - 0.4
    if glass:
        lit = hash3(seed + column * 31, floor * 17 + 3, 11)
        share = env[LIT] * (1.8 if floor == 0 else 1.0)
        if lit < share:
            tone = hash3(seed + column, floor, 12)
            power = 0.3 + 0.8 * hash3(seed + column, floor, 13)
            return 0.1, 0.1, 0.1, 1.0, power * 1.0, power * (0.62 + 0.3 * tone), power * (0.25 + 0.5 * tone)
        if curtain:
            return r, g, b, 1.0, 0.0, 0.0, 0.0
        return 0.035, 0.045, 0.06, 1.0, 0.0, 0.0, 0.0
    if curtain:
        return 0.32, 0.33, 0.35, 0.0, 0.0, 0.0, 0.0
    if v < 0.06 and floor > 0:
        shade *= 0.78
    if brick:
        row = int(np.floor(height / 0.3))
        shade *= 0.86 + 0.24 * hash3(int(np.floor(along / 0.7 + 0.5 * (row & 1))), row, seed)
    return r * shade, g * shade, b * shade, 0.0, 0.0, 0.0, 0.0
