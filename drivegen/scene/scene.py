"""Frames and scenes as frozen dataclasses, made of boxes, a vector map, cameras and neighbouring moments.

Units are metres, seconds and radians unless a name says otherwise. The global frame is the map's. Everything can be built
in Python; `drivegen.datasets` reads and writes the same objects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import ArrayLike

from drivegen.scene.boxes import Box3D
from drivegen.scene.cameras import Camera, ring_order
from drivegen.scene.geometry import SE3, file_path, finite, instance_of, items_of, timestamp
from drivegen.scene.moments import MAX_GAP_S, Moment, around, ordered, pose_at
from drivegen.scene.vector_map import VectorMap
from drivegen.support import values
from drivegen.support.errors import InputError, nearest

Changed = TypeVar("Changed", Box3D, Camera)


@dataclass(frozen=True, eq=False)
class Frame:
    """One moment of a scene: what `drivegen` turns into images.

    global_SE3_ego and ego_SE3_lidar belong to the sample's own time; cameras (1 to 8) are kept in ring order; extras holds
    what the plugin of that instance name is given, as a caller's `inputs` would; neighbours are moments of the same scene
    before and after this one, kept in time order, as far as a plugin asked for them.
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
    neighbours: tuple[Moment, ...] = ()

    def __post_init__(self) -> None:
        where = f"frame {self.token!r}"
        for name in ("token", "description", "location", "scene_name"):
            values.text(getattr(self, name), f"{where}: {name}")
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
        if not isinstance(self.extras, Mapping):
            kind = type(self.extras).__name__
            raise InputError(f"{where}: extras is of type {kind}, expected a mapping from plugin names to what each is given")
        for name in self.extras:
            values.text(name, f"{where}: extras: the plugin's name")
        object.__setattr__(self, "neighbours", ordered(self.neighbours, self.timestamp_us, where))

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

    def moment(self) -> Moment:
        """Return what this frame is as a neighbour of another one: its time, ego pose, boxes and cameras."""
        return Moment(self.timestamp_us, self.global_SE3_ego, self.boxes, self.cameras, self.token)

    def neighbour(self, offset_s: float, tolerance_s: float = 0.1) -> Moment | None:
        """Return the neighbour nearest to offset_s after this frame (before it, where negative).

        None where there is none within tolerance_s of that time: what the scene was then is unknown.
        """
        time = self.timestamp_us + values.number(offset_s, "offset_s") * 1e6
        closest = min(self.neighbours, key=lambda moment: abs(moment.timestamp_us - time), default=None)
        return closest if closest is not None and abs(closest.timestamp_us - time) <= tolerance_s * 1e6 else None

    def ego_at(self, offset_s: float, max_gap_s: float = MAX_GAP_S) -> SE3 | None:
        """Return the ego pose global_SE3_ego offset_s after this frame (before it, where negative), between two moments.

        None where that is unknown: beyond the neighbours, or between two that are more than max_gap_s apart.
        """
        here = Moment(self.timestamp_us, self.global_SE3_ego)
        moments = sorted((*self.neighbours, here), key=lambda moment: moment.timestamp_us)
        return pose_at(moments, self.timestamp_us + values.number(offset_s, "offset_s") * 1e6, max_gap_s)

    def resized(self, width_px: int, height_px: int) -> Frame:
        """Return this frame with every camera, those of neighbours too, set to generate width_px x height_px images."""
        return replace(
            self, cameras=tuple(camera.resized(width_px, height_px) for camera in self.cameras),
            neighbours=tuple(moment.resized(width_px, height_px) for moment in self.neighbours),
        )  # fmt: skip

    def add_box(self, box: Box3D) -> Frame:
        """Return this frame with one more box."""
        return replace(self, boxes=(*self.boxes, box))

    def edit_box(self, instance: str, **changes: Any) -> Frame:
        """Return this frame with fields of one box replaced: `category`, `size_wlh_m`, `global_SE3_object` …"""
        old = self.box(instance)
        new = _changed(old, changes)
        return replace(self, boxes=tuple(new if box is old else box for box in self.boxes))

    def move_box(self, instance: str, forward_m: float = 0.0, left_m: float = 0.0, turn_rad: float = 0.0) -> Frame:
        """Return this frame with one box moved.

        Args:
            instance: of the box.
            forward_m: along the box's own x axis.
            left_m: along its y axis.
            turn_rad: about its vertical axis, counter-clockwise.
        """
        step = SE3.from_yaw(turn_rad, (forward_m, left_m, 0.0))
        return self.edit_box(instance, global_SE3_object=self.box(instance).global_SE3_object @ step)

    def remove_box(self, instance: str) -> Frame:
        """Return this frame without one box."""
        gone = self.box(instance)
        return replace(self, boxes=tuple(box for box in self.boxes if box is not gone))

    def edit_camera(self, channel: str, **changes: Any) -> Frame:
        """Return this frame with fields of one camera replaced; the recorded picture no longer belongs to it."""
        old = self.camera(channel)
        new = _changed(old, {"image_path": None} | changes)
        return replace(self, cameras=tuple(new if camera is old else camera for camera in self.cameras))

    def with_pictures(self, pictures: Mapping[str, str | Path]) -> Frame:
        """Return this frame as cameras of the generated size recorded it, for `nuscenes.write`.

        pictures names the file of each camera by channel; size and intrinsics become those of the generated image. Raises
        InputError where a camera has none, or a picture is of no camera.
        """
        for channel in values.by_name(pictures, "pictures", "files of cameras"):
            self.camera(channel)
        missing = [channel for channel in self.channels if channel not in pictures]
        if missing:
            raise InputError(
                f"frame {self.token!r}: no picture is given for {', '.join(missing)}; give one, or drop the camera"
            )
        return replace(self, cameras=tuple(camera.with_picture(pictures[camera.channel]) for camera in self.cameras))

    def move_camera(self, channel: str, translation_m: ArrayLike = (0.0, 0.0, 0.0), yaw_rad: float = 0.0) -> Frame:
        """Return this frame with one camera moved.

        Args:
            channel: of the camera.
            translation_m: (3,) shift along the ego axes.
            yaw_rad: turn about the vertical, counter-clockwise.
        """
        mount = self.camera(channel).ego_SE3_camera
        turned = SE3.from_yaw(yaw_rad).rotation @ mount.rotation
        moved = mount.translation + finite(translation_m, (3,), f"camera {channel!r}: translation")
        return self.edit_camera(channel, ego_SE3_camera=SE3(turned, moved))

    def drop_camera(self, channel: str) -> Frame:
        """Return this frame without one camera."""
        gone = self.camera(channel)
        return replace(self, cameras=tuple(camera for camera in self.cameras if camera is not gone))


def _changed(old: Changed, changes: Mapping[str, Any]) -> Changed:
    """Return a copy with fields replaced; InputError for a field that there is none of."""
    known = [each.name for each in fields(old)]
    for name in changes:
        if name not in known:
            raise InputError(f"{type(old).__name__} has no field {name!r}{nearest(name, known)}; it has {', '.join(known)}")
    return replace(old, **changes)


@dataclass(frozen=True, eq=False)
class Scene:
    """A drive: frames in time order, and what describes all of them."""

    name: str
    frames: tuple[Frame, ...]
    description: str = ""
    location: str = ""
    token: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", items_of(self.frames, Frame, f"scene {self.name!r}: frames"))

    def with_neighbours(self, past_s: float, future_s: float) -> Scene:
        """Return this scene with every frame's neighbours taken from its other frames.

        Args:
            past_s: seconds before each frame; the first moment beyond them is a neighbour too, to interpolate from.
            future_s: seconds after it, likewise.
        """
        moments = [frame.moment() for frame in self.frames]
        frames = tuple(
            replace(frame, neighbours=tuple(around(moments, frame.timestamp_us, past_s, future_s))) for frame in self.frames
        )
        return replace(self, frames=frames)
