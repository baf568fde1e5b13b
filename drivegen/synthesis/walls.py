"""Walls, as far as a sweep shows them: returns above the ground that belong to no box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drivegen.scene import Box3D
from drivegen.scene.geometry import SE3, Array
from drivegen.synthesis.rays import directions

CELL_DEG = 1.5
LEAST = 2
"""A direction with fewer returns than this says nothing."""

BEFORE_M = 2.0
"""All that a direction returns is at least this far before a place that is hidden."""

RAISED_M = 0.5
"""What is lower above the ground is no wall."""

ABOUT_BOX_M = 0.3
"""So near about a box is what the box's own outline missed: mirrors, wheels."""


class Walls:
    """What stands around a vehicle and is no object, in cells of the directions seen from the lidar."""

    def __init__(self, places: Array, boxes: Sequence[Box3D], global_SE3_ego: SE3, eye: Array) -> None:
        """Find the walls.

        Args:
            places: (N, 3) the returns, in the global frame.
            boxes: all objects as they were then.
            global_SE3_ego: the vehicle, on the ground.
            eye: where the lidar is.
        """
        height = (places - global_SE3_ego.translation) @ global_SE3_ego.rotation[:, 2]
        found = places[(height > RAISED_M) & np.isfinite(places).all(1)]
        for box in boxes:
            local = np.abs(box.global_SE3_object.inverse().transform(found))
            found = found[(local > box.size_wlh_m[[1, 0, 2]] / 2 + ABOUT_BOX_M).any(1)]
        self.places, self._eye = found, eye
        cells, away = self._cells(found)
        self._known, group, counts = np.unique(cells, return_inverse=True, return_counts=True)
        self._furthest = np.zeros(len(self._known))
        np.maximum.at(self._furthest, group, away)
        self._furthest[counts < LEAST] = np.inf

    def _cells(self, places: Array) -> tuple[NDArray[np.int64], Array]:
        way = places - self._eye
        away = np.linalg.norm(way, axis=-1)
        return directions(way, CELL_DEG), away

    def share_hidden(self, places: Array) -> float:
        """Return the share of places (P, 3) that have a wall before them; 0 where there are none."""
        if not len(self._known) or not len(places):
            return 0.0
        cells, away = self._cells(places)
        at = np.searchsorted(self._known, cells).clip(max=len(self._known) - 1)
        furthest = np.where(self._known[at] == cells, self._furthest[at], np.inf)
        return float((furthest < away - BEFORE_M).mean())
