"""Driving scenes as frozen dataclasses: boxes, vector map, frames, scenes; their cameras are of `drivegen.scene.cameras`.

Units are metres, seconds and radians unless a name says otherwise. The global frame is the map's. Everything can be built
in Python; `drivegen.datasets` reads and writes the same objects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from shapely import STRtree
from shapely import box as rectangle

from drivegen.scene.cameras import Camera as Camera
from drivegen.scene.cameras import ResizeCrop as ResizeCrop
from drivegen.scene.cameras import ring_neighbours as ring_neighbours
from drivegen.scene.cameras import ring_order as ring_order
from drivegen.scene.geometry import SE3, Array, file_path, finite, instance_of, items_of, numbers, timestamp
from drivegen.support.errors import InputError, nearest

DETECTION_CLASSES = (
    "car", "truck", "construction_vehicle", "bus", "trailer", "barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone",
)  # fmt: skip
"""The ten nuScenes detection classes, in MagicDrive's order."""

BEV_CLASSES = (
    "drivable_area", "ped_crossing", "walkway", "stop_line", "carpark_area", "road_divider", "lane_divider", "road_block",
)  # fmt: skip
"""The eight bird's-eye classes, in MagicDrive's order."""

LINE_LAYERS = ("road_divider", "lane_divider")
"""Map layers made of lines; every other layer is made of polygons."""


def _points(values: ArrayLike, least: int, what: str) -> Array:
    array = numbers(values, what)
    if array.ndim != 2 or array.shape[1] != 2 or len(array) < least:
        raise InputError(f"{what} has shape {array.shape}, expected (P, 2) with P >= {least}")
    if not np.isfinite(array).all():
        raise InputError(f"{what} is not finite: {array.tolist()[:8]}")
    return array


@dataclass(frozen=True, eq=False)
class Box3D:
    """An annotated object at the sample's time.

    global_SE3_object: object x forward, y left, z up, origin at the box centre; size_wlh_m (width, length, height);
    category a full nuScenes category or a detection class; visibility 1 (0-40 %) to 4 (80-100 %), None unknown.
    """

    category: str
    global_SE3_object: SE3
    size_wlh_m: Array
    instance: str = ""
    token: str = ""
    velocity_mps: Array = field(default_factory=lambda: np.zeros(3))
    visibility: int | None = None
    num_lidar_pts: int | None = None
    attribute: str = ""

    def __post_init__(self) -> None:
        where = f"box {self.token or self.instance or self.category!r}"
        SE3.check(self.global_SE3_object, f"{where}: global_SE3_object")
        size = finite(self.size_wlh_m, (3,), f"{where}: size")
        if (size <= 0).any():
            raise InputError(f"{where}: size {size.tolist()} m must be positive (width, length, height)")
        object.__setattr__(self, "size_wlh_m", size)
        if self.visibility not in (None, 1, 2, 3, 4):
            raise InputError(f"{where}: visibility {self.visibility!r} must be 1 to 4, or None")
        object.__setattr__(self, "visibility", None if self.visibility is None else int(self.visibility))
        # nuScenes says NaN where a velocity cannot be estimated (one observation): unknown, so it stays.
        velocity = numbers(self.velocity_mps, f"{where}: velocity")
        if velocity.shape != (3,):
            raise InputError(f"{where}: velocity has shape {velocity.shape}, expected (3,) m/s")
        object.__setattr__(self, "velocity_mps", velocity)

    @property
    def detection_class(self) -> str | None:
        """One of DETECTION_CLASSES, or None for a category outside of them."""
        return detection_class(self.category)

    def corners(self) -> Array:
        """(8, 3) corners in the global frame: the front face's four, then the rear's.

        Each is left-up, right-up, right-down, left-down, as in the devkit's `Box.corners`. Faces of `FACES` index into these.
        """
        w, l, h = self.size_wlh_m / 2
        x = np.array([1, 1, 1, 1, -1, -1, -1, -1]) * l
        y = np.array([1, -1, -1, 1, 1, -1, -1, 1]) * w
        z = np.array([1, 1, -1, -1, 1, 1, -1, -1]) * h
        return self.global_SE3_object.transform(np.stack([x, y, z], axis=-1))


FACES = {
    "front": (0, 1, 2, 3), "rear": (4, 5, 6, 7), "left": (0, 3, 7, 4), "right": (1, 5, 6, 2), "top": (0, 4, 5, 1),
    "bottom": (3, 2, 6, 7),
}  # fmt: skip
"""Corner indices of each side of `Box3D.corners`."""

