"""Paths of road users: where each is at a time, and which of them would touch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from drivegen.scene.geometry import SE3, Array
from drivegen.world.curve import Curve

GROUND_M = 0.03
"""A box begins this far above the ground, so that no lidar point of the ground lies on its underside."""

KINDS = {
    "car": ("vehicle.car", (1.75, 4.0, 1.42), (2.0, 4.9, 1.85)),
    "truck": ("vehicle.truck", (2.3, 6.4, 2.7), (2.6, 9.0, 3.5)),
    "construction_vehicle": ("vehicle.construction", (2.1, 5.2, 2.8), (2.3, 6.4, 3.3)),
    "bus": ("vehicle.bus.rigid", (2.55, 9.8, 3.0), (2.8, 12.2, 3.4)),
    "trailer": ("vehicle.trailer", (2.35, 7.5, 3.2), (2.55, 11.5, 3.8)),
    "barrier": ("movable_object.barrier", (1.9, 0.45, 0.95), (2.2, 0.55, 1.1)),
    "motorcycle": ("vehicle.motorcycle", (0.75, 2.0, 1.5), (0.9, 2.3, 1.65)),
    "bicycle": ("vehicle.bicycle", (0.6, 1.7, 1.65), (0.7, 1.85, 1.8)),
    "pedestrian": ("human.pedestrian.adult", (0.58, 0.62, 1.55), (0.72, 0.85, 1.92)),
    "traffic_cone": ("movable_object.trafficcone", (0.38, 0.38, 0.65), (0.46, 0.46, 0.95)),
}
"""Category and smallest and largest (width, length, height) in metres of each detection class."""


@dataclass(frozen=True, eq=False)
class Track:
    """One object's path: from arc length s0 along a curve (direction +1 or -1) at a lateral offset and a constant speed."""

    kind: str
    size_wlh_m: Array
    curve: Curve
    left_m: float
    s0_m: float
    speed_mps: float
    direction: int
    turn_rad: float
    attribute: str
    rank: int
    ends_m: tuple[float, float] | None = None
    """Arc lengths between which it exists; None = those of the curve."""

    def pose(self, t_s: float) -> tuple[Array, float, Array] | None:
        """Position (2,), heading and velocity (2,) at a time; None outside of its ends."""
        s = self.s0_m + self.direction * self.speed_mps * t_s
        low, high = self.ends_m or (self.curve.s_m[0], self.curve.s_m[-1])
        if not low <= s <= high:
            return None
        point, along = self.curve.at(s, self.left_m)
        before, _ = self.curve.at(s - 0.25, self.left_m)
        after, _ = self.curve.at(s + 0.25, self.left_m)
        velocity = (after - before) * (2 * self.direction * self.speed_mps)
        heading = along + (0.0 if self.direction > 0 else math.pi) + self.turn_rad
        return point, math.remainder(heading, 2 * math.pi), velocity


Footprint = tuple[Array, float, Array]
"""A turned rectangle: centre (2,), heading, size (width, length, height)."""


def draw_size(rng: np.random.Generator, kind: str) -> Array:
    """Draw a size (width, length, height) in metres of a detection class."""
    _, low, high = KINDS[kind]
    return np.array(low) + (np.array(high) - np.array(low)) * rng.uniform(size=3)


def overlap(a: Footprint, b: Footprint, room_m: float) -> bool:
    """Tell whether two turned rectangles come closer to each other than a distance (separating axes).

    Args:
        a: (centre, heading, size_wlh).
        b: likewise.
        room_m: the distance.
    """
    delta = b[0] - a[0]
    reach = (math.hypot(*a[2][:2]) + math.hypot(*b[2][:2])) / 2 + room_m
    if abs(delta[0]) > reach or abs(delta[1]) > reach:
        return False
    for heading in (a[1], a[1] + math.pi / 2, b[1], b[1] + math.pi / 2):
        axis = (math.cos(heading), math.sin(heading))
        apart = abs(delta[0] * axis[0] + delta[1] * axis[1])
        for _, turn, size in (a, b):
            c, s = abs(math.cos(turn - heading)), abs(math.sin(turn - heading))
            apart -= (size[1] * c + size[0] * s) / 2
        if apart > room_m:
            return False
    return True


class _Taken:
    """Footprints already taken, found quickly by their distance."""

    def __init__(self, items: list[Footprint]) -> None:
        self.items = items
        self.rows = [self._row(item) for item in items]
        self.array = np.array(self.rows).reshape(-1, 3)

    @staticmethod
    def _row(item: Footprint) -> tuple[float, float, float]:
        return (item[0][0], item[0][1], math.hypot(*item[2][:2]) / 2)

    def add(self, item: Footprint) -> None:
        self.items.append(item)
        self.rows.append(self._row(item))

    def clash(self, item: Footprint, room_m: float) -> bool:
        if len(self.rows) > len(self.array):
            self.array = np.array(self.rows)
        x, y, reach = self._row(item)
        wide = self.array[:, 2] + reach + room_m
        close = (np.abs(self.array[:, 0] - x) < wide) & (np.abs(self.array[:, 1] - y) < wide)
        return any(overlap(item, self.items[i], room_m) for i in np.flatnonzero(close))


def keep_apart(tracks: list[Track], ego: list[Footprint], times_s: list[float], blocked: list[Footprint]) -> list[Track]:
    """Drop every track that would touch the ego, a static object or a track with a better rank.

    Args:
        tracks: candidates.
        ego: the ego's footprint at each time.
        times_s: the times that are looked at.
        blocked: footprints of static objects.
    """
    kept: list[Track] = []
    still = _Taken(blocked)
    taken: list[_Taken] = [_Taken([]) for _ in times_s]
    for track in sorted(tracks, key=lambda t: t.rank):
        poses = [track.pose(t) for t in times_s]
        states = [None if p is None else (p[0], p[1], track.size_wlh_m) for p in poses]
        if all(s is None for s in states):
            continue
        clash = any(s is not None and overlap(s, e, 1.0) for s, e in zip(states, ego, strict=True))
        clash = clash or any(s is not None and still.clash(s, 0.1) for s in (states[0], states[-1]))
        clash = clash or any(s is not None and there.clash(s, 0.2) for s, there in zip(states, taken, strict=True))
        if not clash:
            kept.append(track)
            for s, there in zip(states, taken, strict=True):
                if s is not None:
                    there.add(s)
    return kept


def box_pose(track: Track, t_s: float) -> tuple[SE3, Array] | None:
    """Pose of a track's box centre and its velocity (3,) at a time, in the plan's coordinates."""
    found = track.pose(t_s)
    if found is None:
        return None
    point, heading, velocity = found
    return SE3.from_yaw(heading, (*point, GROUND_M + track.size_wlh_m[2] / 2)), np.array([*velocity, 0.0])
