"""List everything that is wrong with a dataset, at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from drivegen.datasets.nuscenes.read import Dataset
from drivegen.datasets.nuscenes.schema import (
    CATEGORIES,
    ROW_ERRORS,
    field_problems,
    inside,
    map_path,
)
from drivegen.datasets.nuscenes.tables import Problem, Tables, load_tables, map_row_problems, row_problems
from drivegen.datasets.nuscenes.vectormap import read_map
from drivegen.datasets.nuscenes.versions import choose_version
from drivegen.scene import Box3D, Camera
from drivegen.scene.geometry import SE3
from drivegen.scene.pictures import decode, open_image
from drivegen.support.errors import InputError


def validate(root: str | Path, version: str | None = None) -> tuple[Problem, ...]:
    """Check tables, links, poses, calibrations, boxes, maps and every image (decoded), read every frame, and list all problems.

    Unknown categories and locations without a map are warnings: such boxes belong to no detection class, and such frames
    have no map. Raises InputError only when there is no dataset to check.
    """
    root = Path(root)
    name = choose_version(root, version)
    tables, problems = load_tables(root, name)
    if not problems:
        problems = [*row_problems(tables), *map_row_problems(root, tables)]
        opens = not problems
        problems += _value_problems(root, tables)
        if opens:
            problems += _reading_problems(root, name, [problem for problem in problems if problem.severity == "error"])
    return tuple(problems)


def _value_problems(root: Path, tables: Tables) -> Iterator[Problem]:
    tables = {name: [row for row in rows if not any(field_problems(name, row))] for name, rows in tables.items()}
    rows = {name: {row["token"]: row for row in tables[name]} for name in tables}
    for name in ("ego_pose", "calibrated_sensor"):
        for row in tables[name]:
            yield from _tried(name, row, _pose)
    for row in tables["calibrated_sensor"]:
        sensor = rows["sensor"].get(row["sensor_token"], {})
        if sensor.get("modality") == "camera":
            yield from _tried("calibrated_sensor", row, partial(_intrinsics, sensor))
    for row in tables["sample_annotation"]:
        yield from _tried("sample_annotation", row, lambda row: Box3D("", _pose(row), row["size"], token=row["token"]))
    for row in tables["category"]:
        if row["name"] not in CATEGORIES:
            message = f"{row['name']!r} is not a nuScenes category: its boxes are of no detection class"
            yield Problem("category", row["token"], message, "warning")
    taken: dict[tuple[str, str], str] = {}
    for row in tables["sample_data"]:
        mount = rows["calibrated_sensor"].get(row["calibrated_sensor_token"], {})
        sensor = rows["sensor"].get(mount.get("sensor_token", ""), {})
        key = row["sample_token"], str(sensor.get("channel"))
        if row["is_key_frame"] and (other := taken.setdefault(key, row["token"])) != row["token"]:
            message = f"sample {key[0]} has another key frame of {key[1]}, row {other}; one of them is not read: remove it"
            yield Problem("sample_data", row["token"], message, "warning")
        if sensor.get("modality") == "camera":
            yield from _tried("sample_data", row, partial(_image, root))
        elif row["is_key_frame"]:
            yield from _tried("sample_data", row, partial(_file, root))
    for location in sorted({row["location"] for row in tables["log"]}):
        try:
            path = map_path(root, location) if location else None
            if path is None or not path.is_file():
                file = f"maps/expansion/{location or '<location>'}.json"
                yield Problem("log", "", f"location {location!r} has no map {file}: its frames have none", "warning")
            else:
                read_map(path, location)
        except InputError as error:
            yield Problem("map", "", str(error))


def _reading_problems(root: Path, version: str, known: list[Problem]) -> Iterator[Problem]:
    """Read every scene and frame as a user would, and pass on what is refused for a reason that is not `known`."""

    def attempt(table: str, token: str, read: Callable[[str], object]) -> Iterator[Problem]:
        try:
            read(token)
        except InputError as error:
            message = str(error).removeprefix(f"{table} row {token}: ")
            if not any((problem.token or problem.message) in str(error) for problem in known):
                yield Problem(table, token, message)

    try:
        data = Dataset(root, version)
    except InputError as error:
        yield Problem("dataset", "", str(error))
        return
    for row in data.devkit.scene:
        yield from attempt("scene", row["token"], data.samples)
    for row in data.devkit.sample:
        yield from attempt("sample", row["token"], data.frame)


def _tried(table: str, row: dict[str, Any], check: Any) -> Iterator[Problem]:
    try:
        check(row)
    except InputError as error:
        yield Problem(table, row["token"], str(error))
    except ROW_ERRORS as error:
        yield Problem(table, row["token"], f"{type(error).__name__} {error}")


def _pose(row: dict[str, Any]) -> SE3:
    return SE3.from_quaternion(row["rotation"], row["translation"])


def _file(root: Path, row: dict[str, Any]) -> None:
    path = inside(root, row["filename"], "file")
    if not path.is_file():
        raise InputError(f"file {path} is missing")


def _intrinsics(sensor: dict[str, Any], row: dict[str, Any]) -> None:
    Camera(sensor["channel"], row["camera_intrinsic"], 1, 1, SE3.identity(), SE3.identity())


def _image(root: Path, row: dict[str, Any]) -> None:
    if row["is_key_frame"]:
        decode(open_image(inside(root, row["filename"], "image"), "image", (row["width"], row["height"])), "image")
