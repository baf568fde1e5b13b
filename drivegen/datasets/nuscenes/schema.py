"""The nuScenes v1.0 tables: their names, the links between them, tokens, and file names that stay inside the data root."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from drivegen.support.errors import InputError

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

_NUMBER = (int, float)
_PLACED = {"rotation": list, "translation": list}
READ: dict[str, dict[str, Any]] = {
    "category": {"name": str}, "attribute": {"name": str}, "visibility": {}, "sensor": {"channel": str, "modality": str},
    "log": {"location": str}, "map": {"filename": str, "log_tokens": list},
    "scene": {"name": str, "description?": str, "first_sample_token": str, "log_token": str},
    "sample": {"timestamp": _NUMBER, "scene_token": str, "description?": str, "extras?": dict},
    "chained sample": {"next?": str},
    "ego_pose": _PLACED, "calibrated_sensor": _PLACED, "calibrated camera": _PLACED | {"camera_intrinsic": list},
    "sample_data": {"filename": str, "calibrated_sensor_token": str, "ego_pose_token": str},
    "lidar data": {"filename": str, "calibrated_sensor_token": str, "ego_pose_token": str, "timestamp": _NUMBER, "prev?": str},
    "camera data": {"filename": str, "calibrated_sensor_token": str, "ego_pose_token": str, "timestamp": _NUMBER,
                    "width": _NUMBER, "height": _NUMBER},
    "sample_annotation": _PLACED | {"size": list, "num_lidar_pts?": _NUMBER, "instance_token": str, "visibility_token?": str,
                                    "attribute_tokens?": list, "prev?": str, "next?": str},
}  # fmt: skip
"""Of each table's rows, the fields that are read, with their types; a `?` marks those that may be missing, or null: unknown.

Rows of cameras are read further than those of other sensors: a lidar needs no size.
"""

ROW_ERRORS = (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What a row of another form than the schema's can raise where it is read."""

MAY_BE_EMPTY = ("prev", "next", "visibility_token")
"""Link fields for which an empty string, or null, means none."""

VISIBILITY_LEVELS = {1: "v0-40", 2: "v40-60", 3: "v60-80", 4: "v80-100"}
_PERCENT = re.compile(r"v?\s*(\d+)\s*[-–]\s*\d+\s*%?")


def visibility_level(row: Mapping[str, Any]) -> int | None:
    """Return a visibility row's level, 1 to 4, from its text (``v40-60``); tokens may be numbered in any way, or be hashes.

    A row without any text has the level that its token says, where that is 1 to 4; else it is unknown.
    """
    text = row.get("level")
    if text in (None, ""):
        return int(row["token"]) if row["token"] in ("1", "2", "3", "4") else None
    found = _PERCENT.fullmatch(str(text).strip())
    return None if found is None else 1 + sum(int(found[1]) >= low for low in (40, 60, 80))


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

ATTRIBUTES = (
    "pedestrian.moving", "pedestrian.sitting_lying_down", "pedestrian.standing", "cycle.with_rider", "cycle.without_rider",
    "vehicle.moving", "vehicle.parked", "vehicle.stopped",
)  # fmt: skip
"""The attributes nuScenes knows; its detection evaluation takes no others."""


def field_problems(kind_of_row: str, row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (field, what is wrong with it) for each of `READ` that a row lacks or that is of another type."""
    for name, kind in READ[kind_of_row].items():
        field = name.rstrip("?")
        value: Any = row.get(field)
        if value is None and field != name:
            continue
        if field not in row:
            yield field, f"has no {field}"
            continue
        wrong = not isinstance(value, kind) or (kind is _NUMBER and isinstance(value, bool))
        if wrong or (field.endswith("_tokens") and not all(isinstance(token, str) for token in value)):
            what = {str: "a text", list: "a list", dict: "an object", _NUMBER: "a number"}[kind]
            yield field, f"{field} is {repr(value)[:60]}, not {what}{' of tokens' if field.endswith('_tokens') else ''}"


def check_text(value: Any, what: str) -> str:
    """Return a text that a table can hold; InputError for anything else (a number, half of a surrogate pair)."""
    try:
        str.encode(value)
    except TypeError as error:
        raise InputError(f"{what} is {value!r}; it must be a text") from error
    except UnicodeEncodeError as error:
        raise InputError(f"{what} is {value!r}, which UTF-8 cannot hold; write it without half of a surrogate pair") from error
    return str(value)


def make_token(*parts: object) -> str:
    """Return a token that depends on the parts alone: 32 hexadecimal digits."""
    return hashlib.md5("\x1f".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def _nameable(filename: str) -> bool:
    """Whether a file system takes the name: not empty, no NUL or half of a surrogate pair, no part of more than 255 bytes."""
    try:
        return bool(filename) and "\0" not in filename and all(len(os.fsencode(part)) < 256 for part in Path(filename).parts)
    except UnicodeEncodeError:
        return False


def map_path(root: Path, location: str, where: str = "map") -> Path:
    """Return the path of a location's map; InputError when the location is no plain name.

    Args:
        root: the dataset's folder.
        location: name of the map.
        where: names the row in the error.
    """
    if not isinstance(location, str) or location in ("", "..") or Path(location).name != location or "\\" in location:
        raise InputError(f"{where}: location {location!r} cannot name a map file; give it a plain name, without slashes")
    return inside(root, f"maps/expansion/{location}.json", where)


def inside(root: Path, filename: str, where: str) -> Path:
    """Return the path of a table's file name below root.

    Symbolic links below root are followed: the owner of the folder made them.

    Args:
        root: the dataset's folder.
        filename: relative to root.
        where: names the row in the error.

    Raises InputError when the name leads out of root (absolute, ``..``).
    """
    parts = Path(filename).parts if isinstance(filename, str) and _nameable(filename) else ()
    if not parts or Path(filename).is_absolute() or ".." in parts:
        raise InputError(f"{where}: file name {filename!r} refused; {_STAY}")
    return root / filename


def writable(root: Path, filename: str, where: str) -> Path:
    """Return `inside`, for a file that is written.

    Args:
        root: the dataset's folder.
        filename: relative to root.
        where: names the row in the error.

    Raises InputError also when a symbolic link on the way leads out of root.
    """
    path = inside(root, filename, where)
    if not path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{where}: file name {filename!r} is a link to {path.resolve()}, outside of {root}; {_STAY}")
    return path


_STAY = "file names are relative to the data root and stay inside it"
