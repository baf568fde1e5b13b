"""The street plan of one scene: roads, junctions, crossings, car parks, and the vector map that they amount to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry import Polygon
from shapely.ops import unary_union

from drivegen.scene.geometry import Array
from drivegen.world.curve import Curve

HALF_M = 176.0
"""Half-width of the square that a scene's plan lies in."""

PARKING_M = 2.4


@dataclass(frozen=True, eq=False)
class Road:
    """A road along a curve: lanes keep right, the reference line is the divider between the directions."""

    curve: Curve
    start_m: float
    stop_m: float
    forward: int
    backward: int
    lane_m: float
    parking_left: bool
    parking_right: bool

    @property
    def left_m(self) -> float:
        """Lateral offset of the left kerb."""
        return self.backward * self.lane_m + PARKING_M * self.parking_left

    @property
    def right_m(self) -> float:
        """Lateral offset of the right kerb (negative)."""
        return -self.forward * self.lane_m - PARKING_M * self.parking_right

    def lane_left_m(self, lane: int) -> float:
        """Lateral offset of a lane's middle; lanes 0 … forward-1 go along, -1 … -backward against."""
        return -(lane + 0.5) * self.lane_m


@dataclass(frozen=True)
class Gap:
    """An interval of a road without lane lines: a junction with `other`, from its middle outwards."""

    s_m: float
    start_m: float
    stop_m: float
    other: int
    legs: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Crossing:
    """A pedestrian crossing of `road` centred at s_m: zebra stripes lie along the road."""

    area: Polygon
    road: int
    s_m: float
    origin: Array
    heading_rad: float


@dataclass(frozen=True, eq=False)
class CarPark:
    """A lot with two rows of stalls: rectangle of length × depth about `centre`, rows along `heading_rad`."""

    area: Polygon
    centre: Array
    heading_rad: float
    length_m: float
    depth_m: float


@dataclass(frozen=True, eq=False)
class Line:
    """A painted divider: points (P, 2); kind 0 solid white, 1 dashed white, 2 double yellow, 3 dashed yellow."""

    points: Array
    kind: int
    layer: str


@dataclass(frozen=True, eq=False)
class Plan:
    """Streets of one scene in its own coordinates (metres about the middle): surfaces, lines and the roads behind them."""

    roads: tuple[Road, ...]
    gaps: tuple[tuple[Gap, ...], ...]
    surface: shapely.Geometry
    walkway: shapely.Geometry
    walkway_m: float
    crossings: tuple[Crossing, ...]
    stop_lines: tuple[Polygon, ...]
    carparks: tuple[CarPark, ...]
    lines: tuple[Line, ...]
    segments: tuple[Polygon, ...]
    blocks: tuple[Polygon, ...]
    lanes: tuple[Polygon, ...]
    main_red: bool

    def sections(self, road: int) -> list[tuple[float, float]]:
        """Intervals of a road outside of its junctions."""
        edges = [self.roads[road].start_m]
        for gap in self.gaps[road]:
            edges += [gap.start_m, gap.stop_m]
        edges.append(self.roads[road].stop_m)
        return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a > 2]


def _curvature(rng: np.random.Generator, s: Array, strength: float) -> Array:
    """A constant bend plus one slow wave, 1/m."""
    wave = rng.uniform(0.2, 1.0) * np.sin(2 * math.pi * s / rng.uniform(120, 260) + rng.uniform(0, 2 * math.pi))
    return strength * (rng.uniform(-0.7, 0.7) + wave)


