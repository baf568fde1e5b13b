"""The directive ``{command-line}``: every command of `drivegen` with its arguments and options, from the program itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from tables import row, table

from drivegen.cli.main import app as commands


def leaves(command: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, command, context) of a command and of those below it, groups first."""
    context = command.context_class(command, info_name=name)
    yield name, command, context
    for inner in getattr(command, "commands", {}).values():
        yield from leaves(inner, f"{name} {inner.name}")


def described(name: str, command: Any, context: Any) -> str:
    """Return a command as Markdown."""
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    lines = [f"({anchor(name)})=", f"## `{name}`", "", command.help or "", "", "```text", usage, "```", ""]
    for kind in ("argument", "option"):
        given = [p.get_help_record(context) for p in command.params if p.param_type_name == kind and p.name != "help"]
        rows = [row(f"`{spelled}`", defaults(text)) for spelled, text in filter(None, given)]
        lines += table(kind, "meaning", rows) if rows else []
    return "\n".join(lines)


def defaults(text: str) -> str:
    """Return an option's help with the note about its default as the page has it."""
    return re.sub(r"  \[default: (.*)\]$", r" Default: `\1`.", text).replace("  [required]", "")


def anchor(name: str) -> str:
    """Return the target of a command's section."""
    return name.replace(" ", "-").replace("_", "-")


class CommandLine(SphinxDirective):
    """Shows all commands."""

    def run(self) -> list[nodes.Node]:
        """Return the nodes."""
        found = leaves(typer.main.get_command(commands), "drivegen")
        texts = [described(*each) for each in found if not hasattr(each[1], "commands")]
        return self.parse_text_to_nodes("\n\n".join(texts), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True}
