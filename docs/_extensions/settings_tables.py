"""The directives ``{settings}`` and ``{generation-settings}``: dataclasses of settings as tables, from the code.

``{settings} module:Class`` shows a class with every class of settings inside it: key, type, default, range, and what the
field's docstring says.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import re
import sys
import typing
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from tables import row, table

BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


@functools.cache
def said(cls: type) -> dict[str, str]:
    """Return the docstrings of a class's fields, its bases' too."""
    out: dict[str, str] = {}
    for each in reversed(cls.__mro__[:-1]):
        body = ast.parse(inspect.getsource(each)).body[0].body  # type: ignore[attr-defined]
        for field, after in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                out[field.target.id] = str(after.value.value)  # type: ignore[union-attr]
    return out


def inner(kind: Any) -> Iterator[type]:
    """Yield the dataclasses that a type holds."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        yield kind
    for part in typing.get_args(kind):
        yield from inner(part)


def written(kind: Any) -> str:
    """Return a field's type in the words of the page: without modules, and with Literal's values alone."""
    text = re.sub(r"Optional\[(.*)\]$", r"\1 | None", kind)
    text = re.sub(r"Literal\[([^\]]*)\]", lambda m: m[1].replace(", ", " | ").replace('"', ""), text)
    return re.sub(r"\b\w+\.(?=\w)", "", text)


def default_of(field: dataclasses.Field[Any]) -> str:
    """Return a field's default as YAML has it; "required" where it has none."""
    if field.default is not dataclasses.MISSING:
        value: Any = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    if dataclasses.is_dataclass(value):
        return "its own"
    if value is None or isinstance(value, bool):
        return f"`{ {None: 'null', True: 'true', False: 'false'}[value] }`"
    return f"`{list(value) if isinstance(value, tuple) else value}`" if value != "" else "empty"


def range_of(field: dataclasses.Field[Any]) -> str:
    """Return the range that a field's value must be in."""
    return ", ".join(f"{BOUNDS[key]} {value:g}" for key, value in field.metadata.items() if key in BOUNDS)


def groups(cls: type, path: str = "") -> dict[str, type]:
    """Return a class and those inside it by their place in the file, the outermost first."""
    found: dict[str, type] = {path: cls}
    hints = typing.get_type_hints(cls, vars(sys.modules[cls.__module__]))
    for field in dataclasses.fields(cls):
        many = {"dict": ".NAME", "tuple": "[]"}.get(str(field.type).partition("[")[0], "")
        for each in inner(hints[field.name]):
            found |= groups(each, f"{path}.{field.name}{many}".lstrip("."))
    return found


def described(path: str, cls: type) -> list[str]:
    """Return a group of settings as Markdown."""
    rows = []
    for field in dataclasses.fields(cls):
        parts = (said(cls).get(field.name, "").rstrip("."), range_of(field))
        meaning = "; ".join(part for part in parts if part).replace("``", "`")
        rows.append(row(f"`{field.name}`", f"`{written(field.type)}`", default_of(field), meaning))
    about = inspect.cleandoc(cls.__doc__ or "").replace("``", "`")
    return [f"### `{path}`" if path else "### The whole file", "", about, "", *table("key", "type", "default", "meaning", rows)]


class Settings(SphinxDirective):
    """Shows a dataclass and those inside it."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the nodes."""
        module, _, name = self.arguments[0].partition(":")
        lines = [line for each in groups(getattr(import_module(module), name)).items() for line in described(*each)]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


class GenerationSettingsTable(SphinxDirective):
    """Shows the options of a generation, in Python and on the command line."""

    def run(self) -> list[nodes.Node]:
        """Return the nodes."""
        from drivegen.cli.options import flag
        from drivegen.pipeline.option import DIFFUSERS_WORDS
        from drivegen.pipeline.settings import GenerationSettings, options

        theirs = {name: word for word, name in DIFFUSERS_WORDS.items()}
        rows = []
        for name, about in options().items():
            default = GenerationSettings.__dataclass_fields__[name].default
            also = f" (diffusers: `{theirs[name]}`)" if name in theirs else ""
            spelled = f"– ({about.python_only})" if about.python_only else f"`{flag(name, about)}`"
            rows.append(row(f"`{name}`{also}", spelled, "" if default in (None, ()) else f"`{default!r}`", about.help))
        text = "\n".join(table("in Python", "command line", "default", "meaning", rows))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("settings", Settings)
    app.add_directive("generation-settings", GenerationSettingsTable)
    return {"parallel_read_safe": True}