def _roads(rng: np.random.Generator, main_red: bool) -> tuple[list[Road], list[list[Gap]]]:
    """Draw the main road and the streets that meet it."""
    s = np.arange(-166.0, 166.5, 1.0)
    strength = float(rng.choice([0.0, 0.002, 0.005, 0.008], p=[0.15, 0.3, 0.35, 0.2]))
    one_way = rng.uniform() < 0.15
    lanes = int(rng.choice([1, 2, 3], p=[0.5, 0.4, 0.1]))
    lane_m = float(rng.uniform(3.2, 3.7))
    curve = Curve.winding(rng.uniform(-4, 4, 2), rng.uniform(-math.pi, math.pi), s, _curvature(rng, s, strength))
    parking = rng.uniform(size=2) < 0.5
    forward, backward = (max(2, lanes), 0) if one_way else (lanes, lanes)
    roads = [Road(curve, -166, 166, forward, backward, lane_m, bool(parking[0]), bool(parking[1]))]
    first = float(rng.uniform(14, 60))
    places = [first] if main_red else [first, first - rng.uniform(75, 110), first + rng.uniform(75, 100)]
    if not main_red:
        places = [
            p for p, keep in zip(places, (True, rng.uniform() < 0.7, rng.uniform() < 0.4), strict=True) if keep and abs(p) < 135
        ]
        if rng.uniform() < 0.15:
            places = []
    gaps: list[list[Gap]] = [[]]
    for place in sorted(places):
        origin, heading = curve.at(place)
        skew = float(rng.uniform(-0.2, 0.2))
        legs = ((1, -1), (1,), (-1,))[int(rng.choice(3, p=[0.6, 0.2, 0.2]))]
        t = np.arange(-140.0, 140.5, 1.0)
        bend = _curvature(rng, t, float(rng.uniform(0, 0.004))) * np.clip((np.abs(t) - 15) / 20, 0, 1)
        side = Curve.winding(origin, heading + math.pi / 2 + skew, t, bend)
        many = int(rng.choice([1, 2], p=[0.75, 0.25]))
        width = float(rng.uniform(3.1, 3.6))
        park = bool(rng.uniform() < 0.3)
        road = Road(side, -140.0 if -1 in legs else 0.0, 140.0 if 1 in legs else 0.0, many, many, width, park, park)
        gaps[0].append(_gap(roads[0], road, place, skew, len(roads), (1, -1)))
        gaps.append([_gap(road, roads[0], 0.0, skew, 0, legs)])
        roads.append(road)
    return roads, gaps


def _gap(road: Road, other: Road, s_m: float, skew: float, number: int, legs: tuple[int, ...]) -> Gap:
    """Where `road` has no lines because `other` passes: half the other's width, the skew, and a kerb return."""

    def reach(width: float) -> float:
        return width / math.cos(skew) + max(road.left_m, -road.right_m) * abs(math.tan(skew)) + 2.5

    if number:  # the side street's left is the main road's rear
        return Gap(s_m, s_m - reach(other.left_m) - 5.4, s_m + reach(-other.right_m) + 5.4, number, legs)
    start = s_m - reach(-other.right_m) - 5.4 if -1 in legs else s_m
    stop = s_m + reach(other.left_m) + 5.4 if 1 in legs else s_m
    return Gap(s_m, start, stop, number, legs)


def _largest(shape: shapely.Geometry) -> Polygon | None:
    parts = [g for g in getattr(shape, "geoms", [shape]) if g.geom_type == "Polygon" and g.area > 0.5]
    return max(parts, key=lambda g: g.area) if parts else None


def _carparks(
    rng: np.random.Generator, main: Road, gaps: list[Gap], walkway_m: float, streets: shapely.Geometry
) -> list[CarPark]:
    """Perhaps a lot beside the main road, clear of every street."""
    found: list[CarPark] = []
    for _ in range(6 if rng.uniform() < 0.45 else 0):
        side = 1 if rng.uniform() < 0.5 else -1
        length, depth = float(rng.uniform(22, 38)), float(rng.uniform(17, 19))
        s = float(rng.uniform(-45, 60))
        edge = main.left_m if side > 0 else main.right_m
        centre, heading = main.curve.at(s, edge + side * (walkway_m + 1.5 + depth / 2))
        area = rectangle(centre, heading, length, depth)
        if not area.buffer(2).intersects(streets) and all(g.start_m - 8 > s or s > g.stop_m + 8 for g in gaps):
            found.append(CarPark(area, centre, heading, length, depth))
            break
    return found


def rectangle(centre: Array, heading_rad: float, length_m: float, width_m: float) -> Polygon:
    """Return a turned rectangle.

    Args:
        centre: (2,) in metres.
        heading_rad: direction of its length.
        length_m: its length.
        width_m: its width.
    """
    along = np.array([math.cos(heading_rad), math.sin(heading_rad)])
    across = np.array([-along[1], along[0]])
    signs = ((1, 1), (-1, 1), (-1, -1), (1, -1))
    return Polygon([centre + a * length_m / 2 * along + b * width_m / 2 * across for a, b in signs])


