"""Loads the tables through nuscenes-devkit, and checks rows with errors that name them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from drivegen.datasets.nuscenes.opening import opening_problems
from drivegen.datasets.nuscenes.schema import ROW_ERRORS, field_problems
from drivegen.support.errors import InputError

Row = dict[str, Any]


def load(root: Path, version: str) -> Any:
    """Load the tables with the devkit; where it fails with a bare KeyError, the bad rows are found and named."""
    from nuscenes.nuscenes import NuScenes

    try:
        with _collecting_later():
            return NuScenes(version=version, dataroot=str(root), verbose=False)
    except Exception as error:
        said = isinstance(error, AssertionError) and str(error)  # a sentence of the devkit's own
        cause = said or f"{type(error).__name__} {error}"  # the error itself holds all of the devkit's tables in memory
    problems = opening_problems(root, version)
    if not problems:
        raise InputError(f"dataset {root / version} cannot be opened: {cause}")
    more = f" (and {len(problems) - 1} more; drivegen.nuscenes.validate lists them)" if len(problems) > 1 else ""
    raise InputError(f"{problems[0]}{more}")


@contextmanager
def _collecting_later() -> Iterator[None]:
    """Let the garbage collector rest: millions of rows that all stay are half of the time gone through again and again."""
    resting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if resting:
            gc.enable()


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
