"""What the installed plugins are, read from their source: nothing is imported, so nothing of theirs runs or breaks."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from drivegen import registry
from drivegen.hooks import HOOKS


@dataclass(frozen=True)
class Listed:
    """One plugin kind: summary is its docstring's first line, parameters as they are written, problem why it cannot be used."""

    kind: str
    summary: str = ""
    hooks: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    origin: str = ""
    target: str = ""
    problem: str = ""


def listed() -> tuple[Listed, ...]:
    """Describe every kind on offer, importing none."""
    return tuple(_read(entry) for entry in registry.kinds().values())


def _read(entry: registry.Entry) -> Listed:
    module, _, name = entry.target.partition(":")
    try:
        if entry.problem:
            raise _Broken(entry.problem)
        path = _find(module)
        tree = _parse(path)
        _check_imports(tree)
        classes = _classes(tree)
        if name not in classes:
            raise _Broken(f"{path} has no class {name}")
    except _Broken as error:
        return Listed(entry.kind, origin=entry.origin, target=entry.target, problem=str(error))
    family = list(_ancestors(classes[name], tree))
    defined = {f.name: f for cls in reversed(family) for f in cls.body if isinstance(f, ast.FunctionDef)}
    hooks = tuple(hook for hook in HOOKS if hook in defined)
    summary = (ast.get_docstring(classes[name]) or "").strip().split("\n")[0]
    return Listed(entry.kind, summary, hooks, _parameters(defined.get("__init__")), entry.origin, entry.target)


class _Broken(Exception):
    """Why a plugin cannot be used."""


def _find(module: str) -> Path:
    """Locate a module's source; only the finders run, never a package's `__init__`."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise _Broken(f"the package {top!r} is not installed")
    if not rest:
        if spec.origin is None:
            raise _Broken(f"the module {top!r} has no source file")
        return Path(spec.origin)
    for folder in spec.submodule_search_locations or ():
        base = Path(folder, *rest)
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
    raise _Broken(f"the module {module!r} is not in the package {top!r}")


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), str(path))
    except (OSError, SyntaxError, ValueError) as error:
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise _Broken(f"{path}{where}: {type(error).__name__}: {reason}") from error


def _check_imports(tree: ast.Module) -> None:
    """Find an import at the module's top that cannot succeed, and a bare raise there."""
    for node in tree.body:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        elif isinstance(node, ast.Raise):
            raise _Broken(f"line {node.lineno} raises on import: {ast.unparse(node)[:120]}")
        for name in names:
            top = name.split(".")[0]
            if importlib.util.find_spec(top) is None:
                raise _Broken(f"line {node.lineno} imports {top!r}, which is not installed")


def _classes(tree: ast.Module) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _ancestors(cls: ast.ClassDef, tree: ast.Module) -> Iterator[ast.ClassDef]:
    """Give a class and those that it inherits from below Plugin, of its own file or imported by name, nearest first."""
    yield cls
    here = _classes(tree)
    froms = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module]
    imported = {alias.asname or alias.name: (str(node.module), alias.name) for node in froms for alias in node.names}
    for base in cls.bases:
        if not isinstance(base, ast.Name) or base.id == cls.name:
            continue
        if base.id in here:
            yield from _ancestors(here[base.id], tree)
        elif base.id in imported and imported[base.id] != ("drivegen.plugin", "Plugin"):
            module, name = imported[base.id]
            try:
                other = _parse(_find(module))
            except _Broken:  # the import itself is checked elsewhere; what it would bring is not known
                continue
            if name in _classes(other):
                yield from _ancestors(_classes(other)[name], other)


def _parameters(init: ast.FunctionDef | None) -> tuple[str, ...]:
    if init is None:
        return ()
    positional = [*init.args.posonlyargs, *init.args.args][1:]
    required: list[ast.expr | None] = [None] * (len(positional) - len(init.args.defaults))
    pairs = list(zip(positional, [*required, *init.args.defaults], strict=True))
    pairs += list(zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True))
    return tuple(arg.arg if default is None else f"{arg.arg}={ast.unparse(default)}" for arg, default in pairs)
