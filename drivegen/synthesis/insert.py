"""Vehicles put into a scene: before or behind another one on its course, as large as usual, moving as that one does."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy as np

from drivegen.scene import Box3D
from drivegen.scene.box_changes import USUAL_SIZE_M
from drivegen.scene.geometry import SE3, Array
from drivegen.synthesis.course import Course, course
from drivegen.synthesis.lanes import Road
from drivegen.synthesis.recipe import Insert
from drivegen.synthesis.tracks import Surroundings, Track, Tracks

LEADERS = ("car", "truck", "bus", "trailer", "construction_vehicle", "motorcycle")
"""Classes of which an inserted vehicle follows one, or goes before it; the ego vehicle does too."""

TRIES = 40
STANDING_M = 0.2
"""What moves less than this between two key frames stands."""

FURTHEST_M = 80.0
"""An inserted vehicle comes at least this near to the ego."""

_PARKED, _RIDDEN = "vehicle.parked", ("motorcycle", "bicycle")


class Inserter:
    """Finds free places in one scene."""

    def __init__(self, tracks: Tracks, road: Road, around: Surroundings) -> None:
        """Look at a scene.

        Args:
            tracks: its objects, to which more may be added meanwhile.
            road: its map.
            around: what its lidar saw.
        """
        self._tracks, self._road, self._around = tracks, road, around
        self._courses: dict[tuple[str, bool], Course | None] = {}

    def insert(self, edit: Insert, rng: Random) -> Track | str:
        """Return a vehicle's boxes, one in every key frame, at a free place, or why there is none.

        A vehicle drawn at random is followed along its course, at the same distance in every key frame; the result has to be on
        a lane (or the drivable area), and free of other objects, the ego, and of what the lidar saw there, in each.

        Args:
            edit: what to insert.
            rng: draws leader, distance and side.
        """
        lanes = edit.where == "lane"
        if lanes and not self._road.lanes_there:
            return "the map has no lanes"
        if not lanes and not self._road.there:
            return "the map has no drivable area"
        leaders = [name for name, track in self._leaders().items() if all(map(self._is_held(lanes), track.values()))]
        if not leaders:
            return f"no vehicle is on a {edit.where}"
        for _ in range(TRIES):
            name, gap, ahead = rng.choice(leaders), rng.uniform(*edit.gap_m), rng.choice((1, -1))
            found = self._follower(edit, name, gap * ahead)
            if found and self._is_free(found, lanes):
                return found
        return f"no free place on a {edit.where}"

    def _is_held(self, lanes: bool) -> Callable[[Box3D], bool]:
        return self._road.on_lane if lanes else self._road.drivable

    def _leaders(self) -> dict[str, Track]:
        found = {name: self._tracks.track(name) for name in self._tracks.names()}
        vehicles = {name: track for name, track in found.items() if next(iter(track.values())).detection_class in LEADERS}
        return {"": self._tracks.ego, **vehicles}

    def _is_free(self, found: Track, lanes: bool) -> bool:
        near = min(
            float(np.linalg.norm((box.global_SE3_object.translation - self._tracks.ego[i].global_SE3_object.translation)[:2]))
            for i, box in found.items()
        )
        return (
            near < FURTHEST_M
            and all(map(self._is_held(lanes), found.values()))
            and all(map(self._road.drivable, found.values()))
            and self._tracks.fits("", found)
            and not any(self._around.occupied(i, box) for i, box in found.items())
        )

    def _follower(self, edit: Insert, name: str, gap_m: float) -> Track | None:
        """Return boxes of the inserted class that are gap_m from bumper to bumper ahead of a leader, behind where negative."""
        leader, key = self._leaders()[name], (name, edit.where == "lane")
        if key not in self._courses:
            self._courses[key] = course(leader, self._road, key[1])
        way = self._courses[key]
        if way is None:
            return None
        size, seen = np.array(USUAL_SIZE_M[edit.to]), sorted(leader)
        own = np.array([way.place_of(leader[i].global_SE3_object.translation[:2]) for i in seen])
        places = _everywhere(own, self._tracks.times_s[seen], self._tracks.times_s)
        between = (leader[seen[0]].size_wlh_m[1] + size[1]) / 2 + abs(gap_m)
        attribute = self._attribute(edit, leader[seen[0]], places)
        out: Track = {}
        for i, place in enumerate(places + np.copysign(between, gap_m)):
            at, model = way.at(float(place)), leader[min(seen, key=lambda j: abs(j - i))]
            if at is None:
                return None
            pose = model.global_SE3_object
            up = np.array([0.0, 0.0, pose.translation[2] + (size[2] - model.size_wlh_m[2]) / 2])
            turned = SE3.from_yaw(at.yaw_rad - pose.yaw_rad).rotation @ pose.rotation
            out[i] = Box3D(edit.to, SE3(turned, at.translation + up), size, attribute=attribute)
        return out

    def _attribute(self, edit: Insert, leader: Box3D, places: Array) -> str:
        if edit.to in _RIDDEN:
            return "cycle.with_rider"
        if len(places) > 1 and bool((np.abs(np.diff(places)) > STANDING_M).any()):
            return "vehicle.moving"
        return _PARKED if leader.attribute == _PARKED else "vehicle.stopped"


def _everywhere(places: Array, times_s: Array, all_s: Array) -> Array:
    """Return where a leader is in every key frame: between and beyond those in which it is seen at a steady speed.

    Args:
        places: (K,) along its course.
        times_s: (K,) of these.
        all_s: (T,) of all key frames.
    """
    out = np.interp(all_s, times_s, places)
    if len(places) > 1 and np.ptp(places) > STANDING_M:
        speeds = np.diff(places) / np.diff(times_s)
        early, late = all_s < times_s[0], all_s > times_s[-1]
        out[early] = places[0] + (all_s[early] - times_s[0]) * speeds[0]
        out[late] = places[-1] + (all_s[late] - times_s[-1]) * speeds[-1]
    return np.asarray(out)
