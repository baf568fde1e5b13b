"""Objects beside the streets: buildings, trees, lamps, signals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry import Point, Polygon
from shapely.prepared import prep

from drivegen.scene.geometry import Array
from drivegen.world.streets import HALF_M, Plan, rectangle


@dataclass(frozen=True)
class Style:
    """How a quarter is built: heights, gaps and set-backs in metres; shares of pitched roofs, glass towers and trees."""

    name: str
    height_m: tuple[float, float]
    width_m: tuple[float, float]
    gap_m: tuple[float, float]
    setback_m: tuple[float, float]
    pitched: float
    glass: float
    trees: float
    terrain: int


STYLES = (
    Style("city centre", (14, 48), (14, 30), (0, 3), (0.5, 3), 0.0, 0.4, 0.45, 1),
    Style("terraced houses", (8, 14), (9, 16), (0, 5), (0.5, 4), 0.45, 0.0, 0.55, 0),
    Style("suburb", (6, 10), (10, 16), (6, 18), (5, 11), 0.8, 0.0, 0.85, 0),
    Style("industrial area", (7, 13), (24, 48), (8, 24), (4, 12), 0.1, 0.1, 0.3, 2),
    Style("park", (7, 24), (12, 24), (25, 70), (6, 16), 0.2, 0.2, 1.0, 0),
)
"""Quarters; terrain is 0 grass, 1 paving, 2 gravel."""


@dataclass(frozen=True, eq=False)
class Building:
    """An extruded block: centre (2,), heading, length along it, width and height in metres.

    kind is 0 plaster, 1 brick, 2 glass, 3 with a pitched roof.
    """

    centre: Array
    heading_rad: float
    length_m: float
    width_m: float
    height_m: float
    kind: int
    seed: int


@dataclass(frozen=True, eq=False)
class Tree:
    """A tree or shrub: kind 0 broad, 1 conifer, 2 shrub."""

    centre: Array
    height_m: float
    radius_m: float
    kind: int
    seed: int


@dataclass(frozen=True, eq=False)
class Pole:
    """A post with its arm over the road: kind 0 lamp, 1 signal, 2 sign."""

    centre: Array
    heading_rad: float
    height_m: float
    kind: int
    red: bool


@dataclass(frozen=True, eq=False)
class Blocks:
    """Every static object that is not annotated."""

    style: Style
    buildings: tuple[Building, ...]
    trees: tuple[Tree, ...]
    poles: tuple[Pole, ...]


class _Ground:
    """Room still free: refuses what touches streets or an earlier footprint."""

    def __init__(self, blocked: shapely.Geometry) -> None:
        self._blocked = prep(blocked)
        self._taken: list[tuple[float, float, float, Polygon]] = []

    def take(self, area: Polygon) -> bool:
        x0, y0, x1, y1 = area.bounds
        x, y, radius = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0 + y1 - y0) / 2
        if max(abs(x), abs(y)) > HALF_M - 4 or self._blocked.intersects(area):
            return False
        for u, v, reach, shape in self._taken:
            if abs(u - x) + abs(v - y) < radius + reach and shape.intersects(area):
                return False
        self._taken.append((x, y, radius, area))
        return True


def _buildings(rng: np.random.Generator, plan: Plan, style: Style, ground: _Ground) -> list[Building]:
    found: list[Building] = []

    def put(centre: Array, heading: float, length: float, width: float, height: float) -> None:
        if ground.take(rectangle(centre, heading, length + 0.3, width + 0.3)):
            kind = 3 if rng.uniform() < style.pitched else (2 if rng.uniform() < style.glass else int(rng.integers(0, 2)))
            found.append(Building(centre, heading, length, width, height, kind, int(rng.integers(1 << 30))))

    for road in plan.roads:
        for side in (1, -1):
            edge = (road.left_m if side > 0 else road.right_m) + side * (plan.walkway_m + 0.3)
            s = road.start_m + rng.uniform(0, 10)
            while s < road.stop_m - 10:
                length, width = rng.uniform(*style.width_m), rng.uniform(10, 17)
                setback = rng.uniform(*style.setback_m)
                centre, heading = road.curve.at(s + length / 2, edge + side * (setback + width / 2))
                put(centre, heading, length, width, float(rng.uniform(*style.height_m)))
                s += length + rng.uniform(*style.gap_m)
    for _ in range(40):  # a second row, for the skyline
        centre = rng.uniform(-150, 150, 2)
        turn = float(rng.uniform(0, math.pi))
        length, width = rng.uniform(14, 30, 2)
        put(centre, turn, length, width, float(rng.uniform(1.0, 1.7) * style.height_m[1]))
    return found


def _trees(rng: np.random.Generator, style: Style, ground: _Ground, kerb: list[Array]) -> list[Tree]:
    found: list[Tree] = []
    conifers = rng.uniform() < 0.25

    def grow(centre: Array, kind: int, scale: float = 1.0) -> None:
        height = float(rng.uniform(5, 9)) * scale
        radius = height * float(rng.uniform(0.24, 0.36)) if kind != 1 else height * 0.24
        if kind == 2:
            height, radius = float(rng.uniform(0.8, 1.8)), float(rng.uniform(0.7, 1.6))
        found.append(Tree(centre, height, radius, kind, int(rng.integers(1 << 30))))

    if rng.uniform() < style.trees:
        for spot in kerb:
            if rng.uniform() < 0.85:
                grow(spot, 0, 0.85)
    for _ in range(int(170 * style.trees)):
        centre = rng.uniform(-130, 130, 2)
        if ground.take(Point(centre).buffer(0.9, quad_segs=2)):
            grow(centre, int(rng.choice([0, 1, 2], p=[0.45, 0.35, 0.2] if conifers else [0.65, 0.05, 0.3])))
    return found


def draw_blocks(rng: np.random.Generator, plan: Plan) -> Blocks:
    """Build up the land along the streets of `plan`."""
    style = STYLES[int(rng.choice(len(STYLES), p=(0.3, 0.24, 0.2, 0.13, 0.13)))]
    blocked = shapely.union_all([plan.surface, plan.walkway, *(lot.area.buffer(1) for lot in plan.carparks)])
    ground = _Ground(blocked)
    crossings = prep(shapely.union_all([c.area.buffer(3.2) for c in plan.crossings]) if plan.crossings else Point(1e6, 0))
    streets = prep(plan.surface.buffer(0.3))
    poles: list[Pole] = []
    kerb: list[Array] = []
    lamp_step = float(rng.uniform(22, 30))
    for number, road in enumerate(plan.roads):
        for side in (1, -1):
            edge = (road.left_m if side > 0 else road.right_m) + side * 0.65
            for a, b in plan.sections(number):
                for i, s in enumerate(np.arange(a + (3 if side > 0 else 3 + lamp_step / 2), b, lamp_step / 3)):
                    spot, heading = road.curve.at(float(s), edge)
                    if streets.intersects(Point(spot)) or crossings.intersects(Point(spot)):
                        continue
                    if i % 3 == 0:
                        poles.append(Pole(spot, heading - side * math.pi / 2, 7.5, 0, False))
                    elif number == 0 or i % 3 == 1:
                        kerb.append(spot)
    for number, row in enumerate(plan.gaps):
        road = plan.roads[number]
        for gap in row:
            for leg in gap.legs:  # the signal stands at the kerb right of those who drive towards the junction
                s = (gap.stop_m if leg > 0 else gap.start_m) - leg * 0.4
                spot, heading = road.curve.at(s, road.left_m + 0.7 if leg > 0 else road.right_m - 0.7)
                if not streets.intersects(Point(spot)):
                    red = plan.main_red == (number == 0)
                    poles.append(Pole(spot, heading + (math.pi if leg > 0 else 0.0), 4.2, 1, red))
    buildings = _buildings(rng, plan, style, ground)
    trees = _trees(rng, style, ground, kerb)
    return Blocks(style, tuple(buildings), tuple(trees), tuple(poles))
