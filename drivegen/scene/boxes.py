"""Annotated objects: a 3D box, its sides, and the detection class of its category."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from drivegen.scene.geometry import SE3, Array, finite, numbers, whole
from drivegen.scene.joints import checked_joints
from drivegen.support import values
from drivegen.support.errors import InputError

DETECTION_CLASSES = (
    "car", "truck", "construction_vehicle", "bus", "trailer", "barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone",
)  # fmt: skip
"""The ten nuScenes detection classes, in MagicDrive's order."""

LONGEST_M = 10_000.0
"""A box side beyond this is a mistake."""


@dataclass(frozen=True, eq=False)
class Box3D:
    """An annotated object at the sample's time.

    global_SE3_object: object x forward, y left, z up, origin at the box centre; size_wlh_m (width, length, height);
    category a full nuScenes category or a detection class; visibility 1 (0-40 %) to 4 (80-100 %), None unknown; joints_m
    (17, 3) the places of `JOINTS` in the object's frame, NaN for those that are not known, None where the object has none.
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
    joints_m: Array | None = None

    def __post_init__(self) -> None:
        where = f"box {self.token or self.instance or self.category!r}"
        for name in ("category", "instance", "token", "attribute"):
            values.text(getattr(self, name), f"{where}: {name}")
        SE3.check(self.global_SE3_object, f"{where}: global_SE3_object")
        size = finite(self.size_wlh_m, (3,), f"{where}: size")
        if (size <= 0).any():
            raise InputError(f"{where}: size {size.tolist()} m must be positive (width, length, height)")
        if size.max() > LONGEST_M:
            raise InputError(f"{where}: size {size.tolist()} m is longer than {LONGEST_M:g} m; sizes are in metres")
        object.__setattr__(self, "size_wlh_m", size)
        for name, low, high in (("visibility", 1, 4), ("num_lidar_pts", -1, 2**31)):  # some converters say -1 for unknown
            if (given := getattr(self, name)) is not None:
                object.__setattr__(self, name, whole(given, low, high, f"{where}: {name}"))
        # nuScenes says NaN where a velocity cannot be estimated (one observation): unknown, so it stays.
        velocity = numbers(self.velocity_mps, f"{where}: velocity")
        if velocity.shape != (3,):
            raise InputError(f"{where}: velocity has shape {velocity.shape}, expected (3,) m/s")
        if np.isinf(velocity).any():
            raise InputError(f"{where}: velocity {velocity.tolist()} m/s is infinite; NaN says that it is unknown")
        object.__setattr__(self, "velocity_mps", velocity)
        if self.joints_m is not None:
            object.__setattr__(self, "joints_m", checked_joints(self.joints_m, where))

    def joints(self) -> Array | None:
        """(17, 3) places of `JOINTS` in the global frame, NaN for those that are not known; None where there are none."""
        return None if self.joints_m is None else self.global_SE3_object.transform(self.joints_m)

    @property
    def detection_class(self) -> str | None:
        """One of DETECTION_CLASSES, or None for a category outside of them."""
        return detection_class(self.category)

    @property
    def is_person(self) -> bool:
        """Whether the object is a person, rather than something that may carry one."""
        return self.detection_class == "pedestrian" or self.category.startswith("human.")

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

_CATEGORY_CLASSES = (
    ("vehicle.car", "car"), ("vehicle.truck", "truck"), ("vehicle.construction", "construction_vehicle"),
    ("vehicle.bus.bendy", "bus"), ("vehicle.bus.rigid", "bus"), ("vehicle.trailer", "trailer"),
    ("movable_object.barrier", "barrier"), ("vehicle.motorcycle", "motorcycle"), ("vehicle.bicycle", "bicycle"),
    ("movable_object.trafficcone", "traffic_cone"),
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
    return next((name for known, name in _CATEGORY_CLASSES if category == known or category.startswith(f"{known}.")), None)
