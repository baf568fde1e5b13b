"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def row(*cells: str) -> str:
    """Return one row."""
    return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"


def table(*heads_and_rows: str | Sequence[str]) -> list[str]:
    """Return the lines of a table, from its heads and, last, its rows."""
    *heads, rows = heads_and_rows
    return [row(*map(str, heads)), row(*("---" for _ in heads)), *rows, ""]