_CATEGORY_PREFIXES = (
    ("vehicle.car", "car"), ("vehicle.truck", "truck"), ("vehicle.construction", "construction_vehicle"),
    ("vehicle.bus.", "bus"), ("vehicle.trailer", "trailer"), ("movable_object.barrier", "barrier"),
    ("vehicle.motorcycle", "motorcycle"), ("vehicle.bicycle", "bicycle"), ("movable_object.trafficcone", "traffic_cone"),
)  # fmt: skip
_PEDESTRIANS = ("adult", "child", "construction_worker", "police_officer")


def detection_class(category: str) -> str | None:
    """Map a nuScenes category (or a detection class itself) to its detection class; None where the benchmark has none.

    The benchmark's table: nuscenes-devkit, eval/detection/utils.py `category_to_detection_name`.
    """
    if category in DETECTION_CLASSES:
        return category
    if category.startswith("human.pedestrian.") and category.rsplit(".", 1)[-1] in _PEDESTRIANS:
        return "pedestrian"
    return next((name for prefix, name in _CATEGORY_PREFIXES if category.startswith(prefix)), None)


@dataclass(frozen=True, eq=False)
class MapPolygon:
    """An area of the map: exterior (P, 2) and holes, each (Q, 2), global metres, not closed."""

    exterior: Array
    holes: tuple[Array, ...] = ()
    token: str = ""

    def __post_init__(self) -> None:
        where = f"map polygon {self.token!r}"
        object.__setattr__(self, "exterior", _points(self.exterior, 3, where))
        object.__setattr__(self, "holes", tuple(_points(hole, 3, f"{where}: hole") for hole in self.holes))


@dataclass(frozen=True, eq=False)
class MapLine:
    """A line of the map: points (P, 2) in global metres."""

    points: Array
    token: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", _points(self.points, 2, f"map line {self.token!r}"))


def _rectangles(shapes: list[Array]) -> NDArray[np.object_]:
    bounds = np.array([[*points.min(0), *points.max(0)] for points in shapes]).reshape(-1, 4)
    return np.asarray(rectangle(*bounds.T), dtype=object)


