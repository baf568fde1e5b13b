"""Agreement of overlapping views: colour errors at corresponding points that both cameras see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivegen.scene import Camera, Frame, ring_neighbours
from drivegen.scene.geometry import Array, project

FAR_M = 80.0
TOLERANCE = 0.03
"""Two depths of one point may differ by this share of it, and by 5 cm."""


@dataclass(frozen=True, eq=False)
class Correspondence:
    """Where two views show the same points: rows and columns (P,) in view a, pixel positions (P, 2: column, row) in view b,
    where a whole number is the middle of a pixel."""

    a: str
    b: str
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    positions: Array


def correspond(a: Camera, b: Camera, depth_a_m: NDArray[np.float32], depth_b_m: NDArray[np.float32]) -> Correspondence:
    """Find the points of view a that b sees too.

    A point is mutually visible where b's own depth at the nearest pixel agrees. The middle of pixel (row, column) is (column +
    0.5, row + 0.5) in K_image's coordinates.

    Args:
        a: the first camera.
        b: the second camera.
        depth_a_m: (H, W) true depth along a's optical axis.
        depth_b_m: (H, W) true depth along b's optical axis.
    """
    rows, columns = np.nonzero(np.isfinite(depth_a_m) & (depth_a_m < FAR_M))
    z = depth_a_m[rows, columns].astype(np.float64)
    rays = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))], -1) @ np.linalg.inv(a.K_image).T
    points = b.global_SE3_camera.inverse().transform(a.global_SE3_camera.transform(rays * z[:, None]))
    pixels, depth = project(b.K_image, points)
    positions = pixels - 0.5
    height, width = depth_b_m.shape
    with np.errstate(invalid="ignore"):
        kept = (depth > 0.1) & (positions >= 0).all(-1) & (positions <= (width - 1, height - 1)).all(-1)
    rows, columns, positions, depth = rows[kept], columns[kept], positions[kept], depth[kept]
    nearest = positions.round().astype(int)
    seen = depth_b_m[nearest[:, 1], nearest[:, 0]]
    agrees = np.abs(seen - depth) <= TOLERANCE * depth + 0.05
    return Correspondence(a.channel, b.channel, rows[agrees], columns[agrees], positions[agrees])


def correspondences(frame: Frame, depths_m: Mapping[str, NDArray[np.float32]]) -> tuple[Correspondence, ...]:
    """Find the corresponding points of each camera and its neighbours in the ring, each pair once in each direction."""
    found = []
    for i, neighbours in enumerate(ring_neighbours(frame.cameras)):
        for j in neighbours:
            a, b = frame.cameras[i], frame.cameras[j]
            found.append(correspond(a, b, depths_m[a.channel], depths_m[b.channel]))
    return tuple(pair for pair in found if len(pair.rows))


def colour_error(pair: Correspondence, image_a: NDArray[np.uint8], image_b: NDArray[np.uint8]) -> Array:
    """Return [sum, count] of the mean absolute colour differences (0 to 1) over a pair's points; b is read bilinearly.

    Args:
        pair: the corresponding points.
        image_a: (H, W, 3) of view a.
        image_b: (H, W, 3) of view b.
    """
    at = image_a[pair.rows, pair.columns].astype(np.float64)
    there = _bilinear(image_b, pair.positions)
    return np.array([np.abs(at - there).mean(-1).sum() / 255, len(at)])


def _bilinear(image: NDArray[np.uint8], positions: Array) -> Array:
    height, width = image.shape[:2]
    x, y = positions.T
    x0, y0 = np.floor(x).astype(int).clip(0, max(width - 2, 0)), np.floor(y).astype(int).clip(0, max(height - 2, 0))
    u, v = (x - x0)[:, None], (y - y0)[:, None]
    values = image.astype(np.float64)
    top = values[y0, x0] * (1 - u) + values[y0, x0 + 1] * u
    bottom = values[y0 + 1, x0] * (1 - u) + values[y0 + 1, x0 + 1] * u
    out: Array = top * (1 - v) + bottom * v
    return out
