"""The block ``{room} NAME``: a room of the package from the code, what is imported from it and its modules for callers.

``:modules:`` names modules of the room whose public classes and functions are shown beside the names in its ``__all__``.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
from importlib import import_module
from typing import Any

from sphinx.application import Sphinx

BLOCK = re.compile(r"^```\{room\} (?P<room>\S+)\n(?::modules: (?P<modules>.*)\n)?```$", re.MULTILINE)


def homes(package: Any) -> dict[str, str]:
    """Return the module that each name of a package's ``__init__`` comes from."""
    out = {}
    for node in ast.walk(ast.parse(inspect.getsource(package))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("drivegen"):
            out |= {alias.asname or alias.name: node.module for alias in node.names}
    return out


def entry(package: str, name: str, home: str) -> list[str]:
    """Return the directive for one name of a package: a constant is documented where it is assigned."""
    thing = getattr(import_module(package), name)
    if inspect.ismodule(thing):
        return []
    if isinstance(thing, type):
        return [f".. autoclass:: {package}.{name}", ""]
    if inspect.isroutine(thing):
        return [f".. autofunction:: {package}.{name}", ""]
    return [f".. py:data:: {name}", "", *(f"   {line}" for line in assigned(home, name).splitlines()), ""]


def assigned(module: str, name: str) -> str:
    """Return the docstring below a module's assignment of a name."""
    body = ast.parse(inspect.getsource(import_module(module))).body
    for node, after in itertools.pairwise(body):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(getattr(target, "id", "") == name for target in targets) and isinstance(after, ast.Expr):
            return inspect.cleandoc(ast.literal_eval(after.value))
    return ""


def markdown(package: str, inner: list[str]) -> str:
    """Return a room as Markdown.

    Args:
        package: the room.
        inner: its modules that are shown.
    """
    module = import_module(package)
    names = getattr(module, "__all__", None) or [
        name for name, thing in vars(module).items()
        if inspect.isfunction(thing) and thing.__module__ == package and not name.startswith("_")
    ]  # fmt: skip
    where = homes(module)
    text = [(inspect.getdoc(module) or "").partition("\n\n")[0], ""]
    shown = [line for name in names for line in entry(package, name, where.get(name, package))]
    if shown:
        text += [f"## From `{package}`", "", "```{eval-rst}", f".. py:module:: {package}", "", *shown, "```", ""]
    for each in inner:
        title = f"{package}.{each}"
        above = [name for name in names if where.get(name) == title]
        leave = [f"   :exclude-members: {', '.join(above)}"] if above else []
        text += [f"## `{title}`", "", "```{eval-rst}", f".. automodule:: {title}", *leave, "```", ""]
    return "\n".join(text)


def read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put rooms in the place of their blocks: as text, since a directive's headings would come before what it begins with."""
    source[0] = BLOCK.sub(lambda match: markdown(match["room"], (match["modules"] or "").split()), source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True}
