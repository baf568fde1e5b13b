"""Docstrings are plain text with names in backticks: what reStructuredText would read as markup elsewhere is escaped."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

CODE = re.compile(r"(``.*?``|`[^`]*`)")
MARKUP = re.compile(r"[*|]|(?<=\w)_(?=\W|$)")


def plain(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape markup outside of code, and put a blank line before and after an indented block."""
    text = "\n".join(lines)
    parts = CODE.split(text)
    parts[::2] = [MARKUP.sub(r"\\\g<0>", part) for part in parts[::2]]
    # "`name`s" is a plural; in reStructuredText a name must end at a blank or a full stop.
    parts[2::2] = [f"\\ {part}" if part[:1].isalnum() else part for part in parts[2::2]]
    parts[:-1:2] = [f"{part}\\ " if part[-1:].isalnum() else part for part in parts[:-1:2]]
    out: list[str] = []
    for line in "".join(parts).split("\n"):
        before = out[-1] if out else ""
        deeper, shallower = indent(line) > indent(before), indent(line) < indent(before)
        if line.strip() and before.strip() and (shallower or deeper) and not re.match(r"\s*(Args|Raises|[\w, *\\]+):", before):
            out.append("")
        out.append(line)
    lines[:] = out


def signature(app: Sphinx, what: str, name: str, obj: Any, options: Any, text: str | None, returns: str | None) -> Any:
    """Write a default that a function makes as "…", so that the rest of the signature is understood."""
    return (text.replace("<factory>", "..."), returns) if text and "<factory>" in text else None


def dashes(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put a dash between a parameter and what it is, where Sphinx has two hyphens for its own typography."""
    for text in list(doctree.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" – "))


def indent(line: str) -> int:
    """Return how far a line is indented."""
    return len(line) - len(line.lstrip())


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx, before napoleon reads the lists of arguments."""
    app.connect("autodoc-process-docstring", plain, priority=400)
    app.connect("autodoc-process-signature", signature)
    app.connect("doctree-resolved", dashes)
    return {"parallel_read_safe": True}
