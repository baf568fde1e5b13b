"""Vehicles put into a scene: before or behind another one on its lane, as large as usual, moving as that one does."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np

from drivegen.scene import Box3D
from drivegen.scene.geometry import SE3
from drivegen.synthesis.recipe import Insert
from drivegen.synthesis.sizes import USUAL_SIZE_M
from drivegen.synthesis.tracks import Lanes, Track, Tracks

LEADERS = ("car", "truck", "bus", "trailer", "construction_vehicle", "motorcycle")
"""Classes of which an inserted vehicle follows one, or goes before it; the ego vehicle does too."""

TRIES = 40
STANDING_M = 0.2
"""What moves less than this between two key frames stands."""


def inserted(edit: Insert, tracks: Tracks, lanes: Lanes, rng: Random) -> Track | str:
    """Return a vehicle's boxes at a free place, or why there is none.

    A vehicle that is on a lane whenever it is seen, drawn at random, is shifted along its own heading; the result has to be
    on a lane, and free of overlaps, in each of its key frames. So heading and motion are those of the lane's traffic.

    Args:
        edit: what to insert.
        tracks: the scene's objects.
        lanes: where the map has lanes.
        rng: draws leader, distance and side.
    """
    if not lanes.there:
        return "the map has no lanes"
    leaders = [track for track in _leaders(tracks) if all(map(lanes.hold, track.values()))]
    if not leaders:
        return "no vehicle is on a lane"
    for _ in range(TRIES):
        leader, gap, ahead = rng.choice(leaders), rng.uniform(*edit.gap_m), rng.choice((1, -1))
        found = _shifted(edit, leader, gap * ahead)
        if all(map(lanes.hold, found.values())) and tracks.fits("", found):
            return found
    return "no free place on a lane"


def _leaders(tracks: Tracks) -> list[Track]:
    found = [tracks.track(name) for name in tracks.names()]
    return [tracks.ego, *(track for track in found if next(iter(track.values())).detection_class in LEADERS)]


def _shifted(edit: Insert, leader: Track, gap_m: float) -> Track:
    """Return boxes of the inserted class that are gap_m from bumper to bumper ahead of a leader, behind where negative."""
    size = np.array(USUAL_SIZE_M[edit.to])
    out = {}
    for i, box in leader.items():
        between = (box.size_wlh_m[1] + size[1]) / 2 + abs(gap_m)
        step = SE3.from_yaw(0.0, (float(np.copysign(between, gap_m)), 0.0, float(size[2] - box.size_wlh_m[2]) / 2))
        out[i] = Box3D(edit.to, box.global_SE3_object @ step, size)
    attribute = "vehicle.moving" if _moves(out) else "vehicle.stopped"
    if edit.to == "motorcycle":
        attribute = "cycle.with_rider"
    return {i: replace(box, attribute=attribute) for i, box in out.items()}


def _moves(track: Track) -> bool:
    places = np.array([box.global_SE3_object.translation for box in track.values()])
    return len(places) > 1 and bool((np.linalg.norm(np.diff(places, axis=0), axis=1) > STANDING_M).any())
