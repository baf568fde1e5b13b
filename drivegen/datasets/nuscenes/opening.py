"""Why a dataset does not open: unreadable tables, and rows on which nuscenes-devkit fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from drivegen.datasets.nuscenes.problems import Problem
from drivegen.datasets.nuscenes.schema import TABLES, field_problems, inside
from drivegen.support.errors import InputError

Rows = list[dict[str, Any]]

_JOINED = {
    "instance": {"category_token": "category"},
    "calibrated_sensor": {"sensor_token": "sensor"},
    "sample_annotation": {"instance_token": "instance", "sample_token": "sample"},
    "sample_data": {"calibrated_sensor_token": "calibrated_sensor", "sample_token": "sample"},
}
"""The links that are followed of every row when the tables are loaded."""


def opening_problems(root: Path, version: str) -> list[Problem]:
    """List why a version does not open, in the order of the tables; empty where no reason is found."""
    tables: dict[str, Rows] = {}
    problems = []
    for name in TABLES:
        path = root / version / f"{name}.json"
        try:
            rows = tables[name] = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(rows, list) or not all(map(_has_token, rows)):
                raise ValueError("not a list of rows with a token each")
        except OSError as error:
            problems.append(Problem(name, "", f"{path} cannot be read: {error.strerror or error}"))
        except (ValueError, RecursionError) as error:
            problems.append(Problem(name, "", f"{path} cannot be read: {error}"))
    return problems or [*_broken_links(tables), *_fields(tables), *_masks(root, tables)]


def _has_token(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("token"), str)


def _broken_links(tables: dict[str, Rows]) -> Iterator[Problem]:
    tokens = {name: {row["token"] for row in tables[name]} for links in _JOINED.values() for name in links.values()}
    for name, links in _JOINED.items():
        for row in tables[name]:
            for link, target in links.items():
                if name == "sample_data" and link == "sample_token" and row.get("is_key_frame") is False:
                    continue
                value = row.get(link)
                if link not in row:
                    yield Problem(name, row["token"], f"has no {link}")
                elif not isinstance(value, str) or value not in tokens[target]:
                    yield Problem(name, row["token"], f"{link} {value!r:.60} is not in {target}.json")
            if name == "sample_data" and "is_key_frame" not in row:
                yield Problem(name, row["token"], "has no is_key_frame")


def _fields(tables: dict[str, Rows]) -> Iterator[Problem]:
    for name in ("scene", "category", "sensor", "map"):
        for row in tables[name]:
            for _, message in field_problems(name, row):
                yield Problem(name, row["token"], message)


def _masks(root: Path, tables: dict[str, Rows]) -> Iterator[Problem]:
    """Find logs without a map row, and map rows without their mask."""
    maps = [row for row in tables["map"] if not any(field_problems("map", row))]
    mapped = {token for row in maps for token in row["log_tokens"]}
    if not tables["map"]:
        yield Problem("map", "", "has no rows; the devkit needs one, with log_tokens and the filename of a mask")
    for row in tables["log"]:
        if row["token"] not in mapped:
            yield Problem("log", row["token"], "is in no map row's log_tokens")
    for row in maps:
        try:
            if not inside(root, row["filename"], "file").is_file():
                yield Problem("map", row["token"], f"mask {root / row['filename']} is missing")
        except InputError as error:
            yield Problem("map", row["token"], str(error))
