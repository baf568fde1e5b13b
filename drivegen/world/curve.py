"""Plane curves by arc length: what streets, lanes and paths are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from drivegen.scene.geometry import Array


@dataclass(frozen=True, eq=False)
class Curve:
    """A polyline by arc length: s_m (P,) increasing, points (P, 2) in metres, heading_rad (P,) unwrapped."""

    s_m: Array
    points: Array
    heading_rad: Array

    @classmethod
    def straight(cls, start: Array, heading_rad: float, length_m: float) -> Curve:
        """Build a straight line.

        Args:
            start: (2,), its first point.
            heading_rad: its direction.
            length_m: its length.
        """
        along = np.array([math.cos(heading_rad), math.sin(heading_rad)])
        return cls(np.array([0.0, length_m]), np.stack([start, start + along * length_m]), np.full(2, heading_rad))

    @classmethod
    def winding(cls, origin: Array, heading_rad: float, s_m: Array, curvature: Array) -> Curve:
        """Integrate a curvature profile.

        Args:
            origin: (2,), the point at s = 0.
            heading_rad: the direction at s = 0.
            s_m: (P,) increasing arc lengths.
            curvature: (P,) in 1/m, positive to the left.
        """
        step = np.diff(s_m)
        zero = int(np.abs(s_m).argmin())
        heading = np.concatenate([[0.0], np.cumsum((curvature[1:] + curvature[:-1]) / 2 * step)])
        heading += heading_rad - heading[zero]
        middle = (heading[1:] + heading[:-1]) / 2
        moves = np.stack([np.cos(middle), np.sin(middle)], axis=1) * step[:, None]
        points = np.concatenate([np.zeros((1, 2)), np.cumsum(moves, axis=0)])
        return cls(s_m, points - points[zero] + origin, heading)

    def at(self, s_m: float, left_m: float = 0.0) -> tuple[Array, float]:
        """Return position (2,) and heading at arc length s, shifted to the left."""
        heading = float(np.interp(s_m, self.s_m, self.heading_rad))
        point = np.array([np.interp(s_m, self.s_m, self.points[:, 0]), np.interp(s_m, self.s_m, self.points[:, 1])])
        return point + left_m * np.array([-math.sin(heading), math.cos(heading)]), heading

    def line(self, start_m: float, stop_m: float, left_m: float = 0.0) -> Array:
        """Return the parallel (Q, 2) between two arc lengths.

        Args:
            start_m: arc length where it begins.
            stop_m: arc length where it ends.
            left_m: how far it lies to the left.
        """
        inner = self.s_m[(self.s_m > start_m + 1e-6) & (self.s_m < stop_m - 1e-6)]
        s = np.concatenate([[start_m], inner, [stop_m]])
        heading = np.interp(s, self.s_m, self.heading_rad)
        points = np.stack([np.interp(s, self.s_m, self.points[:, i]) for i in (0, 1)], axis=1)
        return points + left_m * np.stack([-np.sin(heading), np.cos(heading)], axis=1)

    def strip(self, start_m: float, stop_m: float, left_m: float, right_m: float) -> Array:
        """Return the band (Q, 2) between two parallels, counter-clockwise.

        Args:
            start_m: arc length where it begins.
            stop_m: arc length where it ends.
            left_m: lateral offset of its left edge, positive to the left.
            right_m: lateral offset of its right edge, positive to the left.
        """
        return np.concatenate([self.line(start_m, stop_m, right_m), self.line(start_m, stop_m, left_m)[::-1]])
