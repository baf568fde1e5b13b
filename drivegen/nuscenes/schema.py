"""The nuScenes v1.0 tables: their names, the links between them, tokens, and file names that stay inside the data root."""

from __future__ import annotations

import hashlib
from pathlib import Path

from drivegen.errors import InputError

TABLES = (
    "category", "attribute", "visibility", "instance", "sensor", "calibrated_sensor", "ego_pose", "log", "scene", "sample",
    "sample_data", "sample_annotation", "map",
)  # fmt: skip

LINKS = {
    "instance": {"category_token": "category", "first_annotation_token": "sample_annotation",
                 "last_annotation_token": "sample_annotation"},
    "calibrated_sensor": {"sensor_token": "sensor"},
    "scene": {"log_token": "log", "first_sample_token": "sample", "last_sample_token": "sample"},
    "sample": {"prev": "sample", "next": "sample", "scene_token": "scene"},
    "sample_data": {"sample_token": "sample", "ego_pose_token": "ego_pose", "calibrated_sensor_token": "calibrated_sensor",
                    "prev": "sample_data", "next": "sample_data"},
    "sample_annotation": {"sample_token": "sample", "instance_token": "instance", "visibility_token": "visibility",
                          "attribute_tokens": "attribute", "prev": "sample_annotation", "next": "sample_annotation"},
    "map": {"log_tokens": "log"},
}  # fmt: skip
"""Of each table, the fields that name rows of another one; a field with a plural name holds a list."""

MAY_BE_EMPTY = ("prev", "next", "visibility_token")
"""Link fields for which an empty string means none."""

VISIBILITY_LEVELS = {1: "v0-40", 2: "v40-60", 3: "v60-80", 4: "v80-100"}

FULL_CATEGORY = {
    "car": "vehicle.car", "truck": "vehicle.truck", "construction_vehicle": "vehicle.construction", "bus": "vehicle.bus.rigid",
    "trailer": "vehicle.trailer", "barrier": "movable_object.barrier", "motorcycle": "vehicle.motorcycle",
    "bicycle": "vehicle.bicycle", "pedestrian": "human.pedestrian.adult", "traffic_cone": "movable_object.trafficcone",
}  # fmt: skip
"""The nuScenes category that stands for a bare detection class in the tables."""

CATEGORIES = (
    *FULL_CATEGORY.values(), "vehicle.bus.bendy", "vehicle.emergency.ambulance", "vehicle.emergency.police",
    "human.pedestrian.child", "human.pedestrian.construction_worker", "human.pedestrian.police_officer",
    "human.pedestrian.personal_mobility", "human.pedestrian.stroller", "human.pedestrian.wheelchair", "animal",
    "movable_object.debris", "movable_object.pushable_pullable", "static_object.bicycle_rack", "vehicle.ego",
)  # fmt: skip
"""The categories nuScenes knows."""


def make_token(*parts: object) -> str:
    """Return a token that depends on the parts alone: 32 hexadecimal digits."""
    return hashlib.md5("\x1f".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def inside(root: Path, filename: str, where: str) -> Path:
    """Return the path of a table's file name below root; InputError when it leads out of it (absolute, ``..``, a link)."""
    fix = "file names are relative to the data root and stay inside it"
    if not filename or Path(filename).is_absolute() or ".." in Path(filename).parts:
        raise InputError(f"{where}: file name {filename!r} refused; {fix}")
    path = root / filename
    if not path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{where}: file name {filename!r} is a link to {path.resolve()}, outside of {root}; {fix}")
    return path
