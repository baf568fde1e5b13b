"""What is wrong with the tables alone, before anything that they name is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drivegen.datasets.nuscenes.schema import LINKS, MAY_BE_EMPTY, TABLES, field_problems, inside
from drivegen.support.errors import InputError

Tables = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: table and token say where; severity "error" stops reading, "warning" does not."""

    table: str
    token: str
    message: str
    severity: str = "error"

    def __str__(self) -> str:
        return f"{self.table} row {self.token}: {self.message}" if self.token else f"{self.table}: {self.message}"


def table_problems(root: Path, version: str) -> tuple[Problem, ...]:
    """List what is wrong with the tables alone: unreadable, repeated tokens, fields missing or of other types, broken links."""
    tables, problems = load_tables(root, version)
    return tuple(problems or [*row_problems(tables), *map_row_problems(root, tables)])


def load_tables(root: Path, version: str) -> tuple[Tables, list[Problem]]:
    """Read every table; what cannot be read is a problem, and its table is left out."""
    tables: Tables = {}
    problems = []
    for name in TABLES:
        path = root / version / f"{name}.json"
        try:
            rows = tables[name] = json.loads(path.read_text(encoding="utf-8"))
            named = (isinstance(row, dict) and isinstance(row.get("token"), str) for row in rows)
            if not isinstance(rows, list) or not all(named):
                raise ValueError("not a list of rows with a token each")
        except (OSError, ValueError, TypeError, RecursionError) as error:
            problems.append(Problem(name, "", f"{path} cannot be read: {error}"))
    return tables, problems


def row_problems(tables: Tables) -> Iterator[Problem]:
    """Find repeated tokens, fields missing or of other types, and links to rows that are not there."""
    tokens = {name: {row["token"] for row in rows} for name, rows in tables.items()}
    for name, rows in tables.items():
        if len(tokens[name]) < len(rows):
            seen: set[str] = set()
            for row in rows:
                if row["token"] in seen:
                    yield Problem(name, row["token"], "the token is used twice")
                seen.add(row["token"])
        for row in rows:
            wrong = dict(field_problems(name, row))
            for message in wrong.values():
                yield Problem(name, row["token"], message)
            for link, target in LINKS.get(name, {}).items():
                if link in wrong:
                    continue
                values = row[link] if isinstance(row[link], list) else [row[link]]
                for value in values:
                    if value not in tokens[target] and not (value == "" and link in MAY_BE_EMPTY):
                        yield Problem(name, row["token"], f"{link} {value!r} is not in {target}.json")


def map_row_problems(root: Path, tables: Tables) -> Iterator[Problem]:
    """Find logs without a map row, and map rows without their mask."""
    maps = [row for row in tables["map"] if not any(field_problems("map", row))]
    mapped = {token for row in maps for token in row["log_tokens"]}
    for row in tables["log"]:
        if row["token"] not in mapped:
            yield Problem("log", row["token"], "is in no map row's log_tokens")
    for row in maps:
        try:
            if not inside(root, row["filename"], "file").is_file():
                yield Problem("map", row["token"], f"mask {root / row['filename']} is missing")
        except InputError as error:
            yield Problem("map", row["token"], str(error))
