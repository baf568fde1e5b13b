"""Where the map lets vehicles drive and people walk, and how a lane goes on."""

from __future__ import annotations

from random import Random

import numpy as np
from shapely import Point, Polygon, STRtree, prepare
from shapely import contains_xy as contains
from shapely import union_all as union
from shapely.geometry.base import BaseGeometry

from drivegen.scene import Box3D, Scene, VectorMap
from drivegen.scene.geometry import Array

LANE_LAYERS = ("lane", "lane_connector")
ROAD_LAYER = "drivable_area"
WALKWAY_LAYERS = ("walkway", "ped_crossing")

AROUND_M = 150.0
"""The map is looked at this far around the vehicle's way."""

STEP_M = 1.0
WIDEST_M = 7.0
"""What is wider is no single lane, such as a junction: there one goes straight on."""

SIDE_M = 20.0
DRAWS = 60
"""So often a place is drawn within the rectangle about an area, until it is inside."""

_FOOT = 0.8
"""Of a box's length and width, the part that stands on the road: mirrors and corners of the box may be beyond its border."""


class Road:
    """The lanes, the drivable area and the walkways of a scene's map.

    lanes_there, there and walkways_there tell whether the map has lanes, a drivable area, and walkways or crossings.
    """

    def __init__(self, scene: Scene) -> None:
        self._lanes = _shapes(_near(scene), LANE_LAYERS)
        self._edges = [_edges(shape) for shape in self._lanes]
        self._tree = STRtree(self._lanes)
        self.lanes_there = bool(self._lanes)
        area = _shapes(_near(scene), (ROAD_LAYER,))
        self.there = bool(area)
        self._all_lanes, self._area = union(self._lanes), union(area)
        self._walkways = union(_shapes(_near(scene), WALKWAY_LAYERS))
        self.walkways_there = not self._walkways.is_empty
        prepare(self._walkways)
        prepare(self._all_lanes)
        prepare(self._area)

    def on_lane(self, box: Box3D) -> bool:
        """Tell whether a box's middle is on a lane."""
        return bool(contains(self._all_lanes, *box.global_SE3_object.translation[:2]))

    def drivable(self, box: Box3D) -> bool:
        """Tell whether a box stands on the drivable area, or the map does not know it."""
        if not self.there:
            return True
        middle = box.global_SE3_object.translation[:2]
        corners = middle + _FOOT * (box.corners()[[2, 3, 6, 7], :2] - middle)
        return bool(contains(self._area, corners[:, 0], corners[:, 1]).all())

    def walkable(self, box: Box3D) -> bool:
        """Tell whether all of a box is on walkways and crossings."""
        corners = box.corners()[[2, 3, 6, 7], :2]
        return bool(contains(self._walkways, corners[:, 0], corners[:, 1]).all())

    def place_on_foot(self, middle: Array, radius_m: float, rng: Random) -> Array | None:
        """Return a place (2,) on walkways and crossings, all of them equally likely; None where none is near.

        Args:
            middle: (2,) metres in the map's frame.
            radius_m: how near to it.
            rng: draws.
        """
        near = self._walkways.intersection(Point(middle).buffer(radius_m))
        parts = [part for part in getattr(near, "geoms", [near]) if part.area > 0]
        if not parts:
            return None
        part = rng.choices(parts, [part.area for part in parts])[0]
        left, bottom, right, top = part.bounds
        for _ in range(DRAWS):
            place = np.array([rng.uniform(left, right), rng.uniform(bottom, top)])
            if contains(part, *place):
                return place
        return None

    def onwards(self, start: Array, heading: Array, reach_m: float, lanes: bool) -> list[Array]:
        """Return places a metre apart on the way from a place, without it, as far as the lane or the drivable area goes.

        In a lane the share of its width to either side stays.

        Args:
            start: (2,) metres in the map's frame.
            heading: (2,) of unit length.
            reach_m: how far.
            lanes: follow lanes; else go straight on, on the drivable area.
        """
        if not lanes:
            return self._straight(start, heading, reach_m)
        found: list[Array] = []
        place, lane = start, self._lane(start, heading)
        share = self._share(lane, place, heading)
        while lane is not None and len(found) * STEP_M < reach_m:
            ahead = place + STEP_M * heading
            if not contains(self._lanes[lane], *ahead):
                lane = self._lane(ahead, heading)
                share = self._share(lane, ahead, heading)
            elif share is not None and (sides := self._sides(lane, ahead, heading)) is not None:
                aside = float(np.clip(sides[0] - share * sum(sides), -STEP_M / 2, STEP_M / 2))
                ahead = ahead + aside * np.array([-heading[1], heading[0]])
            heading = (ahead - place) / np.linalg.norm(ahead - place)
            place = ahead
            if lane is not None:
                found.append(place)
        return found

    def _straight(self, start: Array, heading: Array, reach_m: float) -> list[Array]:
        found = [start + heading * away for away in np.arange(STEP_M, reach_m, STEP_M)]
        inside = [bool(contains(self._area, *place)) for place in found] if self.there else [True] * len(found)
        return found[: inside.index(False)] if False in inside else found

    def _lane(self, place: Array, heading: Array) -> int | None:
        """Number the lane that holds a place; of several the one that is the narrowest across the heading."""
        near = [int(i) for i in self._tree.query(Point(place)) if contains(self._lanes[i], *place)]
        widths = {i: sum(self._sides(i, place, heading) or (np.inf,)) for i in near}
        return min(widths, key=lambda i: widths[i], default=None)

    def _share(self, lane: int | None, place: Array, heading: Array) -> float | None:
        """Return the share of a lane's width that is to the left of a place; None where it is no single lane."""
        sides = None if lane is None else self._sides(lane, place, heading)
        return sides[0] / sum(sides) if sides is not None and sum(sides) < WIDEST_M else None

    def _sides(self, lane: int, place: Array, heading: Array) -> tuple[float, float] | None:
        """Return how far a lane's border is to the left and to the right of a place; None where it is further than SIDE_M."""
        a, b = self._edges[lane]
        left = np.array([-heading[1], heading[0]])
        before, after = (a - place) @ heading, (b - place) @ heading
        crossing = (before <= 0) != (after <= 0)
        share = before[crossing] / (before[crossing] - after[crossing])
        away = ((1 - share) * ((a[crossing] - place) @ left)) + share * ((b[crossing] - place) @ left)
        if not ((away > 0) & (away < SIDE_M)).any() or not ((away <= 0) & (away > -SIDE_M)).any():
            return None
        return float(away[away > 0].min()), float(-away[away <= 0].max())


def _near(scene: Scene) -> VectorMap | None:
    area = next((frame.map for frame in scene.frames if frame.map is not None), None)
    if area is None:
        return None
    places = np.array([frame.global_SE3_ego.translation[:2] for frame in scene.frames])
    centre = places.mean(0)
    return area.near(centre, float(np.abs(places - centre).max()) + AROUND_M)


def _shapes(area: VectorMap | None, layers: tuple[str, ...]) -> list[BaseGeometry]:
    polygons = [] if area is None else [p for layer in layers for p in area.polygons.get(layer, ())]
    shapes = [Polygon(p.exterior, p.holes).buffer(0) for p in polygons]
    return [part for shape in shapes for part in getattr(shape, "geoms", [shape]) if not part.is_empty]


def _edges(shape: BaseGeometry) -> tuple[Array, Array]:
    rings = [np.array(ring.coords) for ring in (shape.exterior, *shape.interiors)]
    return np.concatenate([ring[:-1] for ring in rings]), np.concatenate([ring[1:] for ring in rings])
