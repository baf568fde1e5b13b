"""The scene projected into a view: class, side, depth and map of each pixel, from geometry alone."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivegen.raster.birdseye import _CELLS, GROUND_RADII_M, ground
from drivegen.raster.boxes import EDGES
from drivegen.scene import BEV_CLASSES, DETECTION_CLASSES, LINE_LAYERS, Box3D, Camera, Frame
from drivegen.scene.geometry import NEAR_M, Array, clip_segments, project
from drivegen.support.errors import InputError, at_least

MAX_BOXES = 500
"""More boxes than this in one view, and the nearest are kept, with a warning."""

OTHER_CLASS = 255
"""`Layout.box_class` of a box that is of no detection class."""

FAR_M = 200.0
"""Ground further away than this is left to the sky."""

_SIDES = np.array([[2, 1], [4, 3], [5, 5]], dtype=np.uint8)
"""Of the object's x, y and z axes: the side entered at the low and at the high end (FACES order, underside as top)."""


@dataclass(frozen=True, eq=False)
class Layout:
    """A view as compact arrays (H, W).

    map_bits uint8: bit i set where BEV_CLASSES[i] is seen on the ground. box_class uint8: 0 none, 1 + index into
    DETECTION_CLASSES, 255 another kind. heading (2, H, W) float16: sine and cosine of the object's heading against the viewing
    ray, counter-clockwise from above (0, 1 = seen from behind), 0 off boxes. side uint8: 0 none, 1 front, 2 rear, 3 left,
    4 right, 5 top (or underside). visibility uint8: the box's annotated level, 1 (0-40 % is seen) to 4, which is also that of
    a box without one; 0 off boxes. depth_m float16: distance along the optical axis of the box or, where none is, of the
    ground; 0 for none.
    """

    map_bits: NDArray[np.uint8]
    box_class: NDArray[np.uint8]
    heading: NDArray[np.float16]
    side: NDArray[np.uint8]
    visibility: NDArray[np.uint8]
    depth_m: NDArray[np.float16]


def layout(frame: Frame, camera: Camera, size: tuple[int, int] | None = None) -> Layout:
    """Project a frame into one camera, sampling at pixel centres.

    Boxes are found by intersecting each pixel's ray with each box, so depth, side and order are exact; the nearest is in front,
    and every box hides the ground. The ground is the horizontal plane through the origin of the camera's own ego pose, looked
    up in pictures of the map (3 cm cells to 16 m, 12 cm to 64 m about the ego, none beyond). Boxes around the camera itself and
    parts nearer than the near plane are not drawn. A frame without a map has no map_bits.

    Args:
        frame: the frame.
        camera: one of its cameras.
        size: (H, W) of the arrays; None is the camera's generated size.
    """
    K, (height, width) = _at(camera, size)
    depth = np.zeros((height, width), np.float32)
    bits = _ground_bits(frame, camera, K, depth)
    found = _Boxes(height, width)
    for number, rectangle in _visible(frame, camera, K, width, height):
        found.add(camera, K, frame.boxes[number], rectangle, number)
    hit = found.box_class > 0
    bits[hit] = 0
    depth[hit] = found.depth[hit]
    return Layout(bits, found.box_class, found.heading, found.side, found.visibility, depth.astype(np.float16))


