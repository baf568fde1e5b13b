"""The source files behind a module: its own, and all that it imports within drivegen and within its own package.

Read from the sources: nothing is imported, so nothing runs. What a module imports by a name that only running it would tell,
and what it reads from files that are no Python, is not seen.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from drivegen.catalog.python_source import Missing, Unclear, find

HOUSE = "drivegen"


def source_closure(modules: Iterable[str]) -> dict[str, Path]:
    """Return the source files of modules and of what they import, by module name.

    Imports are followed within drivegen and within the top-level packages of the modules given; for one that is a single file
    of its own, also to the modules beside it. Imports for type checkers alone are not followed.
    """
    roots = list(dict.fromkeys(modules))
    within = _Within(roots)
    found: dict[str, Path] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        path = None if name in found else locate(name)
        if path is None or name not in within:
            continue
        found[name] = path
        waiting += imports(name, path, within)
    return found


class _Within(Container[str]):
    """The modules whose sources count."""

    def __init__(self, roots: list[str]) -> None:
        self.packages = {HOUSE} | {_real_name(name).split(".")[0] for name in roots} | set(roots)
        self.folders: set[Path] = set()
        for name in roots:
            path = locate(name)
            single = path is not None and "." not in _real_name(name) and path.name != "__init__.py"
            if path is not None and single and not installed(path):
                self.folders.add(path.parent)

    def __contains__(self, name: object) -> bool:
        top = str(name).split(".")[0]
        if top in self.packages:
            return True
        path = locate(top) if self.folders else None
        return path is not None and (path.parent in self.folders or path.parent.parent in self.folders)


def installed(path: Path) -> bool:
    """Tell whether a file belongs to an installed package rather than to a user's own folder."""
    return bool({"site-packages", "dist-packages"} & set(path.parts))


def _real_name(name: str) -> str:
    """Return the name under which ``python -m`` found the module that is ``__main__`` now."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return str(spec.name) if name == "__main__" and spec is not None else name


def locate(name: str) -> Path | None:
    """Return a module's file, None where it has none: built in, a notebook's, or not a module."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        file = getattr(loaded, "__file__", None)
        return Path(file) if file and Path(file).is_file() else None
    try:
        return find(name)
    except (Missing, Unclear, ValueError):
        return None


def imports(name: str, path: Path, within: Container[str]) -> Iterator[str]:
    """Name the modules that a module's source imports, anywhere in it.

    Args:
        name: the module's.
        path: its source.
        within: the modules that count; of others, and of what is no module, some may be named too.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):  # compiled
        return
    aliases: dict[str, str] = {}
    for node in _running(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in within:
                    first = alias.name.split(".")[0]
                    aliases[alias.asname or first] = alias.name if alias.asname else first
                    yield alias.name
        elif isinstance(node, ast.ImportFrom):
            base = _target(name, path, node)
            for alias in node.names if base in within else ():
                module = f"{base}.{alias.name}"
                if alias.name != "*" and locate(module) is not None:
                    aliases[alias.asname or alias.name] = module
                    yield module
                else:
                    yield base
    for node in _running(tree):  # `import package`, and later `package.part.function`
        if isinstance(node, ast.Attribute):
            yield from _dotted(node, aliases)


def _dotted(node: ast.Attribute, aliases: dict[str, str]) -> Iterator[str]:
    parts: list[str] = []
    inner: ast.expr = node
    while isinstance(inner, ast.Attribute):
        parts.insert(0, inner.attr)
        inner = inner.value
    if isinstance(inner, ast.Name) and inner.id in aliases:
        module = aliases[inner.id]
        for part in parts:
            module = f"{module}.{part}"
            if locate(module) is None:
                return
            yield module


def _target(name: str, path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return str(node.module)
    package = _real_name(name).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    kept = package[: len(package) + 1 - node.level]
    return ".".join([*kept, *([node.module] if node.module else [])])


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what can run: names under TYPE_CHECKING are for readers and type checkers."""
    yield node
    for child in ast.iter_child_nodes(node):
        checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
        for part in child.orelse if isinstance(child, ast.If) and checking else [child]:
            yield from _running(part)
