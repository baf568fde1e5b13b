"""The appearance of buildings, trees and poles."""

from __future__ import annotations

import math

import numpy as np

from drivegen.scene.geometry import SE3
from drivegen.world.blocks import Blocks, Building, Pole, Tree
from drivegen.world.classes import BUILDING, POLE, VEGETATION
from drivegen.world.parts import (
    BALL,
    BOX,
    BRICK,
    CONE,
    CURTAIN,
    CYLINDER,
    FACADE,
    FOLIAGE,
    LIGHT,
    MATTE,
    ROOF,
    TAPERED,
    Builder,
    Colour,
    Parts,
)

_PLASTER: tuple[Colour, ...] = (
    (0.62, 0.56, 0.44), (0.66, 0.63, 0.58), (0.55, 0.36, 0.24), (0.42, 0.44, 0.47), (0.6, 0.48, 0.26), (0.4, 0.5, 0.5),
    (0.62, 0.42, 0.36), (0.34, 0.42, 0.33),
)  # fmt: skip
_BRICK: tuple[Colour, ...] = ((0.34, 0.13, 0.08), (0.4, 0.2, 0.11), (0.26, 0.14, 0.1), (0.45, 0.3, 0.19))
_TILES: tuple[Colour, ...] = ((0.3, 0.09, 0.05), (0.12, 0.12, 0.14), (0.22, 0.13, 0.09))
_LEAVES: tuple[Colour, ...] = ((0.09, 0.2, 0.04), (0.14, 0.24, 0.05), (0.06, 0.16, 0.06), (0.3, 0.2, 0.03), (0.2, 0.24, 0.06))


def _building(item: Building) -> Parts:
    rng = np.random.default_rng(item.seed)
    b = Builder(SE3.from_yaw(item.heading_rad, (*item.centre, 0.0)), BUILDING, 0, item.seed & 0xFFFF)
    l, w, h = item.length_m / 2, item.width_m / 2, item.height_m
    if item.kind == 2:
        tint = (0.1 + 0.1 * rng.uniform(), 0.16 + 0.12 * rng.uniform(), 0.2 + 0.14 * rng.uniform())
        b.put(BOX, (0, 0, h / 2), (l, w, h / 2), tint, CURTAIN)
        b.put(BOX, (0, 0, h + 0.8), (l * 0.5, w * 0.5, 0.8), (0.3, 0.3, 0.3))
        return b.done()
    wall = _BRICK[int(rng.integers(len(_BRICK)))] if item.kind == 1 else _PLASTER[int(rng.integers(len(_PLASTER)))]
    b.put(BOX, (0, 0, h / 2), (l, w, h / 2), wall, BRICK if item.kind == 1 else FACADE)
    if item.kind == 3:
        rise = min(w * float(rng.uniform(0.5, 0.8)), 5.0)
        tiles = _TILES[int(rng.integers(len(_TILES)))]
        b.put(
            TAPERED,
            (0, 0, h + rise / 2),
            (l + 0.25, w + 0.4, rise / 2),
            tiles,
            ROOF,
            (0.0 if rng.uniform() < 0.6 else 0.35, 0.98),
        )
        b.put(BOX, (l * 0.4, w * 0.3, h + rise * 0.7), (0.4, 0.35, rise * 0.5), (0.3, 0.14, 0.1))
    else:
        b.put(BOX, (0, 0, h + 0.25), (l + 0.2, w + 0.2, 0.3), tuple(0.6 * c for c in wall), MATTE)  # type: ignore[arg-type]
        if h > 16 and rng.uniform() < 0.5:
            b.put(BOX, (0, 0, h + 2.5), (l * 0.6, w * 0.6, 2.5), wall, FACADE)
    return b.done()


def _tree(item: Tree) -> Parts:
    rng = np.random.default_rng(item.seed)
    b = Builder(SE3.from_yaw(float(rng.uniform(0, 6)), (*item.centre, 0.0)), VEGETATION, 0, item.seed & 0xFFFF)
    leaf = _LEAVES[int(rng.choice(len(_LEAVES), p=(0.3, 0.3, 0.2, 0.08, 0.12)))]
    r, h = item.radius_m, item.height_m
    if item.kind == 2:
        b.put(BALL, (0, 0, h * 0.42), (r, r * 0.9, h * 0.58), leaf, FOLIAGE)
        return b.done()
    if item.kind == 1:
        b.put(CYLINDER, (0, 0, 0.6), (0.16, 0.16, 0.7), (0.13, 0.08, 0.05))
        for z0, z1, scale in ((0.1, 0.55, 1.0), (0.35, 0.78, 0.78), (0.58, 1.0, 0.52)):
            b.put(
                CONE,
                (0, 0, h * (z0 + z1) / 2),
                (r * scale, r * scale, h * (z1 - z0) / 2),
                (0.04, 0.13, 0.05),
                FOLIAGE,
                (1.0, 1.0),
            )
        return b.done()
    b.put(CYLINDER, (0, 0, h * 0.25), (0.15, 0.15, h * 0.25), (0.14, 0.09, 0.06))
    b.put(BALL, (0, 0, h - r), (r, r, r * 0.95), leaf, FOLIAGE)
    for i in range(3):
        a, q = i * 2.1, r * float(rng.uniform(0.55, 0.75))
        spot = (math.cos(a) * r * 0.6, math.sin(a) * r * 0.6, h - r * float(rng.uniform(1.1, 1.5)))
        b.put(BALL, spot, (q, q, q * 0.85), leaf, FOLIAGE)
    return b.done()


def _pole(item: Pole) -> Parts:
    b = Builder(SE3.from_yaw(item.heading_rad, (*item.centre, 0.0)), POLE)
    grey = (0.16, 0.17, 0.18)
    b.put(CYLINDER, (0, 0, item.height_m / 2), (0.085, 0.085, item.height_m / 2), grey)
    if item.kind == 0:
        b.beam((0, 0, item.height_m - 0.1), (1.7, 0, item.height_m + 0.15), (0.05, 0.05), grey)
        b.put(BOX, (1.8, 0, item.height_m + 0.12), (0.42, 0.14, 0.06), grey)
        b.put(BOX, (1.8, 0, item.height_m + 0.05), (0.36, 0.12, 0.04), (1.0, 0.8, 0.5), LIGHT, night=14, day=0.2)
    else:
        b.put(BOX, (-0.2, 0, item.height_m - 0.5), (0.14, 0.19, 0.52), (0.02, 0.02, 0.02))
        for i, colour in enumerate(((1.0, 0.06, 0.03), (1.0, 0.6, 0.05), (0.05, 0.9, 0.35))):
            on = i == (0 if item.red else 2)
            b.put(BALL, (-0.33, 0, item.height_m - 0.17 - 0.33 * i), (0.07, 0.13, 0.13), colour if on else (0.05, 0.05, 0.05),
                  LIGHT, night=5 if on else 0, day=1.6 if on else 0.3)  # fmt: skip
    return b.done()


def static_parts(blocks: Blocks) -> Parts:
    """Build the primitives of every static object."""
    return Parts.join(
        Builder(SE3.identity(), 0).done(),
        *map(_building, blocks.buildings),
        *map(_tree, blocks.trees),
        *map(_pole, blocks.poles),
    )
