"""Changes of boxes: another size on the same ground, another class, another place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from drivegen.scene.boxes import Box3D, detection_class
from drivegen.scene.geometry import SE3, Array

USUAL_SIZE_M = {
    "car": (1.9, 4.6, 1.7), "truck": (2.5, 6.9, 2.9), "construction_vehicle": (2.8, 6.4, 3.2), "bus": (2.9, 11.0, 3.4),
    "trailer": (2.9, 12.0, 3.9), "barrier": (2.5, 0.5, 1.0), "motorcycle": (0.8, 2.1, 1.5), "bicycle": (0.6, 1.7, 1.3),
    "pedestrian": (0.7, 0.7, 1.8), "traffic_cone": (0.4, 0.4, 1.1),
}  # fmt: skip
"""(width, length, height) of what is put into a scene or in the place of another object: about nuScenes' mean of each class."""

ALIKE = ({"car", "truck", "construction_vehicle", "bus", "trailer"}, {"motorcycle", "bicycle"}, {"pedestrian"})
"""Detection classes that have their attributes in common."""


def usual_size(category: str) -> Array | None:
    """Return the usual (width, length, height) of a category or detection class in metres; None where it is not known."""
    size = USUAL_SIZE_M.get(detection_class(category) or "")
    return None if size is None else np.array(size)


def resized(box: Box3D, size: Array) -> Box3D:
    """Give a box another size: on the same ground, its middle where it is seen from above, joints where they were in it."""
    rise = SE3.from_yaw(0.0, (0.0, 0.0, float(size[2] - box.size_wlh_m[2]) / 2))
    joints = None if box.joints_m is None else box.joints_m * (size / box.size_wlh_m)[[1, 0, 2]]
    return replace(box, size_wlh_m=size, global_SE3_object=box.global_SE3_object @ rise, joints_m=joints)


def swapped(box: Box3D, category: str, size: Array) -> Box3D:
    """Put an object of another class in a box's place; its attribute stays where both classes have it.

    Args:
        box: the box.
        category: of the other object.
        size: (width, length, height) of it in metres.
    """
    old, new = box.detection_class, detection_class(category)
    alike = any(old in kinds and new in kinds for kinds in ALIKE)
    attribute = box.attribute if alike else ""
    return replace(resized(box, size), category=category, attribute=attribute, joints_m=None)


def shifted(box: Box3D, global_SE3_ego: SE3, shift_m: tuple[float, float], turn_rad: float) -> Box3D:
    """Move a box along the vehicle's axes and turn it where it stands.

    Args:
        box: the box.
        global_SE3_ego: pose of the vehicle.
        shift_m: ahead and to the left of the vehicle.
        turn_rad: about the vehicle's vertical axis, counter-clockwise.
    """
    pose = global_SE3_ego.inverse() @ box.global_SE3_object
    turned = SE3(SE3.from_yaw(turn_rad).rotation @ pose.rotation, pose.translation + np.array([*shift_m, 0.0]))
    return replace(box, global_SE3_object=global_SE3_ego @ turned)


GROUND_REACH_M = 15.0
"""The ground under a place is that of the objects that stand at most this far from it."""


def placed(
    category: str, global_SE3_ego: SE3, place_m: tuple[float, float], yaw_rad: float, instance: str,
    others: Sequence[Box3D] = (),
) -> Box3D | None:  # fmt: skip
    """Return a box of a class's usual size on the ground; None where the size is not known.

    The ground is where the nearest objects stand (the median of three), or where the vehicle does where none is near.

    Args:
        category: of the object.
        global_SE3_ego: pose of the vehicle.
        place_m: of the box's middle, ahead and to the left of the vehicle.
        yaw_rad: its heading in the vehicle's frame, counter-clockwise; 0 is ahead.
        instance: its name.
        others: objects that stand about.
    """
    size = usual_size(category)
    if size is None:
        return None
    places = [(global_SE3_ego.inverse().transform(box.global_SE3_object.translation), box.size_wlh_m[2]) for box in others]
    feet = np.array([[x, y, z - height / 2] for (x, y, z), height in places])
    away = np.linalg.norm(feet.reshape(-1, 3)[:, :2] - np.array(place_m), axis=1)
    near = [feet[i, 2] for i in np.argsort(away, kind="stable")[:3] if away[i] < GROUND_REACH_M]
    ground = float(np.median(near)) if near else 0.0
    pose = SE3.from_yaw(math.remainder(yaw_rad, 2 * math.pi), (*place_m, ground + float(size[2]) / 2))
    return Box3D(category, global_SE3_ego @ pose, size, instance=instance)