def _furniture(
    rng: np.random.Generator, roads: list[Road], gaps: list[list[Gap]], surface: shapely.Geometry
) -> tuple[list[Crossing], list[Polygon]]:
    """Crossings and stop lines at the ends of every leg."""
    crossings, stops = [], []
    for number, (road, row) in enumerate(zip(roads, gaps, strict=True)):
        for gap in row:
            for leg in gap.legs:
                edge = gap.stop_m if leg > 0 else gap.start_m
                if rng.uniform() < 0.75:
                    a, b = sorted((edge - leg * 5.0, edge - leg * 1.6))
                    area = _largest(Polygon(road.curve.strip(a, b, road.left_m + 1, road.right_m - 1)).intersection(surface))
                    if area is not None:
                        origin, heading = road.curve.at((a + b) / 2)
                        crossings.append(Crossing(area, number, (a + b) / 2, origin, heading))
                # the line stops those who drive towards the junction: against the leg
                left, right = (road.backward * road.lane_m, 0.1) if leg > 0 else (-0.1, -road.forward * road.lane_m)
                if left - right > 1:
                    a, b = sorted((edge - leg * 0.8, edge))
                    stops.append(Polygon(road.curve.strip(a, b, left, right)))
    return crossings, stops


def draw_plan(rng: np.random.Generator) -> Plan:
    """Draw the streets of one scene."""
    main_red = bool(rng.uniform() < 0.25)
    roads, gaps = _roads(rng, main_red)
    strips = [Polygon(r.curve.strip(r.start_m, r.stop_m, r.left_m, r.right_m)) for r in roads]
    streets = unary_union(strips)
    rounded = streets.buffer(5, quad_segs=6).buffer(-5, quad_segs=6).union(streets)
    walkway_m = float(rng.uniform(2.4, 4.5))
    carparks = _carparks(rng, roads[0], gaps[0], walkway_m, rounded.buffer(walkway_m))
    drives = []
    for lot in carparks:
        middle = rounded.buffer(-1.0).intersection(rectangle(lot.centre, lot.heading_rad, 6, 200))
        point = shapely.shortest_line(shapely.Point(lot.centre), middle).coords[1]
        reach = np.array(point) - lot.centre
        drives.append(
            rectangle(lot.centre + reach / 2, math.atan2(reach[1], reach[0]), float(np.hypot(*reach)), 6.0).difference(lot.area)
        )
    surface = unary_union([rounded, *drives]).buffer(0)
    lots = unary_union([lot.area for lot in carparks])
    walkway = rounded.buffer(walkway_m, quad_segs=6).difference(surface).difference(lots)
    crossings, stops = _furniture(rng, roads, gaps, rounded)
    lines, segments, blocks, lanes = _paint(rng, roads, gaps)
    return Plan(
        tuple(roads), tuple(tuple(g) for g in gaps), surface, walkway, walkway_m, tuple(crossings), tuple(stops),
        tuple(carparks), tuple(lines), tuple(segments), tuple(blocks), tuple(lanes), main_red,
    )  # fmt: skip


def _paint(
    rng: np.random.Generator, roads: list[Road], gaps: list[list[Gap]]
) -> tuple[list[Line], list[Polygon], list[Polygon], list[Polygon]]:
    """Divider lines, and the segment, block and lane polygons between junctions."""
    lines, segments, blocks, lanes = [], [], [], []
    centre = int(rng.choice([0, 2, 3], p=[0.35, 0.45, 0.2]))
    for number, (road, row) in enumerate(zip(roads, gaps, strict=True)):
        edges = [road.start_m, *(e for gap in row for e in (gap.start_m, gap.stop_m)), road.stop_m]
        for a, b in zip(edges[::2], edges[1::2], strict=True):
            if b - a < 4:
                continue
            strip = road.curve.strip
            segments.append(Polygon(strip(a, b, road.left_m, road.right_m)))
            if road.backward:
                lines.append(Line(road.curve.line(a, b), centre if number == 0 else 0, "road_divider"))
                blocks.append(Polygon(strip(a, b, road.backward * road.lane_m, 0)))
            blocks.append(Polygon(strip(a, b, 0, -road.forward * road.lane_m)))
            for lane in range(-road.backward, road.forward):
                lanes.append(Polygon(strip(a, b, -lane * road.lane_m, -(lane + 1) * road.lane_m)))
                if lane not in (0, -road.backward):
                    lines.append(Line(road.curve.line(a, b, -lane * road.lane_m), 1, "lane_divider"))
    return lines, segments, blocks, lanes
