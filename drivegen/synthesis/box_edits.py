"""A recipe's edits of boxes, track by track: an edit that does not fit is skipped and counted."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from random import Random

from drivegen.scene import Box3D, Scene
from drivegen.scene.box_changes import ALIKE, resized, swapped, usual_size
from drivegen.scene.geometry import SE3
from drivegen.synthesis.course import course, shifted
from drivegen.synthesis.draws import draw
from drivegen.synthesis.insert import Inserter
from drivegen.synthesis.lanes import Road
from drivegen.synthesis.pedestrians import Pedestrians
from drivegen.synthesis.recipe import BoxEdit, Boxes, Drop, Jitter, Move, Range, Swap
from drivegen.synthesis.tracks import Surroundings, Track, Tracks

Skipped = Counter[str]
"""How often an edit was left out, by edit and reason."""


def edit_boxes(scene: Scene, edits: Boxes, purpose: tuple[object, ...]) -> tuple[Tracks, Skipped]:
    """Edit a scene's objects; returns them, and what was left out.

    Args:
        scene: the source.
        edits: what the recipe says.
        purpose: names the draws: run seed, scene, variant.
    """
    tracks, road, around, skipped = Tracks(scene), Road(scene), Surroundings(scene), Skipped()
    for kind in ("drop", "swap", "move", "jitter"):
        for number, edit in enumerate(getattr(edits, kind)):
            for name in tracks.names():
                track = tracks.track(name)
                rng = draw(*purpose, kind, number, name)
                if not _is_meant(edit, next(iter(track.values()))) or rng.random() >= edit.probability:
                    continue
                if isinstance(edit, Drop):
                    tracks.remove(name)
                    continue
                changed = _changed(edit, track, rng, road)
                if isinstance(changed, dict) and not tracks.fits(name, changed):
                    changed = "would overlap another object"
                if isinstance(changed, dict) and isinstance(edit, Move) and _leaves(track, changed, road):
                    changed = "would leave the road"
                if isinstance(changed, dict) and isinstance(edit, Move) and _collides(changed, around):
                    changed = "would stand in something that the lidar saw"
                if isinstance(changed, str):
                    skipped[f"{kind}: {changed}"] += 1
                else:
                    tracks.put(name, changed)
    inserter, pedestrians = Inserter(tracks, road, around), Pedestrians(tracks, road, around)
    for number, edit in enumerate(edits.insert):
        rng = draw(*purpose, "insert", number)
        for k in range(rng.randint(*edit.count)):
            own = draw(*purpose, "insert", number, k)
            found = pedestrians.insert(own) if edit.to == "pedestrian" else inserter.insert(edit, own)
            if isinstance(found, str):
                skipped[f"insert: {found}"] += 1
            else:
                tracks.put(f"inserted {number} {k}", found)
    return tracks, skipped


def _leaves(before: Track, after: Track, road: Road) -> bool:
    """Tell whether a vehicle that stood on the drivable area would not any more."""
    vehicle = any(box.detection_class in kind for box in before.values() for kind in ALIKE[:2])
    return vehicle and any(road.drivable(before[i]) and not road.drivable(box) for i, box in after.items())


def _collides(track: Track, around: Surroundings) -> bool:
    return any(around.occupied(i, box) for i, box in track.items())


def _is_meant(edit: BoxEdit, box: Box3D) -> bool:
    if box.category == "vehicle.ego":
        return False
    return not edit.classes or box.category in edit.classes or box.detection_class in edit.classes


def _changed(edit: BoxEdit, track: Track, rng: Random, road: Road) -> Track | str:
    if isinstance(edit, Swap):
        return _swapped(edit, track)
    if isinstance(edit, Move):
        return _moved(edit, track, rng, road)
    assert isinstance(edit, Jitter)
    a, b = (rng.uniform(-edit.position_m, edit.position_m) for _ in range(2))
    step = SE3.from_yaw(math.radians(rng.uniform(-edit.heading_deg, edit.heading_deg)), (a, b, 0.0))
    factor = 1 + rng.uniform(-edit.size, edit.size)
    return {i: resized(_stepped(box, step), box.size_wlh_m * factor) for i, box in track.items()}


def _swapped(edit: Swap, track: Track) -> Track | str:
    size = usual_size(edit.to)
    if size is None:
        return f"no usual size of {edit.to} is known"
    return {i: swapped(box, edit.to, size) for i, box in track.items()}


def _moved(edit: Move, track: Track, rng: Random, road: Road) -> Track | str:
    forward, left, turn = (_between(rng, range_) for range_ in (edit.forward_m, edit.left_m, edit.turn_deg))
    step = SE3.from_yaw(math.radians(turn), (0.0 if edit.on_lane else forward, left, 0.0))
    if edit.on_lane:
        if not road.lanes_there:
            return "the map has no lanes"
        if not all(map(road.on_lane, track.values())):
            return "is not on a lane"
        way = course(track, road, lanes=True)
        moved = {}
        for i, box in track.items():
            if way is not None and (pose := shifted(way, box.global_SE3_object, forward)) is not None:
                moved[i] = _stepped(replace(box, global_SE3_object=pose), step)
        if len(moved) < len(track) or not all(map(road.on_lane, moved.values())):
            return "would leave the lane"
        return moved
    return {i: _stepped(box, step) for i, box in track.items()}


def _between(rng: Random, range_: Range) -> float:
    return rng.uniform(*range_)


def _stepped(box: Box3D, step: SE3) -> Box3D:
    return replace(box, global_SE3_object=box.global_SE3_object @ step)
