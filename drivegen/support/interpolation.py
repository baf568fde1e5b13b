"""``${a.b}`` in settings: the value of another setting, resolved within bounds of size and depth."""

from __future__ import annotations

import re
from typing import Any

from drivegen.support.errors import InputError, nearest

MAX_SIZE = 500_000
"""Values, and characters of text, that resolving may make in all: a few lines that double each other are gigabytes."""
MAX_DEPTH = 30

_INNERMOST = re.compile(r"\$\{([^${}]*)\}")
_ESCAPED, _DOLLAR = r"\${", "\0"  # a text holds no NUL, so that one can stand for an escaped dollar

Path = tuple[str | int, ...]


def resolve(tree: dict[str, Any], where: str) -> dict[str, Any]:
    r"""Replace ``${a.b}`` (from the root), ``${.b}`` (a neighbour) and ``${..b}`` (the group above) by those settings.

    A text that is one interpolation becomes the value, of any type; within text it is written out; ``\${`` is a plain ``${``.
    Raises InputError for a circle, what is not there, what calls a resolver (they read the environment), and what grows
    beyond MAX_SIZE.
    """
    return _Resolver(tree, where).value(tree, (), ())


class _Resolver:
    def __init__(self, tree: dict[str, Any], where: str) -> None:
        self.tree, self.where, self.left = tree, where, MAX_SIZE

    def value(self, node: Any, path: Path, opened: tuple[Path, ...]) -> Any:
        """Resolve a value that stands at a path; opened are the paths whose texts are being resolved."""
        self.spend(1, path)
        if isinstance(node, dict):
            return {key: self.value(item, (*path, key), opened) for key, item in node.items()}
        if isinstance(node, list):
            return [self.value(item, (*path, i), opened) for i, item in enumerate(node)]
        return self.text(node, path, opened) if isinstance(node, str) else node

    def text(self, text: str, path: Path, opened: tuple[Path, ...]) -> Any:
        if text == "???":
            raise self.refused(path, "is '???', which stands for a value that is still to be given")
        if "${" not in text:
            return text
        if path in opened or len(opened) >= MAX_DEPTH:
            raise self.refused(path, f"{_short(text)} refers to itself: its interpolations go in a circle, or too deep")
        opened, text = (*opened, path), text.replace(_ESCAPED, f"{_DOLLAR}{{")
        for _ in range(MAX_DEPTH):
            if whole := _INNERMOST.fullmatch(text):
                return self.named(whole[1], path, opened)
            found = _INNERMOST.sub(lambda match: self.written(match[1], path, opened), text)
            if found == text:
                break
            self.spend(len(found), path)
            text = found
        if "${" in text:
            raise self.refused(path, f"{_short(text)} has a ${{ that is not closed, or too many in each other")
        return text.replace(_DOLLAR, "$")

    def written(self, name: str, path: Path, opened: tuple[Path, ...]) -> str:
        """Give what `name` refers to, within a text."""
        value = self.named(name, path, opened)
        if isinstance(value, (dict, list)):
            raise self.refused(path, f"puts ${{{name}}}, a {'group' if isinstance(value, dict) else 'list'}, into text")
        written = str(value).replace("${", f"{_DOLLAR}{{")
        self.spend(len(written), path)
        return written

    def named(self, name: str, path: Path, opened: tuple[Path, ...]) -> Any:
        """Give the resolved value that `name` refers to from a path."""
        self.spend(len(name) + 1, path)
        if ":" in name:
            raise self.refused(
                path, f"${{{_short(name)}}} calls a resolver; only ${{other.key}} is allowed, environment access is off"
            )
        keys = name.strip().replace("[", ".").replace("]", "")
        up = len(keys) - len(keys.lstrip("."))
        base = path[: max(0, len(path) - up)] if up else ()
        node: Any = self.tree
        at: Path = ()
        for key in (*base, *keys.lstrip(".").split(".")):
            if isinstance(node, str) and "${" in node:
                node = self.text(node, at, opened)
            here: Any = int(key) if isinstance(node, list) and str(key).isdecimal() and len(str(key)) < 9 else key
            known = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
            if here not in known:
                hint = nearest(str(key), node) if isinstance(node, dict) else ""
                raise self.refused(path, f"${{{_short(name)}}}: there is no setting {_short(str(key))!r}{hint}")
            node, at = node[here], (*at, here)
        return self.value(node, at, opened)

    def spend(self, size: int, path: Path) -> None:
        self.left -= size
        if self.left < 0:
            raise self.refused(path, f"its interpolations grow beyond {MAX_SIZE:,} values and characters")

    def refused(self, path: Path, problem: str) -> InputError:
        return InputError(f"{self.where}: {'.'.join(map(str, path))}: {problem}")


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
