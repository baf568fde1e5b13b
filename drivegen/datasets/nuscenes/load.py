"""Loads the tables, linked as by nuscenes-devkit, and checks rows with errors that name them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from drivegen.datasets.nuscenes.collecting import collecting_later
from drivegen.datasets.nuscenes.opening import opening_problems
from drivegen.datasets.nuscenes.schema import ROW_ERRORS, TABLES, field_problems
from drivegen.support import fast_json
from drivegen.support.errors import InputError

Row = dict[str, Any]


class Tables:
    """The rows of the thirteen tables, with the links that nuscenes-devkit's `NuScenes` adds, but without its imports.

    A category's name in each annotation; modality and channel in each row of `sample_data`; in each sample its key frames by
    channel (``data``) and annotations (``anns``); in each log its map.
    """

    def __init__(self, root: Path, version: str) -> None:
        self.table_names = TABLES
        for name in TABLES:
            setattr(self, name, fast_json.loads((root / version / f"{name}.json").read_bytes()))
        self._token2ind: dict[str, dict[str, int]] = {
            name: {row["token"]: i for i, row in enumerate(getattr(self, name))} for name in TABLES
        }
        self._link()
        for row in self._rows("map"):
            if not os.path.isfile(root / row["filename"]):
                raise FileNotFoundError(row["filename"])  # the devkit, too, opens no dataset without it

    def get(self, table: str, token: str) -> Row:
        """Return a row by its token; raises KeyError where there is none."""
        row: Row = getattr(self, table)[self._token2ind[table][token]]
        return row

    def _rows(self, table: str) -> list[Row]:
        rows: list[Row] = getattr(self, table)
        return rows

    def _link(self) -> None:
        # A broken row that no other one names does not matter here, as in the devkit.
        names = {row["token"]: row.get("name") for row in self._rows("category")}
        kinds = {row["token"]: _known(names, row.get("category_token")) for row in self._rows("instance")}
        sensors = {row["token"]: (row.get("modality"), row.get("channel")) for row in self._rows("sensor")}
        mounts = {row["token"]: _known(sensors, row.get("sensor_token")) for row in self._rows("calibrated_sensor")}
        samples = {row["token"]: row for row in self._rows("sample")}
        for row in self._rows("sample"):
            row["data"], row["anns"] = {}, []
        for row in self._rows("sample_data"):
            row["sensor_modality"], row["channel"] = mounts[row["calibrated_sensor_token"]]
            if row["is_key_frame"]:
                samples[row["sample_token"]]["data"][row["channel"]] = row["token"]
        for row in self._rows("sample_annotation"):
            row["category_name"] = kind = kinds[row["instance_token"]]
            if kind is None:
                raise KeyError(row["instance_token"])
            samples[row["sample_token"]]["anns"].append(row["token"])
        self._rows("map")[0]["log_tokens"]
        maps = {token: row["token"] for row in self._rows("map") for token in row["log_tokens"]}
        for row in self._rows("log"):
            row["map_token"] = maps[row["token"]]


def _known(rows: dict[str, Any], token: Any) -> Any:
    return rows.get(token) if isinstance(token, str) else None


def load(root: Path, version: str) -> Any:
    """Load the tables; where that fails, the bad rows are found and named."""
    try:
        with collecting_later():
            return Tables(root, version)
    except Exception as error:
        cause = f"{type(error).__name__} {error}"  # the error itself holds all of the tables in memory
    problems = opening_problems(root, version)
    if not problems:
        raise InputError(f"dataset {root / version} cannot be opened: {cause}")
    more = f" (and {len(problems) - 1} more; drivegen.nuscenes.validate lists them)" if len(problems) > 1 else ""
    raise InputError(f"{problems[0]}{more}")


@contextmanager
def at(where: str) -> Iterator[None]:
    """Turn what a row's values raise into an InputError that names the row."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except ROW_ERRORS as error:
        raise InputError(f"{where}: {type(error).__name__} {error}; the row is not as in the nuScenes schema") from error


def check(table: str, row: Row, kind: str = "") -> None:
    """Raise InputError where a row lacks a field that is read (`schema.READ`).

    Args:
        table: its table.
        row: the row.
        kind: a kind of rows with fields of its own, such as those of cameras; "" for the table's.
    """
    for _, message in field_problems(kind or table, row):
        raise InputError(f"{table} row {row['token']}: {message}; the row is not as in the nuScenes schema")


def time_us(row: Row) -> int:
    """Return a row's time in whole microseconds; Lyft's have fractions."""
    return round(row["timestamp"])


def camera_rows(rows: dict[str, Row]) -> list[Row]:
    """Return those of a sample's rows that are of cameras."""
    return [row for row in rows.values() if row["sensor_modality"] == "camera"]
