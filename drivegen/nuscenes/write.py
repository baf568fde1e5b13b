"""Write scenes as a nuScenes v1.0 dataset that nuscenes-devkit opens."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drivegen.errors import InputError
from drivegen.nuscenes.files import place_map_mask
from drivegen.nuscenes.rows import Rows, scene_location
from drivegen.nuscenes.schema import TABLES, map_path
from drivegen.nuscenes.vectormap import map_json, merge_maps, read_map
from drivegen.scene import Scene, VectorMap


def write(scenes: Sequence[Scene], root: str | Path, version: str = "v1.0-mini") -> None:
    """Write scenes below root as the nuScenes dataset `version`: tables, sample files and the map expansion.

    Pictures and lidar files that lie below root are named where they are; others are copied to ``samples/<CHANNEL>/``, with
    part of their content's hash in the name, so that no file of another scene or dataset is replaced. A camera without a
    picture gets an even grey one of its native size and a frame without lidar an empty point file, so that the devkit can
    render both. Tokens that are given stay; the others depend on content alone. A bare detection class becomes its full
    category (``car`` → ``vehicle.car``). `num_lidar_pts` None is counted in the lidar file (the devkit's `points_in_box`), 0
    without one. Scenes of one location share one map, joined by token. The tables come last, in one rename: a dataset is there
    entirely or not at all. Velocities are not stored in this schema: readers derive them from the tracks.

    Raises InputError when the version exists already, names or tokens of scenes and frames repeat, a scene has no frames, times
    do not increase, a location is no plain name, or a map of that location is there and differs.
    """
    root = Path(root)
    if not scenes:
        raise InputError("no scenes to write; give at least one")
    if not version.startswith("v1.0-") or "/" in version:
        raise InputError(f"version {version!r} must be of the form v1.0-<name>")
    if (root / version).exists():
        raise InputError(f"{root / version} exists already; choose another root or version, or remove it")
    maps = _maps(root, scenes)
    temporary = root / f".{version}.{os.getpid()}.tmp"
    try:
        temporary.mkdir(parents=True)
        rows = Rows(root)
        for scene in scenes:
            rows.add_scene(scene)
        for location, vector_map in maps.items():
            _place_map(root, location, vector_map)
        for location, logs in rows.logs_by_location.items():
            rows.add_map(location, place_map_mask(root, location, maps.get(location)), logs)
        for table in TABLES:
            _write_bytes(temporary / f"{table}.json", _dump(rows.tables[table]))
        os.rename(temporary, root / version)
        _sync_folder(root)
    except OSError as error:
        raise InputError(f"dataset {root} cannot be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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


def _dump(table: Any) -> bytes:
    return json.dumps(table, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _place_map(root: Path, location: str, vector_map: VectorMap) -> None:
    path = map_path(root, location)
    if path.exists():  # another version's: it serves this one too if it holds every element
        there = read_map(path, location)
        try:
            more = _size(merge_maps([there, vector_map], location)) - _size(there)
        except InputError as error:
            raise InputError(f"{path} exists already and differs ({error}); choose another root or location") from error
        if more:
            raise InputError(
                f"{path} exists already and lacks {more} elements of these scenes; choose another root or location"
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _write_bytes(temporary, _dump(map_json(vector_map)))
    os.replace(temporary, path)
    _sync_folder(path.parent)


def _size(vector_map: VectorMap) -> int:
    return sum(map(len, vector_map.polygons.values())) + sum(map(len, vector_map.lines.values()))


def _write_bytes(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