def box_numbers(
    frame: Frame, camera: Camera, size: tuple[int, int] | None = None
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:  # fmt: skip
    """Return which of a frame's boxes is in front at each pixel of a camera's view, and how far away.

    Both are (H, W): the index into `frame.boxes`, -1 for none, and the distance in metres along the optical axis, inf for none;
    found as `layout` finds boxes.

    Args:
        frame: the frame.
        camera: one of its cameras.
        size: (H, W) of the arrays; None is the camera's generated size.
    """
    K, (height, width) = _at(camera, size)
    found = _Boxes(height, width)
    for number, rectangle in _visible(frame, camera, K, width, height):
        found.add(camera, K, frame.boxes[number], rectangle, number)
    return found.number, found.depth


def _at(camera: Camera, size: tuple[int, int] | None) -> tuple[Array, tuple[int, int]]:
    """Give a camera's intrinsics for arrays of a size (height, width), None for its own, and that size."""
    width, height = camera.image_size
    if size is None:
        return camera.K_image, (height, width)
    if min(size) < 1:
        raise InputError(f"layout size {size} must be positive (height, width)")
    return np.diag([size[1] / width, size[0] / height, 1.0]) @ camera.K_image, size


def _rays(K: Array, columns: Array, rows: Array) -> Array:
    """Camera-frame directions (rows, columns, 3) with z = 1 through pixel positions."""
    inverse = np.linalg.inv(K)
    return columns[None, :, None] * inverse[:, 0] + rows[:, None, None] * inverse[:, 1] + inverse[:, 2]


def _on_ground(camera: Camera, K: Array, columns: Array, rows: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Directions in the global frame (rows, columns, 3), the depth at which they meet the ground, and where it is in range."""
    pose = camera.global_SE3_camera
    rays = _rays(K, columns, rows) @ pose.rotation.T
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = (camera.global_SE3_ego.translation[2] - pose.translation[2]) / rays[..., 2]
    return rays, depth, (depth > NEAR_M) & (depth < FAR_M)


def ground_points(frame: Frame, camera: Camera, size: tuple[int, int]) -> tuple[Array, Array]:
    """Find where the ground, as `layout` has it, is seen: positions (h, w, 2), x and y in the lidar's frame, and depths (h, w).

    Both are in metres, and inf where no ground is seen; `bev` has the same axes.

    Args:
        frame: the frame.
        camera: one of its cameras.
        size: (h, w) of the grid, whose cells' centres are looked along.
    """
    at_least(1, size=size)
    (h, w), (width, height) = size, camera.image_size
    rays, depth, seen = _on_ground(
        camera, camera.K_image, (np.arange(w) + 0.5) * (width / w), (np.arange(h) + 0.5) * (height / h)
    )
    pose = frame.global_SE3_ego @ frame.ego_SE3_lidar
    cos, sin = math.cos(pose.yaw_rad), math.sin(pose.yaw_rad)
    away = rays[seen][:, :2] * depth[seen, None] + (camera.global_SE3_camera.translation - pose.translation)[:2]
    points = np.full((h, w, 2), np.inf)
    points[seen] = away @ np.array([[cos, -sin], [sin, cos]])
    return points, np.where(seen, depth, np.inf)


def _ground_bits(frame: Frame, camera: Camera, K: Array, depth: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Fill in the depth of the ground; return the map's bits there.

    Areas are read at the pixel's centre; lines, thinner than a distant pixel, at four points of it, to hold together.
    """
    height, width = depth.shape
    pose = camera.global_SE3_camera
    bits = np.zeros((height, width), np.uint8)
    line_bits = np.uint8(sum(1 << i for i, name in enumerate(BEV_CLASSES) if name in LINE_LAYERS))
    center = frame.global_SE3_ego.translation[:2]
    for dx, dy in ((0.5, 0.5), (0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)):
        rays, distance, seen = _on_ground(camera, K, np.arange(width) + dx, np.arange(height) + dy)
        if (dx, dy) == (0.5, 0.5):
            depth[seen] = distance[seen]
        if frame.map is None:
            break
        x, y = (pose.translation[i] + rays[..., i][seen] * distance[seen] - center[i] for i in (0, 1))
        values = _lookup(frame, x, y)
        bits[seen] |= values & ~line_bits if (dx, dy) == (0.5, 0.5) else values & line_bits
    return bits


def _lookup(frame: Frame, x: Array, y: Array) -> NDArray[np.uint8]:
    """Read the map's bits at points, in metres east and north of the ego."""
    assert frame.map is not None
    center = frame.global_SE3_ego.translation
    fine, coarse = ground(frame.map, float(center[0]), float(center[1]))
    out = np.zeros(len(x), np.uint8)
    reach = np.maximum(np.abs(x), np.abs(y))
    for picture, least, radius in ((fine, 0.0, GROUND_RADII_M[0]), (coarse, *GROUND_RADII_M)):
        chosen = np.flatnonzero((reach >= least) & (reach < radius))
        column, row = (((along[chosen] + radius) * (_CELLS / (2 * radius))).astype(np.int32) for along in (x, y))
        out[chosen] = picture.ravel()[row * _CELLS + column]
    return out


def _visible(frame: Frame, camera: Camera, K: Array, width: int, height: int) -> list[tuple[int, tuple[int, int, int, int]]]:
    """Numbers of the boxes of which something may be in the picture, nearest first, each with its rectangle (left, top, right,
    bottom).
    """
    if not frame.boxes:
        return []
    camera_SE3_global = camera.global_SE3_camera.inverse()
    corners = camera_SE3_global.transform(np.stack([box.corners() for box in frame.boxes]))
    pixels, _ = project(K, clip_segments(corners[:, np.array(EDGES)]).reshape(len(corners), -1, 3))
    kept = np.flatnonzero(np.isfinite(pixels).any((1, 2)))
    low, high = np.nanmin(pixels[kept], 1), np.nanmax(pixels[kept], 1)
    # a pixel is drawn when its centre is covered
    first = np.ceil(low - 0.5 - 1e-9).clip(0, (width, height)).astype(int)
    last = (np.floor(high - 0.5 + 1e-9) + 1).clip(0, (width, height)).astype(int)
    inside = (last > first).all(1)
    kept, first, last = kept[inside], first[inside], last[inside]
    order = np.argsort(np.linalg.norm(corners[kept].mean(1), axis=1), kind="stable")
    if len(order) > MAX_BOXES:
        warnings.warn(
            f"frame {frame.token!r}, camera {camera.channel!r}: {len(order)} boxes in view, the nearest {MAX_BOXES} are drawn",
            stacklevel=3,
        )
        order = order[:MAX_BOXES]
    return [(int(kept[i]), (*first[i].tolist(), *last[i].tolist())) for i in order]


class _Boxes:
    """The nearest box of each pixel so far."""

    def __init__(self, height: int, width: int) -> None:
        self.depth = np.full((height, width), np.inf, np.float32)
        self.number = np.full((height, width), -1, np.int32)
        self.box_class = np.zeros((height, width), np.uint8)
        self.side = np.zeros((height, width), np.uint8)
        self.visibility = np.zeros((height, width), np.uint8)
        self.heading = np.zeros((2, height, width), np.float16)

    def add(self, camera: Camera, K: Array, box: Box3D, rectangle: tuple[int, int, int, int], number: int) -> None:
        """Draw one box (the slab test of Kay and Kajiya 1986, in the object's frame).

        Args:
            camera: the view.
            K: its intrinsics at the arrays' size.
            box: the box.
            rectangle: the part of the picture that it may be in.
            number: its index.
        """
        left, top, right, bottom = rectangle
        object_SE3_camera = box.global_SE3_object.inverse() @ camera.global_SE3_camera
        w, l, h = box.size_wlh_m / 2
        half, origin = np.array([l, w, h]), object_SE3_camera.translation
        if (np.abs(origin) < half).all():
            return  # the camera is inside
        rays = _rays(K, np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5) @ object_SE3_camera.rotation.T
        rays = np.moveaxis(rays, -1, 0)
        reach = 1 / np.where(np.abs(rays) < 1e-12, 1e-12, rays)  # a ray along a face meets its plane far away
        middle, spread = -origin[:, None, None] * reach, half[:, None, None] * np.abs(reach)
        entries = middle - spread
        axis = entries.argmax(0)
        near, far = entries.max(0), (middle + spread).min(0)
        window = (slice(top, bottom), slice(left, right))
        hit = (near <= far) & (near >= NEAR_M) & (near < self.depth[window])
        if not hit.any():
            return
        self.depth[window][hit] = near[hit]
        self.number[window][hit] = number
        name = box.detection_class
        self.box_class[window][hit] = OTHER_CLASS if name is None else 1 + DETECTION_CLASSES.index(name)
        # A box that someone adds has no level, and is meant to be seen.
        self.visibility[window][hit] = 4 if box.visibility is None else box.visibility
        axis_hit = axis[hit]
        from_low = np.take_along_axis(rays, axis[None], 0)[0][hit] > 0
        self.side[window][hit] = _SIDES[axis_hit, 1 - from_low.astype(int)]
        forward, left_ = rays[0][hit], rays[1][hit]
        flat = np.hypot(forward, left_).clip(1e-6)
        self.heading[0][window][hit] = -left_ / flat
        self.heading[1][window][hit] = forward / flat
