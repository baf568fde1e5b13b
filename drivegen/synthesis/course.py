"""The course of a vehicle: the way that it drives, and how its lane goes on before and behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from drivegen.scene import Box3D
from drivegen.scene.geometry import SE3, Array
from drivegen.synthesis.lanes import Road

REACH_M = 60.0
"""A course goes on this far beyond where the vehicle was seen."""

APART_M = 2.0
"""Places of a way are at least this far apart: annotated middles are a little beside it, nearer ones would make it shake."""

STRAIGHT_M = 1.0
"""The direction at a place is that between the places so far before and behind it."""


@dataclass(frozen=True, eq=False)
class Course:
    """A way as a line: points (K, 2) in the map's frame, and for each its distance in metres from the first."""

    points: Array
    along_m: Array

    def place_of(self, xy: Array) -> float:
        """Return how far along the way its place nearest to a point is."""
        start, way = self.points[:-1], np.diff(self.points, axis=0)
        share = (((xy - start) * way).sum(1) / (way**2).sum(1)).clip(0, 1)
        nearest = int(np.linalg.norm(start + share[:, None] * way - xy, axis=1).argmin())
        return float(self.along_m[nearest] + share[nearest] * np.linalg.norm(way[nearest]))

    def at(self, along_m: float) -> SE3 | None:
        """Return a place of the way, with x along it, at height 0; None beyond its ends."""
        if not self.along_m[0] <= along_m <= self.along_m[-1]:
            return None
        x, y = (np.interp(along_m, self.along_m, self.points[:, i]) for i in range(2))
        ends = np.clip([along_m - STRAIGHT_M, along_m + STRAIGHT_M], self.along_m[0], self.along_m[-1])
        dx, dy = (np.diff(np.interp(ends, self.along_m, self.points[:, i]))[0] for i in range(2))
        return SE3.from_yaw(float(np.arctan2(dy, dx)), np.array([x, y, 0.0]))


def course(track: Mapping[int, Box3D], road: Road, lanes: bool) -> Course | None:
    """Return the course of an object; None where it drives backwards, or its way is shorter than a metre.

    Args:
        track: its boxes by number of the frame.
        road: the map.
        lanes: go on along lanes; else straight, on the drivable area.
    """
    poses = [track[i].global_SE3_object for i in sorted(track)]
    driven = [poses[0].translation[:2]]
    for pose in poses[1:]:
        if np.linalg.norm(pose.translation[:2] - driven[-1]) >= APART_M:
            driven.append(pose.translation[:2])
    first, last = _heading(poses[0]), _heading(poses[-1])
    if len(driven) > 1:
        ways = np.diff(np.array(driven), axis=0)
        ways /= np.linalg.norm(ways, axis=1, keepdims=True)
        if ways[0] @ first < 0 or ways[-1] @ last < 0:
            return None
        first, last = ways[0], ways[-1]
    ahead = road.onwards(driven[-1], last, REACH_M, lanes)
    behind = road.onwards(driven[0], -first, REACH_M, lanes)
    points = np.array([*behind[::-1], *driven, *ahead])
    if len(points) < 2:
        return None
    return Course(points, np.concatenate([[0.0], np.linalg.norm(np.diff(points, axis=0), axis=1).cumsum()]))


def shifted(found: Course, pose: SE3, by_m: float) -> SE3 | None:
    """Return a pose shifted along a course, as far beside it and as much turned to it as it was; None beyond its ends.

    Args:
        found: the course.
        pose: on or near it.
        by_m: how far; negative is backwards.
    """
    place = found.place_of(pose.translation[:2])
    here, there = found.at(place), found.at(place + by_m)
    if here is None or there is None:
        return None
    return there @ (here.inverse() @ pose)


def _heading(pose: SE3) -> Array:
    return np.array([np.cos(pose.yaw_rad), np.sin(pose.yaw_rad)])
