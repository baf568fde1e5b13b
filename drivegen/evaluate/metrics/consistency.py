"""Agreement of overlapping views, and of a track's views from frame to frame: colour errors at corresponding points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivegen.evaluate.metrics.expected import Expected
from drivegen.scene import Box3D, Camera, Frame, ring_neighbours
from drivegen.scene.geometry import Array, project

Pictures = Mapping[str, NDArray[np.uint8]]
"""Pictures (H, W, 3) by camera channel."""

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
    points = _points(a, rows, columns, depth_a_m[rows, columns])
    positions, depth, kept = _seen_from(b, points, depth_b_m.shape)
    rows, columns = rows[kept], columns[kept]
    nearest = positions.round().astype(int)
    agrees = _near(depth_b_m[nearest[:, 1], nearest[:, 0]], depth)
    return Correspondence(a.channel, b.channel, rows[agrees], columns[agrees], positions[agrees])


def follow(a: Camera, b: Camera, seen_a: Expected, seen_b: Expected, frame_a: Frame, frame_b: Frame) -> Correspondence:
    """Find the points on boxes of view a that view b of another moment sees too: a point moves with its box.

    Boxes are the same object where they are of one instance. Hidden are points behind another box, at b's nearest pixel.

    Args:
        a: the first camera.
        b: the second camera.
        seen_a: the boxes in a.
        seen_b: the boxes in b.
        frame_a: a's frame.
        frame_b: b's frame.
    """
    there = {box.instance: i for i, box in enumerate(frame_b.boxes) if box.instance}
    partner = np.array([there.get(box.instance, -1) for box in frame_a.boxes] + [-1])
    rows, columns = np.nonzero(partner[seen_a.numbers] >= 0)
    numbers = seen_a.numbers[rows, columns]
    points = _points(a, rows, columns, seen_a.box_depth_m[rows, columns])
    for i in np.unique(numbers):
        own, other = frame_a.boxes[i], frame_b.boxes[partner[i]]
        mine = numbers == i
        # A track's size may differ a little from frame to frame; its surface is what corresponds.
        at = own.global_SE3_object.inverse().transform(points[mine]) * (_xyz(other) / _xyz(own))
        points[mine] = other.global_SE3_object.transform(at)
    positions, depth, kept = _seen_from(b, points, seen_b.numbers.shape)
    rows, columns, numbers = rows[kept], columns[kept], numbers[kept]
    nearest = positions.round().astype(int)
    there_number = seen_b.numbers[nearest[:, 1], nearest[:, 0]]
    agrees = (there_number == partner[numbers]) & _near(seen_b.box_depth_m[nearest[:, 1], nearest[:, 0]], depth)
    return Correspondence(a.channel, b.channel, rows[agrees], columns[agrees], positions[agrees])


def _xyz(box: Box3D) -> Array:
    """Length, width and height: the size along the object's own axes."""
    return box.size_wlh_m[[1, 0, 2]]


def _points(camera: Camera, rows: NDArray[np.intp], columns: NDArray[np.intp], depth_m: NDArray[np.float32]) -> Array:
    """(P, 3) in the global frame, of pixels and their depths along the optical axis."""
    rays = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))], -1) @ np.linalg.inv(camera.K_image).T
    return camera.global_SE3_camera.transform(rays * depth_m.astype(np.float64)[:, None])


def _seen_from(camera: Camera, points: Array, shape: tuple[int, ...]) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Project (P, 3) into a picture; return position and depth of those that are inside of it, and which (P,) they are."""
    pixels, depth = project(camera.K_image, camera.global_SE3_camera.inverse().transform(points))
    positions = pixels - 0.5
    height, width = shape
    with np.errstate(invalid="ignore"):
        kept = (depth > 0.1) & (positions >= 0).all(-1) & (positions <= (width - 1, height - 1)).all(-1)
    return positions[kept], depth[kept], kept


def _near(seen_m: NDArray[np.float32], depth_m: Array) -> NDArray[np.bool_]:
    return np.abs(seen_m - depth_m) <= TOLERANCE * depth_m + 0.05


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


def disagreement(pairs: Iterable[Correspondence], one: Pictures, other: Pictures, renders: Pictures) -> Array:
    """Sum the colour errors of a frame's overlaps: (6,), sum and count within one generation, across two, and in the renders.

    Args:
        pairs: the frame's corresponding points.
        one: pictures (H, W, 3) by camera channel.
        other: those of another noise.
        renders: those of the city.
    """
    row = np.zeros(6)
    for pair in pairs:
        row[0:2] += colour_error(pair, one[pair.a], one[pair.b])
        row[2:4] += colour_error(pair, one[pair.a], other[pair.b])
        row[4:6] += colour_error(pair, renders[pair.a], renders[pair.b])
    return row


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