@dataclass(frozen=True, eq=False)
class VectorMap:
    """Polygons and lines by nuScenes layer name, in global metres."""

    location: str
    polygons: Mapping[str, tuple[MapPolygon, ...]] = field(default_factory=dict)
    lines: Mapping[str, tuple[MapLine, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"map of {self.location!r}"
        polygons = {layer: items_of(group, MapPolygon, f"{where}: {layer}") for layer, group in self.polygons.items()}
        lines = {layer: items_of(group, MapLine, f"{where}: {layer}") for layer, group in self.lines.items()}
        object.__setattr__(self, "polygons", polygons)
        object.__setattr__(self, "lines", lines)

    @cached_property
    def _trees(self) -> dict[str, STRtree]:
        shapes = {name: [p.exterior for p in group] for name, group in self.polygons.items()}
        shapes |= {name: [p.points for p in group] for name, group in self.lines.items()}
        return {name: STRtree(_rectangles(group)) for name, group in shapes.items()}

    def near(self, center_xy: ArrayLike, radius_m: float) -> VectorMap:
        """Return the map of the elements whose bounding box meets the square of half-width radius_m about center_xy.

        Found in a tree of bounding boxes a layer (shapely's), so that a larger city takes no longer.
        """
        x, y = np.asarray(center_xy, dtype=np.float64)[:2]
        square = rectangle(x - radius_m, y - radius_m, x + radius_m, y + radius_m)

        def hits(name: str) -> NDArray[np.intp]:
            return np.sort(self._trees[name].query(square))

        return VectorMap(
            self.location,
            {name: tuple(group[i] for i in hits(name)) for name, group in self.polygons.items()},
            {name: tuple(group[i] for i in hits(name)) for name, group in self.lines.items()},
        )


@dataclass(frozen=True, eq=False)
class Frame:
    """One moment of a scene: what `drivegen` turns into images.

    global_SE3_ego and ego_SE3_lidar belong to the sample's own time; cameras (1 to 8) are kept in ring order; extras holds
    what a plugin of that instance name is given in training.
    """

    token: str
    cameras: tuple[Camera, ...]
    boxes: tuple[Box3D, ...] = ()
    map: VectorMap | None = None
    description: str = ""
    location: str = ""
    scene_name: str = ""
    timestamp_us: int = 0
    global_SE3_ego: SE3 = field(default_factory=SE3.identity)
    ego_SE3_lidar: SE3 = field(default_factory=lambda: SE3.from_yaw(-math.pi / 2, (0.94, 0.0, 1.84)))
    lidar_path: Path | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"frame {self.token!r}"
        cameras = items_of(self.cameras, Camera, f"{where}: cameras")
        object.__setattr__(self, "boxes", items_of(self.boxes, Box3D, f"{where}: boxes"))
        if self.map is not None:
            instance_of(self.map, VectorMap, f"{where}: map")
        for name in ("global_SE3_ego", "ego_SE3_lidar"):
            SE3.check(getattr(self, name), f"{where}: {name}")
        channels = [camera.channel for camera in cameras]
        if not 1 <= len(channels) <= 8:
            have = ", ".join(channels) or "none"
            raise InputError(f"frame {self.token!r} has {len(channels)} cameras; 1 to 8 are supported, got {have}")
        if len(set(channels)) != len(channels):
            raise InputError(f"frame {self.token!r} has two cameras of one name: {sorted(channels)}")
        object.__setattr__(self, "cameras", ring_order(cameras))
        object.__setattr__(self, "timestamp_us", timestamp(self.timestamp_us, where))
        object.__setattr__(self, "lidar_path", file_path(self.lidar_path, f"{where}: lidar_path"))

    @property
    def channels(self) -> tuple[str, ...]:
        """Camera names in ring order."""
        return tuple(camera.channel for camera in self.cameras)

    def camera(self, channel: str) -> Camera:
        """Return the camera of that name."""
        for camera in self.cameras:
            if camera.channel == channel:
                return camera
        have = ", ".join(self.channels)
        raise InputError(f"frame {self.token!r} has no camera {channel!r}; it has {have}{nearest(channel, self.channels)}")

    def box(self, instance: str) -> Box3D:
        """Return the box of that instance."""
        for box in self.boxes:
            if box.instance == instance:
                return box
        hint = nearest(instance, [box.instance for box in self.boxes])
        raise InputError(f"frame {self.token!r} has no box of instance {instance!r}{hint}; it has {len(self.boxes)} boxes")

    def resized(self, width_px: int, height_px: int) -> Frame:
        """Return this frame with every camera set to generate width_px x height_px images."""
        return replace(self, cameras=tuple(camera.resized(width_px, height_px) for camera in self.cameras))

    def add_box(self, box: Box3D) -> Frame:
        """Return this frame with one more box."""
        return replace(self, boxes=(*self.boxes, box))

    def edit_box(self, instance: str, **changes: Any) -> Frame:
        """Return this frame with fields of one box replaced: `category`, `size_wlh_m`, `global_SE3_object` …"""
        old = self.box(instance)
        new = replace(old, **changes)
        return replace(self, boxes=tuple(new if box is old else box for box in self.boxes))

    def move_box(self, instance: str, forward_m: float = 0.0, left_m: float = 0.0, turn_rad: float = 0.0) -> Frame:
        """Return this frame with one box moved in its own frame and turned about its vertical axis."""
        step = SE3.from_yaw(turn_rad, (forward_m, left_m, 0.0))
        return self.edit_box(instance, global_SE3_object=self.box(instance).global_SE3_object @ step)

    def remove_box(self, instance: str) -> Frame:
        """Return this frame without one box."""
        gone = self.box(instance)
        return replace(self, boxes=tuple(box for box in self.boxes if box is not gone))

    def edit_camera(self, channel: str, **changes: Any) -> Frame:
        """Return this frame with fields of one camera replaced; the recorded picture no longer belongs to it."""
        old = self.camera(channel)
        new = replace(old, **({"image_path": None} | changes))
        return replace(self, cameras=tuple(new if camera is old else camera for camera in self.cameras))

    def move_camera(self, channel: str, translation_m: ArrayLike = (0.0, 0.0, 0.0), yaw_rad: float = 0.0) -> Frame:
        """Return this frame with one camera shifted (ego axes, metres) and turned about the vertical (counter-clockwise)."""
        mount = self.camera(channel).ego_SE3_camera
        turned = SE3.from_yaw(yaw_rad).rotation @ mount.rotation
        moved = mount.translation + finite(translation_m, (3,), f"camera {channel!r}: translation")
        return self.edit_camera(channel, ego_SE3_camera=SE3(turned, moved))

    def drop_camera(self, channel: str) -> Frame:
        """Return this frame without one camera."""
        gone = self.camera(channel)
        return replace(self, cameras=tuple(camera for camera in self.cameras if camera is not gone))


@dataclass(frozen=True, eq=False)
class Scene:
    """A drive: frames in time order, with what is said of all of them."""

    name: str
    frames: tuple[Frame, ...]
    description: str = ""
    location: str = ""
    token: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", items_of(self.frames, Frame, f"scene {self.name!r}: frames"))
