"""Write scenes as a nuScenes v1.0 dataset that nuscenes-devkit opens."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drivegen.datasets.nuscenes.files import add_map_mask
from drivegen.datasets.nuscenes.making import Making, making, write_bytes
from drivegen.datasets.nuscenes.rows import Rows, scene_location
from drivegen.datasets.nuscenes.schema import TABLES, check_text, map_path, writable
from drivegen.datasets.nuscenes.vectormap import map_json, merge_maps, read_map
from drivegen.scene import Scene, VectorMap
from drivegen.scene.geometry import items_of
from drivegen.support.errors import InputError
from drivegen.support.files import sync_folder, unforeseen
from drivegen.support.names import check_file_name
from drivegen.support.values import file_path, text


def write(scenes: Sequence[Scene], root: str | Path, version: str = "v1.0-mini", vehicle: str = "drivegen") -> None:
    """Write scenes as a nuScenes dataset: tables, sample files and the map expansion.

    Pictures and lidar files that lie below root are named where they are; others are copied to ``samples/<CHANNEL>/``, with
    part of their content's hash in the name, so that no file of another scene or dataset is replaced. A camera without a
    picture gets a uniform grey one of its native size and a frame without lidar an empty point file, so that the devkit can
    render both. Given tokens are kept; the others depend on content alone. A bare detection class becomes its full category
    (``car`` → ``vehicle.car``). `num_lidar_pts` None is counted in the lidar file (the devkit's `points_in_box`), 0 without
    one. Scenes of one location share one map, joined by token. Velocities are not stored in this schema: readers derive them
    from the tracks. Extras of frames (JSON values, arrays, PIL pictures, paths of files) are kept, as ``extras`` in the rows of
    `sample`.

    A dataset is written completely or not at all: scenes, pictures (their headers) and maps are checked before anything is
    written, the tables come last, in one rename, and what was written is removed again when an error, Ctrl-C or SIGTERM ends
    the writing.

    Args:
        scenes: at least one.
        root: the data root, which may hold other versions.
        version: name of the folder of the tables, ``v1.0-<name>``.
        vehicle: whose recordings these are, for the logs.

    Raises InputError when the version exists already, names or tokens of scenes and frames repeat, a scene has no frames, times
    do not increase, a location is no plain name, a picture or lidar file is missing, a picture has another size than its camera
    or is one that readers refuse, a different map of that location exists, or another process is writing to root.
    """
    root, scenes = file_path(root, "data root"), items_of(scenes, Scene, "scenes")
    if not scenes:
        raise InputError("no scenes to write; give at least one")
    if not text(version, "version").startswith("v1.0-"):
        raise InputError(f"version {version!r} must be of the form v1.0-<name>")
    check_file_name(version, "version")
    if writable(root, version, "version").exists():
        raise InputError(f"{root / version} exists already; choose another root or version, or remove it")
    try:
        maps = _maps(root, scenes)
        rows = Rows(root, check_text(vehicle, "vehicle"))
        for scene in scenes:
            rows.add_scene(scene)
        new_maps = [location for location, vector_map in maps.items() if not is_there(root, location, vector_map)]
        with making(root, unforeseen(root / version).name) as made:
            rows.add_files(made)
            for location in new_maps:
                made.file(map_path(root, location).relative_to(root).as_posix(), dump(map_json(maps[location])), sync=True)
            for location, logs in rows.logs_by_location.items():
                rows.add_map(location, add_map_mask(made, location, maps.get(location)), logs)
            _finish(made, rows, root / version)
    except OSError as error:
        raise InputError(f"dataset {root} cannot be written: {error}") from error


def _maps(root: Path, scenes: Sequence[Scene]) -> dict[str, VectorMap]:
    found: dict[str, list[VectorMap]] = {}
    for scene in scenes:
        if not scene.frames:
            raise InputError(f"scene {scene.name!r} has no frames; leave it out")
        location = scene_location(scene)
        maps = [frame.map for frame in scene.frames if frame.map is not None]
        if maps or location:
            map_path(root, location, f"scene {scene.name!r}")
        if maps:
            found.setdefault(location, []).extend(maps)
    return {location: merge_maps(maps, location) for location, maps in found.items()}


def is_there(root: Path, location: str, vector_map: VectorMap) -> bool:
    """Tell whether there is a map of the location already, another version's: it serves this one too if it holds every element.

    Args:
        root: the dataset's folder.
        location: name of the map.
        vector_map: what it has to hold.
    """
    path = map_path(root, location)
    if not path.exists():
        return False
    there = read_map(path, location)
    try:
        more = _size(merge_maps([there, vector_map], location)) - _size(there)
    except InputError as error:
        raise InputError(f"{path} exists already and differs ({error}); choose another root or location") from error
    if more:
        raise InputError(f"{path} exists already and lacks {more} elements of these scenes; choose another root or location")
    return True


def _size(vector_map: VectorMap) -> int:
    return sum(map(len, vector_map.polygons.values())) + sum(map(len, vector_map.lines.values()))


def _finish(made: Making, rows: Rows, folder: Path) -> None:
    for table in TABLES:
        write_bytes(made.staging / f"{table}.json", dump(rows.tables[table]))
    os.rename(made.staging, folder)
    sync_folder(made.root)


def dump(table: Any) -> bytes:
    """Return JSON values as the bytes of a table."""
    return json.dumps(table, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
