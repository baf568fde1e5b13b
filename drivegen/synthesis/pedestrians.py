"""Pedestrians put into a scene: on walkways and crossings, standing or walking straight on at a usual pace."""

from __future__ import annotations

import math
from random import Random

import numpy as np

from drivegen.scene import Box3D
from drivegen.scene.box_changes import USUAL_SIZE_M
from drivegen.scene.geometry import SE3, Array
from drivegen.synthesis.lanes import Road
from drivegen.synthesis.tracks import Surroundings, Track, Tracks

NEAR_M = 40.0
"""A pedestrian is at least this near to where the ego is in one of the key frames."""

TRIES = 40
PACE_M_S = (0.9, 1.6)
WALKING = 0.7
"""The share that walks where there is room to; the others stand."""

WAYS = 12
"""Directions that are tried from a place, before somebody stands there instead."""


class Pedestrians:
    """Finds free places in one scene."""

    def __init__(self, tracks: Tracks, road: Road, around: Surroundings) -> None:
        """Look at a scene.

        Args:
            tracks: its objects, to which more may be added meanwhile.
            road: its map.
            around: what its lidar saw.
        """
        self._tracks, self._road, self._around = tracks, road, around

    def insert(self, rng: Random) -> Track | str:
        """Return a pedestrian's boxes, one in every key frame, at a free place, or why there is none.

        All of it is on walkways and crossings, free of other objects, of the ego, and of what the lidar saw there.

        Args:
            rng: draws place, direction and pace.
        """
        if not self._road.walkways_there:
            return "the map has no walkways or crossings"
        for _ in range(TRIES):
            ego = self._tracks.ego[rng.randrange(len(self._tracks.times_s))]
            start = self._road.place_on_foot(ego.global_SE3_object.translation[:2], NEAR_M, rng)
            if start is None:
                continue
            pace, first = rng.uniform(*PACE_M_S) if rng.random() < WALKING else 0.0, rng.uniform(-math.pi, math.pi)
            ways = [(pace, first + 2 * math.pi * k / WAYS) for k in range(WAYS if pace else 0)]
            for one_pace, yaw in (*ways, (0.0, first)):
                found = self._walking(start, one_pace, yaw)
                if self._is_free(found):
                    return found
        return "no free place on a walkway or crossing"

    def _walking(self, start: Array, pace_m_s: float, yaw_rad: float) -> Track:
        """Return the boxes of somebody who is at a place half way through the scene, and walks straight on."""
        size, times_s = np.array(USUAL_SIZE_M["pedestrian"]), self._tracks.times_s
        way = np.array([math.cos(yaw_rad), math.sin(yaw_rad)])
        attribute = "pedestrian.moving" if pace_m_s and len(times_s) > 1 else "pedestrian.standing"
        out: Track = {}
        for i, time_s in enumerate(times_s - (times_s[0] + times_s[-1]) / 2):
            place = start + pace_m_s * float(time_s) * way
            pose = SE3.from_yaw(yaw_rad, (*place, self._ground(i, place) + size[2] / 2))
            out[i] = Box3D("pedestrian", pose, size, attribute=attribute)
        return out

    def _ground(self, number: int, place: Array) -> float:
        """Return the height of the ground at a place: that on which the nearest object stands, or the ego."""
        boxes = [*self._tracks.frames[number].values(), self._tracks.ego[number]]
        near = min(boxes, key=lambda box: float(np.linalg.norm(box.global_SE3_object.translation[:2] - place)))
        return float(near.global_SE3_object.translation[2] - near.size_wlh_m[2] / 2)

    def _is_free(self, found: Track) -> bool:
        return (
            all(map(self._road.walkable, found.values()))
            and self._tracks.fits("", found)
            and not any(self._around.occupied(i, box) for i, box in found.items())
        )
