"""Tables from parts, as streams: rows of single samples, made anywhere, are joined scene by scene, never all held at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from drivegen.datasets.nuscenes.files import add_map_mask
from drivegen.datasets.nuscenes.making import making
from drivegen.datasets.nuscenes.rows import Rows, close_tracks, link, scene_location
from drivegen.datasets.nuscenes.schema import TABLES, map_path
from drivegen.datasets.nuscenes.vectormap import map_json
from drivegen.datasets.nuscenes.write import dump, is_there
from drivegen.scene import Scene, VectorMap
from drivegen.support.errors import InputError
from drivegen.support.files import sync_folder, unforeseen

Part = dict[str, list[dict[str, Any]]]
"""The rows that one sample brings, by table; JSON values."""

_SHARED = ("category", "attribute", "visibility", "sensor", "map")
"""Tables whose rows many scenes share: they stay in memory until the end, and are small."""


def part(scene: Scene, number: int, root: Path, vehicle: str) -> Part:
    """Return the rows of one sample of a scene, whose pictures and sweep lie below root; extras are left out.

    Args:
        scene: the scene; its frames have tokens, its boxes instances.
        number: which of its frames.
        root: the dataset's folder.
        vehicle: whose recordings these are, for the logs.
    """
    description = scene.description or scene.frames[0].description
    # Extras belong to recorded pictures, and these may be others.
    frame = replace(scene.frames[number], extras={})
    alone = replace(scene, frames=(frame,), description=description, location=scene_location(scene))
    rows = Rows(root, vehicle)
    known = {name: {row["token"] for row in table} for name, table in rows.tables.items()}
    rows.add_scene(alone)
    rows.name_files()
    own = {name: [row for row in table if row["token"] not in known[name]] for name, table in rows.tables.items()}
    return {name: table for name, table in own.items() if table}


def joined(parts: Iterable[Part]) -> Part:
    """Join the parts of a scene's samples, in time order: the rows that `write` would make of the whole scene.

    Raises InputError where an instance has two categories.
    """
    tables: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in TABLES}
    for one in parts:
        for name, rows in one.items():
            for row in rows:
                known = tables[name].setdefault(row["token"], row)
                if name == "instance" and known["category_token"] != row["category_token"]:
                    raise InputError(f"instance {row['token']} has two categories; give it one, or two instances")
    samples = list(tables["sample"].values())
    sensors = {token: row["sensor_token"] for token, row in tables["calibrated_sensor"].items()}
    data: dict[str, list[dict[str, Any]]] = {}
    for row in tables["sample_data"].values():
        data.setdefault(sensors[row["calibrated_sensor_token"]], []).append(row)
    tracks: dict[str, list[dict[str, Any]]] = {}
    for row in tables["sample_annotation"].values():
        tracks.setdefault(row["instance_token"], []).append(row)
    for chain in (samples, *data.values()):
        link(chain)
    close_tracks(tracks, tables["instance"])
    for scene in tables["scene"].values():
        scene |= {
            "nbr_samples": len(samples),
            "first_sample_token": samples[0]["token"],
            "last_sample_token": samples[-1]["token"],
        }
    times = [row["timestamp"] for row in samples]
    if any(later <= earlier for earlier, later in pairwise(times)):
        raise InputError(f"scene {scene['name']!r}: frame times must increase, got {times[:6]}")
    return {name: list(table.values()) for name, table in tables.items()}


def write_parts(
    root: Path, version: str, scenes: Iterable[Iterable[Part]], maps: Mapping[str, VectorMap], vehicle: str
) -> None:
    """Write the tables, maps and masks of a dataset from its parts; completely or not at all, as `write` does.

    Args:
        root: the dataset's folder, which holds the sample files.
        version: name of the folder of the tables, which does not exist.
        scenes: the parts of each scene, in time order; they are taken one after the other.
        maps: the map of each location.
        vehicle: whose recordings these are.
    """
    rows = Rows(root, vehicle)
    shared = {name: {row["token"]: row for row in rows.tables[name]} for name in _SHARED}
    logs: dict[str, list[str]] = {}
    try:
        with making(root, unforeseen(root / version).name) as made:
            with ExitStack() as stack:
                streams = {name: stack.enter_context(_Stream(made.staging / f"{name}.json")) for name in TABLES}
                for parts in scenes:
                    tables = joined(parts)
                    for log in tables["log"]:
                        logs.setdefault(log["location"], []).append(log["token"])
                    for name, table in tables.items():
                        if name in _SHARED:
                            shared[name] |= {row["token"]: row for row in table if row["token"] not in shared[name]}
                        else:
                            streams[name].add(table)
                for location, vector_map in maps.items():
                    if not is_there(root, location, vector_map):
                        name = map_path(root, location).relative_to(root).as_posix()
                        made.file(name, dump(map_json(vector_map)), sync=True)
                for location, tokens in logs.items():
                    rows.add_map(location, add_map_mask(made, location, maps.get(location)), tokens)
                shared["map"] = {row["token"]: row for row in rows.tables["map"]}
                for name, known in shared.items():
                    streams[name].add(list(known.values()))
            os.rename(made.staging, root / version)
            sync_folder(root)
    except OSError as error:
        raise InputError(f"dataset {root} cannot be written: {error}") from error


class _Stream:
    """A table that is written row by row: a list of JSON, as `json.dumps` would write it at once."""

    def __init__(self, path: Path) -> None:
        self._path, self._first = path, True

    def __enter__(self) -> _Stream:
        self._file = self._path.open("xb")
        self._file.write(b"[")
        return self

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Append rows."""
        if rows:
            self._file.write((b"" if self._first else b",") + dump(rows)[1:-1])
            self._first = False

    def __exit__(self, kind: object, *error: object) -> None:
        with self._file:
            if kind is None:
                self._file.write(b"]")
                self._file.flush()
                os.fsync(self._file.fileno())
