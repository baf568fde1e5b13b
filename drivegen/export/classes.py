"""Classes and attributes, numbered as the trainers number them."""

from __future__ import annotations

from drivegen.scene import Box3D

CLASSES = (
    "car", "truck", "trailer", "bus", "construction_vehicle", "bicycle", "motorcycle", "pedestrian", "traffic_cone", "barrier",
)  # fmt: skip
"""The ten detection classes in the order of mmdetection3d's converters; a label is an index into it, -1 none of them."""

ATTRIBUTES = (
    "cycle.with_rider", "cycle.without_rider", "pedestrian.moving", "pedestrian.standing", "pedestrian.sitting_lying_down",
    "vehicle.moving", "vehicle.parked", "vehicle.stopped", "None",
)  # fmt: skip
"""nuScenes' attributes in the converters' order; an object without one, or with another, has the last."""


def label(box: Box3D) -> int:
    """Return a box's label."""
    name = box.detection_class
    return -1 if name is None else CLASSES.index(name)


def name(box: Box3D) -> str:
    """Return a box's class, or its category where that is none of the ten."""
    return box.detection_class or box.category


def attribute(box: Box3D) -> str:
    """Return a box's attribute, one of ATTRIBUTES."""
    return box.attribute if box.attribute in ATTRIBUTES else ATTRIBUTES[-1]
