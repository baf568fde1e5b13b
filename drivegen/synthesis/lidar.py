"""A sweep after its scene was edited: points move or vanish with their boxes, and what a box newly hides is removed.

Inserted boxes get their points where the sensor's own rays, those that returned, meet them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from drivegen.scene import Box3D, Frame
from drivegen.scene.geometry import SE3, Array

Change = tuple[Box3D | None, Box3D | None]
"""A box before and after an edit; None where it is not there."""


def derived_sweep(source: Path, frame: Frame, changes: list[Change]) -> bytes:
    """Return the sweep, rows of five float32 in the lidar frame, of a frame whose boxes were changed.

    A point belongs to the first changed box that holds it, and is scaled with it. Whether the ground below a box belongs to it
    does not matter, as it is hidden by the box before and after.

    Args:
        source: file of the sweep before.
        frame: the frame; its lidar pose.
        changes: the changed boxes.
    """
    points = np.fromfile(source, dtype=np.float32).reshape(-1, 5)
    global_SE3_lidar = frame.global_SE3_ego @ frame.ego_SE3_lidar
    places = points[:, :3].astype(np.float64)
    owner = np.full(len(points), -1)
    moved = places.copy()
    for i, (before, after) in enumerate(changes):
        if before is None:
            continue
        local = _in_box(before, global_SE3_lidar, places)
        inside = (np.abs(local) <= _half(before)).all(1) & (owner < 0)
        owner[inside] = i
        if after is not None:
            scaled = local[inside] * (_half(after) / _half(before))
            moved[inside] = (global_SE3_lidar.inverse() @ after.global_SE3_object).transform(scaled)
    gone = np.array([after is None for _, after in changes], dtype=bool)
    keep = ~((owner >= 0) & gone[owner]) if len(gone) else np.ones(len(points), dtype=bool)
    touched = owner >= 0
    for i, (before, after) in enumerate(changes):
        if before is not None and after is not None:
            keep &= (_reach(after, global_SE3_lidar, moved) >= 1) | (owner == i)
    reach = np.ones(len(points))
    for before, after in changes:
        if before is None and after is not None:
            reach = np.minimum(reach, _reach(after, global_SE3_lidar, moved))
    moved, touched = moved * reach[:, None], touched | (reach < 1)
    out = points.copy()
    out[touched, :3] = moved[touched].astype(np.float32)
    return out[keep].tobytes()


def _half(box: Box3D) -> Array:
    return np.asarray(box.size_wlh_m[[1, 0, 2]] / 2)


def _in_box(box: Box3D, global_SE3_lidar: SE3, places: Array) -> Array:
    """Bring points of the lidar frame into the box's own frame."""
    return (box.global_SE3_object.inverse() @ global_SE3_lidar).transform(places)


def _reach(box: Box3D, global_SE3_lidar: SE3, places: Array) -> Array:
    """Return, of the way from the lidar to each point, the share at which it enters a box; 1 where it does not.

    Slabs of Kay and Kajiya (1986); a box about the lidar itself hides nothing.
    """
    ends, start = _in_box(box, global_SE3_lidar, places), _in_box(box, global_SE3_lidar, np.zeros((1, 3)))[0]
    way = ends - start
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = (-_half(box) - start) / way, (_half(box) - start) / way
    enter, leave = np.fmax.reduce(np.minimum(a, b), axis=1), np.fmin.reduce(np.maximum(a, b), axis=1)
    return np.where((enter <= leave) & (enter > 0) & (enter < 1), enter, 1.0)
