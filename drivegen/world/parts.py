"""Primitives: the arrays that the ray caster works on, and a builder that places them in an object's box."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivegen.scene.geometry import SE3, Array

BOX, BALL, CYLINDER, TAPERED, CONE = range(5)
"""Shapes within [-1, 1]^3: tapered narrows in x and y towards +z, a cylinder's and a cone's axis is z."""

MATTE, PAINT, GLASS, FACADE, ROOF, FOLIAGE, LIGHT, STRIPED, CURTAIN, BRICK = range(10)

# columns of the float array
CENTRE, MATRIX, TAPER, COLOUR, HALF, GLOW_NIGHT, GLOW_DAY, AXES, WIDTH = 0, 3, 12, 14, 17, 20, 21, 22, 31
# columns of the integer array
SHAPE, MATERIAL, CLASS, INSTANCE, SEED = range(5)

Colour = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Parts:
    """numbers (N, WIDTH) float64 and labels (N, 5) int32 of N primitives."""

    numbers: Array
    labels: NDArray[np.int32]

    @staticmethod
    def join(*groups: Parts) -> Parts:
        """Concatenate groups of primitives."""
        return Parts(np.concatenate([g.numbers for g in groups]), np.concatenate([g.labels for g in groups]))


class Builder:
    """Collects primitives of one object in its own frame: x forward, y left, z up, in metres.

    Args:
        pose: from the object's frame to the renderer's.
        category: class value, an index into `CLASSES`.
        instance: number of the object's box + 1; 0 for none.
        seed: draws patterns on its surfaces.
    """

    def __init__(self, pose: SE3, category: int, instance: int = 0, seed: int = 0) -> None:
        self.pose, self.category, self.instance, self.seed = pose, category, instance, seed
        self.numbers: list[Array] = []
        self.labels: list[tuple[int, int, int, int, int]] = []
        self.joints: dict[str, tuple[float, float, float]] = {}
        """Places of a figure's joints by name, in the object's frame, before it is squeezed."""

    def put(
        self, shape: int, centre: tuple[float, float, float], half: tuple[float, float, float], colour: Colour,
        material: int = MATTE, taper: tuple[float, float] = (0.0, 0.0), axes: Array | None = None, night: float = 0.0,
        day: float = 0.0,
    ) -> None:  # fmt: skip
        """Add one primitive.

        Args:
            shape: BOX, TAPERED, CYLINDER, CONE or BALL.
            centre: (3) in metres, in the object's frame.
            half: (3) half-sizes in metres, along the primitive's axes.
            colour: linear rgb.
            material: how its surface is shaded.
            taper: (2), share by which a TAPERED shape narrows in x and in y towards +z.
            axes: (3, 3), the primitive's axes as columns, in the object's frame; None takes the object's.
            night: light that it gives off when lamps are on.
            day: light that it gives off by day.
        """
        turn = np.eye(3) if axes is None else axes
        row = np.zeros(WIDTH)
        row[0:3] = centre
        row[12:14] = taper
        row[14:17] = colour
        row[17:20] = np.maximum(half, 1e-4)
        row[20:22] = night, day
        row[22:31] = (turn * row[17:20]).T.ravel()
        self.numbers.append(row)
        self.labels.append((shape, material, self.category, self.instance, self.seed))

    def beam(
        self, a: tuple[float, float, float], b: tuple[float, float, float], thick: tuple[float, float], colour: Colour,
        shape: int = BOX, material: int = MATTE,
    ) -> None:  # fmt: skip
        """Add a bar or rod between two points.

        Args:
            a: (3) metres, where it begins.
            b: (3) metres, where it ends.
            thick: (2) half-widths across, in metres.
            colour: linear rgb.
            shape: cross-section: BOX or CYLINDER.
            material: how its surface is shaded.
        """
        start, stop = np.array(a), np.array(b)
        along = stop - start
        length = float(np.linalg.norm(along))
        z = along / length
        y = np.array([0.0, 1.0, 0.0]) if abs(z[1]) < 0.9 else np.array([1.0, 0.0, 0.0])
        x = np.cross(y, z)
        x /= np.linalg.norm(x)
        middle = (start + stop) / 2
        axes = np.stack([x, np.cross(z, x), z], axis=1)
        self.put(shape, (middle[0], middle[1], middle[2]), (thick[0], thick[1], length / 2), colour, material, axes=axes)

    def wheel(self, x: float, y: float, z: float, radius: float, width: float, colour: Colour = (0.02, 0.02, 0.022)) -> None:
        """Add a wheel with its hub; its axle lies across the object.

        Args:
            x, y, z: its centre, in metres.
            radius: in metres.
            width: in metres.
            colour: linear rgb.
        """
        axes = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])
        self.put(CYLINDER, (x, y, z), (radius, radius, width / 2), colour, axes=axes)
        if radius > 0.25 and width > 0.12:
            hub = math.copysign(width / 2 - 0.02, y)
            self.put(
                CYLINDER, (x, y + hub * 0.1, z), (radius * 0.5, radius * 0.5, width / 2), (0.35, 0.35, 0.36), PAINT, axes=axes
            )

    def done(self, limit: Array | None = None) -> Parts:
        """Return what was collected, squeezed along the object's axes into half-sizes `limit` (3,) where it sticks out."""
        rows, labels, axes = self._arrays()
        if limit is not None and len(rows):
            squeeze = self.squeeze(limit)
            rows[:, :3] *= squeeze
            axes = axes * squeeze
        axes = axes @ self.pose.rotation.T
        rows[:, :3] = rows[:, :3] @ self.pose.rotation.T + self.pose.translation
        rows[:, 22:31] = axes.reshape(-1, 9)
        rows[:, 3:12] = np.linalg.inv(axes.transpose(0, 2, 1)).reshape(-1, 9)
        return Parts(rows, labels)

    def squeeze(self, limit: Array) -> Array:
        """Return the factors (3,) that squeeze what was collected into half-sizes `limit` (3,), 1 where it fits."""
        rows, labels, axes = self._arrays()
        return np.minimum(1.0, limit / (np.abs(rows[:, :3]) + _reach(axes, labels[:, SHAPE])).max(0))

    def _arrays(self) -> tuple[Array, NDArray[np.int32], Array]:
        """Numbers, labels, and each primitive's own axes times its half-sizes (N, 3, 3), as rows."""
        rows = np.array(self.numbers).reshape(-1, WIDTH)
        labels = np.array(self.labels, dtype=np.int32).reshape(-1, 5)
        return rows, labels, rows[:, 22:31].reshape(-1, 3, 3)


def _reach(axes: Array, shape: NDArray[np.int32]) -> Array:
    """Half-extents (N, 3) of primitives along the object's axes."""
    square = axes**2
    ball = np.sqrt(square.sum(1))
    drum = np.sqrt(square[:, :2].sum(1)) + np.abs(axes[:, 2])
    round_ = (shape == CYLINDER) | (shape == CONE)
    return np.where((shape == BALL)[:, None], ball, np.where(round_[:, None], drum, np.abs(axes).sum(1)))
