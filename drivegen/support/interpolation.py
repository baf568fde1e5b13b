"""``${a.b}`` in settings: OmegaConf inserts another setting's value, after a check of how large the result would be."""

from __future__ import annotations

import re
from typing import Any

from drivegen.support.errors import InputError, nearest

MAX_SIZE = 500_000
"""Values, and characters of text, that resolving may make in all: a few lines that double each other are gigabytes."""
MAX_DEPTH = 30
"""How many settings may refer to each other in a row."""

_REFERENCE = re.compile(r"(?<!\\)\$\{([^${}]*)\}")
_OPEN = re.compile(r"(?<!\\)\$\{")

Path = tuple[str | int, ...]


def resolve(tree: dict[str, Any], where: str) -> dict[str, Any]:
    r"""Replace ``${a.b}`` (from the root), ``${.b}`` (same group), ``${..b}`` (parent group) by those settings.

    A text that is one interpolation becomes the value, of any type; within a longer text the value is written out; ``\${`` is a
    plain ``${``.

    Raises InputError for a circle, a missing setting, a resolver (they read the environment), an interpolation within another,
    and a result beyond MAX_SIZE: OmegaConf has no bounds of its own, and 766 bytes can fill a memory.
    """
    try:
        _Sizes(tree, where).of(tree, ())
    except RecursionError as error:
        raise InputError(f"{where}: its interpolations go in a circle, or too deep") from error
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        resolved: Any = OmegaConf.to_container(OmegaConf.create(tree), resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, RecursionError, ValueError) as error:
        raise InputError(f"{where}: {str(error).splitlines()[0] or type(error).__name__}") from error
    return dict(resolved)


class _Sizes:
    """How much each setting becomes when everything that it refers to is put in; each is looked at once."""

    def __init__(self, tree: dict[str, Any], where: str) -> None:
        self.tree, self.where = tree, where
        self.known: dict[Path, int] = {}
        self.opened: list[Path] = []

    def of(self, node: Any, path: Path) -> int:
        """Give the size of a value that stands at a path; raises InputError where it is beyond MAX_SIZE, or no size at all."""
        if path in self.known:
            return self.known[path]
        if path in self.opened or len(self.opened) > 2 * MAX_DEPTH:
            raise self.refused(path, "refers to itself: its interpolations go in a circle, or too deep")
        self.opened.append(path)
        size = 1
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, item in items:
            size += self.of(item, (*path, key))
        if isinstance(node, str):
            size += self._of_text(node, path)
        self.opened.pop()
        if size > MAX_SIZE:
            raise self.refused(path, f"its interpolations grow beyond {MAX_SIZE:,} values and characters")
        self.known[path] = size
        return size

    def _of_text(self, text: str, path: Path) -> int:
        if text == "???":
            raise self.refused(path, "is '???', which stands for a value that is still to be given")
        found = list(_REFERENCE.finditer(text))
        if len(found) != sum(1 for _ in _OPEN.finditer(text)):
            raise self.refused(path, f"{_short(text)} has a ${{ that is not closed, or one within another")
        size = len(text)
        for match in found:
            value, at = self._named(match[1], path)
            whole = match[0] == text
            if not whole and isinstance(value, (dict, list)):
                raise self.refused(path, f"puts {match[0]}, a {'group' if isinstance(value, dict) else 'list'}, into text")
            size += self.of(value, at)
        return size

    def _named(self, name: str, path: Path) -> tuple[Any, Path]:
        """Find what `name` refers to from a path: the value as it is written, and where it stands."""
        if ":" in name:
            raise self.refused(
                path, f"${{{_short(name)}}} calls a resolver; only ${{other.key}} is allowed, environment access is off"
            )
        keys = name.strip().replace("[", ".").replace("]", "")
        up = len(keys) - len(keys.lstrip("."))
        at: Path = path[: max(0, len(path) - up)] if up else ()
        node: Any = self.tree
        for key in at:
            node = node[key]
        for key in keys.lstrip(".").split("."):
            for _ in range(MAX_DEPTH):  # a group that is itself an interpolation
                whole = _REFERENCE.fullmatch(node) if isinstance(node, str) else None
                if whole is None:
                    break
                node, at = self._named(whole[1], at)
            here: Any = int(key) if isinstance(node, list) and key.isdecimal() and len(key) < 9 else key
            there = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
            if here not in there:
                hint = nearest(key, node) if isinstance(node, dict) else ""
                raise self.refused(path, f"${{{_short(name)}}}: there is no setting {_short(key)!r}{hint}")
            node, at = node[here], (*at, here)
        return node, at

    def refused(self, path: Path, problem: str) -> InputError:
        return InputError(f"{self.where}: {'.'.join(map(str, path)) or 'all of it'}: {problem}")


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
