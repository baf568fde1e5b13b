"""`drivegen export`: the annotation files of a format, and what is to be known of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from drivegen.catalog import formats
from drivegen.cli.plugins import read_options
from drivegen.cli.screen import Screen
from drivegen.export.run import export as run


def export(
    root: Path, out: Path, format: str, options: Sequence[str], version: str | None, prefix: str,
    split: Mapping[str, Sequence[str]], skip_missing: bool, replace: bool, screen: Screen,
) -> None:  # fmt: skip
    """Write the files, and say what is in them.

    Args:
        root: the dataset.
        out: folder to write into.
        format: its name.
        options: of the format, KEY=VALUE.
        version: the dataset's, where it has several.
        prefix: goes before every path in the files.
        split: names of splits or scenes for train, val and test.
        skip_missing: leave out scenes of which a picture is missing.
        replace: write over files of the same names.
        screen: where it is said.
    """
    exporter = formats.make(format, read_options(options))
    report = run(root, out, exporter, version, prefix, split, skip_missing, replace)
    rows = [(name, split, *map(str, counts)) for name, split, *counts in report.files]
    screen.table(("file", "split", "scenes", "samples", "boxes"), rows, right=(2, 3, 4))
    for what, count in report.notes.items():
        screen.line(("note", "yellow"), f" {count} × {what}")
