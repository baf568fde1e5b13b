"""Rays from one place, and where they meet boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drivegen.scene import Box3D
from drivegen.scene.geometry import Array

INSIDE_M = 5e-4
"""A point on a box is put this far inside of it, so that it counts as inside after rounding to float32."""


class Rays:
    """Rays from an eye through points (N, 3), both in the global frame; places on a ray are shares of the way to its point."""

    def __init__(self, eye: Array, ends: Array) -> None:
        self.eye, self.way = eye, ends - eye
        with np.errstate(divide="ignore", invalid="ignore"):
            self._unit = self.way / np.linalg.norm(self.way, axis=1, keepdims=True)

    def __len__(self) -> int:
        return len(self.way)

    def at(self, shares: Array, which: NDArray[np.intp]) -> Array:
        """Return the global places (K, 3) at shares (K,) of the rays of those numbers (K,)."""
        return np.asarray(self.eye + self.way[which] * shares[:, None])

    def through(self, box: Box3D) -> tuple[NDArray[np.intp], Array, Array]:
        """Return the numbers of the rays whose line goes through a box before the eye, and the shares of entering and leaving.

        Slabs of Kay and Kajiya (1986); a box about the eye itself is met by none.
        """
        near = self._towards(box)
        half = box.size_wlh_m[[1, 0, 2]] / 2 - INSIDE_M
        pose = box.global_SE3_object
        start, way = (self.eye - pose.translation) @ pose.rotation, self.way[near] @ pose.rotation
        with np.errstate(divide="ignore", invalid="ignore"):
            a, b = (-half - start) / way, (half - start) / way
        enter, leave = np.fmax.reduce(np.minimum(a, b), axis=1), np.fmin.reduce(np.maximum(a, b), axis=1)
        met = (enter <= leave) & (enter > 0) & np.isfinite(enter)
        return near[met], enter[met], leave[met]

    def _towards(self, box: Box3D) -> NDArray[np.intp]:
        """Number the rays that meet the ball about a box: quickly told, and few are left."""
        middle = box.global_SE3_object.translation - self.eye
        away, radius = float(np.linalg.norm(middle)), float(np.linalg.norm(box.size_wlh_m)) / 2
        if away <= radius:
            return np.arange(len(self.way))
        return np.flatnonzero(self._unit @ (middle / away) >= np.sqrt(1 - (radius / away) ** 2) - 1e-9)

    def first(self, boxes: Sequence[Box3D]) -> tuple[Array, NDArray[np.intp]]:
        """Return the share at which each ray first enters a box, infinite where it meets none, and which one, or -1."""
        shares, which = np.full(len(self), np.inf), np.full(len(self), -1)
        for i, box in enumerate(boxes):
            met, enter, _ = self.through(box)
            closer = enter < shares[met]
            shares[met[closer]], which[met[closer]] = enter[closer], i
        return shares, which

    def hidden(self, boxes: Sequence[Box3D], own: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Tell which rays go all through a box on the way to their point.

        Args:
            boxes: what hides.
            own: (N,) the number of each point's own box, which does not hide it; -1 for none.
        """
        found = np.zeros(len(self), dtype=bool)
        for i, box in enumerate(boxes):
            met, _, leave = self.through(box)
            found[met[(leave < 1) & (own[met] != i)]] = True
        return found


def directions(ways: Array, side_deg: float) -> NDArray[np.int64]:
    """Number the square of azimuth and elevation, its side in degrees, that each way (N, 3) leads into."""
    finite = np.where(np.isfinite(ways), ways, 0.0)
    azimuth = np.arctan2(finite[:, 1], finite[:, 0])
    elevation = np.arctan2(finite[:, 2], np.hypot(finite[:, 0], finite[:, 1]))
    rows, columns = (np.floor(np.degrees(angle) / side_deg).astype(np.int64) for angle in (elevation, azimuth))
    return rows * 1000 + columns
