"""The problems of a dataset, each by itself or, where there are many of a kind, summarised."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

LISTED = 10
"""As many problems of a kind are listed one by one; of more than these, the first with the number of all."""


@dataclass(frozen=True)
class Problem:
    """One problem, or `count` of a kind, of which this is the first.

    table and token say where; severity "error" stops opening or reading, "warning" does not.
    """

    table: str
    token: str
    message: str
    severity: str = "error"
    count: int = 1

    def __str__(self) -> str:
        said = f"{self.table} row {self.token}: {self.message}" if self.token else f"{self.table}: {self.message}"
        return said if self.count == 1 else f"{said} (and {self.count - 1:,} more like it)"


_VALUE = re.compile(r"'[^']*'|\"[^\"]*\"|\[[^\]]*\]|\S*[\d/\\]\S*")


def summarised(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """List problems, errors first; of a kind that occurs more than LISTED times, only the first, with their number.

    Two are of a kind when they differ in tokens and values alone. Those that are left out are not kept in memory.
    """
    kinds: dict[tuple[str, str, str], list[Problem]] = {}
    counts: dict[tuple[str, str, str], int] = {}
    for problem in problems:
        kind = problem.severity, problem.table, _VALUE.sub("…", problem.message)
        first = kinds.setdefault(kind, [])
        counts[kind] = counts.get(kind, 0) + problem.count
        if len(first) < LISTED:
            first.append(problem)
    ordered = sorted(kinds, key=lambda kind: kind[0] != "error")
    return tuple(
        problem
        for kind in ordered
        for problem in (kinds[kind] if counts[kind] <= LISTED else [replace(kinds[kind][0], count=counts[kind])])
    )
