"""Rectangles around projected boxes, cut at the border of the picture."""

from __future__ import annotations

import numpy as np

from drivegen.datasets.nuscenes.recordings import Recording
from drivegen.raster.boxes import EDGES
from drivegen.scene import Box3D
from drivegen.scene.geometry import Array, clip_segments, project

Rectangle = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


def corners_in(camera: Recording, box: Box3D) -> Array:
    """Return the (8, 3) corners of a box in a camera's frame, at the time of its own ego pose."""
    return camera.sensor_SE3_global.transform(box.corners())


def rectangle(camera: Recording, box: Box3D) -> Rectangle | None:
    """Return the rectangle around what of a box lies in the picture, None where nothing does.

    The box is cut at the near plane (0.1 m), so one that reaches behind the camera has the rectangle of its part before it.
    """
    segments = clip_segments(corners_in(camera, box)[np.array(EDGES)])
    points = segments[np.isfinite(segments).all((1, 2))].reshape(-1, 3)
    return _around(camera, points)


def rectangle_of_corners(camera: Recording, box: Box3D) -> Rectangle | None:
    """Return the rectangle that trainers' converters write: around those of the corners that are before the camera.

    It is smaller than `rectangle` for a box that reaches behind the camera.
    """
    corners = corners_in(camera, box)
    return _around(camera, corners[corners[:, 2] > 0])


def _around(camera: Recording, points: Array) -> Rectangle | None:
    """Return the rectangle around the points' convex hull where that is cut at the picture's border; None without an area."""
    if len(points) < 3:
        return None
    assert camera.K is not None
    pixels, _ = project(camera.K, points)
    low, high = pixels.min(0), pixels.max(0)
    size = np.array([camera.width_px, camera.height_px], dtype=np.float64)
    if (high <= 0).any() or (low >= size).any():
        return None
    if (low < 0).any() or (high > size).any():
        from shapely.geometry import MultiPoint, box

        inside = MultiPoint(pixels).convex_hull.intersection(box(0, 0, *size))
        if not inside.area > 0:
            return None
        left, top, right, bottom = map(float, inside.bounds)
        return left, top, right, bottom
    return None if not (high > low).all() else (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
