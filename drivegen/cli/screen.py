"""Output of the command line: text of files, datasets and models is printed here, without effect on terminal or markup."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from drivegen.support.text import printable


def complain(line: str) -> None:
    """Print one line to standard error."""
    print(" ".join(printable(line).split()), file=sys.stderr)


class Screen:
    """Standard output. Everything is printed as plain text; styles are given separately."""

    def __init__(self, console: Any = None) -> None:
        from rich.console import Console

        self._console = console or Console()

    def line(self, *parts: str | tuple[str, str]) -> None:
        """Print a line of words, or of (words, style)."""
        self._console.print(text(*parts), soft_wrap=True, highlight=False)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[int] = ()) -> None:
        """Print a table.

        Args:
            header: the columns' names.
            rows: cells, each words or what `text` makes.
            right: columns that are aligned to the right, counted from 0.
        """
        from rich.table import Table

        table = Table(*header, box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for column in right:
            table.columns[column].justify = "right"
        for row in rows:
            table.add_row(*(cell if not isinstance(cell, str) else text(cell) for cell in row))
        self._console.print(table)


def text(*parts: str | tuple[str, str]) -> Any:
    """Join words, or (words, style), into one text for the screen: no markup is read in it, and control characters are
    escaped.
    """
    from rich.text import Text

    return Text.assemble(*((printable(p), "") if isinstance(p, str) else (printable(p[0]), p[1]) for p in parts))
