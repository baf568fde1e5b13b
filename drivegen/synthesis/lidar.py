"""A sweep after its scene was edited: points move or vanish with their boxes, and what a box newly hides is removed.

Inserted boxes get their points where the sensor's rays meet them: those that returned, and a usual sensor's where none did.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from drivegen.scene import Box3D
from drivegen.scene.geometry import SE3, Array
from drivegen.support.errors import InputError
from drivegen.synthesis import sensor
from drivegen.synthesis.rays import INSIDE_M, Rays, directions

Change = tuple[Box3D | None, Box3D | None]
"""A box before and after an edit; None where it is not there."""

SILENT_DEG = 2.0
"""A direction is a square of this side; one without any return is one in which the sensor's rays met nothing."""


def read_sweep(path: Path) -> Array:
    """Read a sweep's file: (N, 5) x, y, z, intensity, ring; raises InputError where it holds anything else."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"lidar file {path} cannot be read: {error.strerror or error}") from error
    if len(data) % 20:
        raise InputError(
            f"lidar file {path} has {len(data) % 20} bytes more than whole points, which are rows of five float32: "
            "x, y, z, intensity, ring; restore it, or remove it, so that a sweep is cast in its place"
        )
    return np.frombuffer(data, dtype="<f4").reshape(-1, 5).astype(np.float64)


def derived(points: Array, global_SE3_lidar: SE3, changes: Sequence[Change], boxes: Sequence[Box3D]) -> Array:
    """Return the sweep (N, 5), in the lidar frame, of a frame whose boxes were changed.

    A point belongs to the first changed box that holds it, and is scaled with it. Whether the ground below a box belongs to it
    does not matter, as it is hidden by the box before and after. A ray that met a box which is gone goes on, as far as an
    inserted one.

    Args:
        points: the sweep before.
        global_SE3_lidar: the sensor's pose.
        changes: the changed boxes.
        boxes: all boxes after the edit.
    """
    places = global_SE3_lidar.transform(points[:, :3])
    owner, moved = _carried(places, changes)
    inserted = {id(after) for before, after in changes if before is None and after is not None}
    other = [box for box in boxes if id(box) in inserted]
    number = {id(box): i for i, box in enumerate(boxes)}
    own = np.array([number.get(id(after), -1) for _, after in changes] + [-1])  # the last is that of owner -1

    rays, eye = Rays(global_SE3_lidar.translation, places), global_SE3_lidar.translation
    free = owner >= 0
    shares, which = rays.first([*other, *(after for before, after in changes if before is not None and after is not None)])
    hits = (which >= 0) & (which < len(other)) & ((shares < 1) | free)
    blocked = (which >= len(other)) & (shares < 1) & ~free
    if free.any() and hits.any():  # what hid them before may still stand in their way
        further = np.flatnonzero(hits & free)
        reach = Rays(eye, rays.at(shares[further], further))
        hits[further[reach.hidden(boxes, np.array([number[id(other[i])] for i in which[further]]))]] = False

    gone = np.array([after is None for _, after in changes] + [False])
    stays = free & ~gone[owner]
    carried = np.flatnonzero(stays)
    stays[carried[Rays(eye, moved[carried]).hidden(boxes, own[owner[carried]])]] = False

    still = ~free & ~hits & ~blocked
    out = points.copy()
    lidar_SE3_global = global_SE3_lidar.inverse()
    out[stays, :3] = lidar_SE3_global.transform(moved[stays])
    met = np.flatnonzero(hits)
    new = points[met].copy()
    new[:, :3] = lidar_SE3_global.transform(rays.at(shares[met], met))
    order = np.concatenate([np.flatnonzero(still | stays), met])
    kept = np.concatenate([out[still | stays], new])[np.argsort(order, kind="stable")]
    return np.concatenate([kept, _unreturned([number[id(box)] for box in other], boxes, global_SE3_lidar, rays)])


def _unreturned(numbers: Sequence[int], boxes: Sequence[Box3D], global_SE3_lidar: SE3, recorded: Rays) -> Array:
    """Return points (K, 5) of inserted boxes on rays that a sweep does not hold, as they met nothing, such as the sky.

    Where a direction has returns of its own, those are the sensor's rays there; elsewhere they are those of a usual sensor.

    Args:
        numbers: of the inserted boxes.
        boxes: all.
        global_SE3_lidar: the sensor's pose.
        recorded: the sweep's rays.
    """
    turn, ring = sensor.rays(global_SE3_lidar)
    near = [turn.through(boxes[i])[0] for i in numbers]
    which_rays = np.unique(np.concatenate(near)) if near else np.zeros(0, dtype=np.intp)
    known = np.unique(directions(recorded.way, SILENT_DEG))
    silent = which_rays[~np.isin(directions(turn.way[which_rays], SILENT_DEG), known)]
    rays = Rays(turn.eye, turn.eye + turn.way[silent])
    shares, which = rays.first(boxes)
    met = np.flatnonzero(np.isin(which, numbers) & (shares <= 1))
    return sensor.measured(rays.at(shares[met], met), ring[silent[met]], global_SE3_lidar)


def _carried(places: Array, changes: Sequence[Change]) -> tuple[np.ndarray, Array]:
    """Return which change each point belongs to, or -1, and where it is after it."""
    owner, moved = np.full(len(places), -1), places.copy()
    for i, (before, after) in enumerate(changes):
        if before is None:
            continue
        local = before.global_SE3_object.inverse().transform(places)
        inside = (np.abs(local) <= _half(before)).all(1) & (owner < 0)
        owner[inside] = i
        if after is not None:
            scaled = (local[inside] * (_half(after) / _half(before))).clip(INSIDE_M - _half(after), _half(after) - INSIDE_M)
            moved[inside] = after.global_SE3_object.transform(scaled)
    return owner, moved


def _half(box: Box3D) -> Array:
    return np.asarray(box.size_wlh_m[[1, 0, 2]] / 2)


def touched(numbers: Sequence[int], boxes: Sequence[Box3D], global_SE3_lidar: SE3, seen: Sequence[Array]) -> Array:
    """Return points (K, 5) of boxes that cameras see, for a sweep that has none of them: where the sensor's rays meet them.

    Each gets at least one. Between the rays of a sensor such as nuScenes' there is room for what is far or small: then it is a
    place that the sensor would see, and where other boxes hide all of it, one that a camera sees.

    Args:
        numbers: of these boxes.
        boxes: all that may hide them.
        global_SE3_lidar: the sensor's pose.
        seen: of each of boxes, (P, 3) places on it that cameras see, in the global frame; P > 0 for these.
    """
    turn, ring = sensor.rays(global_SE3_lidar)
    near = np.unique(np.concatenate([turn.through(boxes[i])[0] for i in numbers]))
    some = Rays(turn.eye, turn.eye + turn.way[near])
    shares, which = some.first(boxes)
    met = np.flatnonzero(np.isin(which, numbers))
    found = [sensor.measured(some.at(shares[met], met), ring[near[met]], global_SE3_lidar)]
    if left := sorted(set(numbers) - set(which[met].tolist())):
        found.append(sensor.measured(_nearest_to_middle(left, boxes, turn.eye, seen), np.zeros(len(left)), global_SE3_lidar))
    return np.concatenate(found)


def _nearest_to_middle(numbers: Sequence[int], boxes: Sequence[Box3D], eye: Array, seen: Sequence[Array]) -> Array:
    """Return a place (K, 3) of each of some boxes, one that the eye sees where there is one."""
    owner = np.repeat(numbers, [len(seen[i]) for i in numbers])
    rays = Rays(eye, np.concatenate([seen[i] for i in numbers]))
    shares, which = rays.first(boxes)
    out = []
    for i in numbers:
        own = np.flatnonzero(owner == i)
        met = own[(which[own] == i) & (shares[own] <= 1)]
        chosen = (met if len(met) else own)[len(met if len(met) else own) // 2]
        out.append(_within(boxes[i], rays.eye + rays.way[chosen]))
    return np.array(out)


def _within(box: Box3D, place: Array) -> Array:
    local = box.global_SE3_object.inverse().transform(place)
    return box.global_SE3_object.transform(local.clip(INSIDE_M - _half(box), _half(box) - INSIDE_M))
