"""Resolves names in a module from source files: nothing is imported, so nothing runs or breaks."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


class Missing(Exception):
    """Something that certainly does not exist, or cannot be read."""


class Unclear(Exception):
    """Something that cannot be known without running the code."""


class Sourceless(Unclear):
    """A module without Python source: compiled, or a folder."""


_MORE_NAMES = re.compile(rb"^def __getattr__|\b(?:globals|locals|vars|exec|setattr)\(|\bsys\.modules\b", re.MULTILINE)
_MORE_MODULES = re.compile(rb"\bsys\.modules\b|\b__path__\b")
"""Signs of a module that has more names, or of a package that has more modules, than its files show."""


@dataclass(frozen=True, eq=False)
class Module:
    """A module's source: the statements that bind each top-level name, the modules of its star imports, and whether it may hold
    more.
    """

    name: str
    path: Path
    tree: ast.Module
    bindings: dict[str, list[ast.stmt]]
    stars: tuple[str, ...]
    dynamic: bool

    def target(self, node: ast.ImportFrom) -> str:
        """Return the whole name of the module that a ``from`` imports from."""
        if not node.level:
            return str(node.module)
        package = self.name.split(".") if self.path.name == "__init__.py" else self.name.split(".")[:-1]
        kept = package[: len(package) + 1 - node.level]
        return ".".join([*kept, *([node.module] if node.module else [])])


@dataclass(frozen=True, eq=False)
class Class:
    """A class statement, and the module that contains it."""

    module: Module
    node: ast.ClassDef

    @property
    def names(self) -> tuple[str, str]:
        """Its module's name and its own."""
        return self.module.name, self.node.name


class Reader:
    """Reads the sources of modules, each once."""

    def __init__(self) -> None:
        self._modules: dict[str, Module] = {}
        self._exist: dict[str, bool | None] = {}

    def exists(self, module: str) -> bool | None:
        """Tell whether a module exists, looked for once; None where only running its package would tell."""
        if module not in self._exist:
            self._exist[module] = exists(module)
        return self._exist[module]

    def module(self, name: str) -> Module:
        """Read a module; raises Missing or Unclear."""
        if name not in self._modules:
            path = find(name)
            tree, raw = _parse(path)
            bindings: dict[str, list[ast.stmt]] = {}
            found = Module(name, path, tree, bindings, (), _MORE_NAMES.search(raw) is not None)
            stars = []
            for node in statements(tree.body):
                for bound in _bound(node):
                    bindings.setdefault(bound, []).append(node)
                if "*" in _bound(node) and isinstance(node, ast.ImportFrom):
                    stars.append(found.target(node))
            self._modules[name] = Module(name, path, tree, bindings, tuple(stars), found.dynamic)
        return self._modules[name]

    def look_up(self, module: str, name: str, seen: tuple[tuple[str, str], ...] = ()) -> Class:
        """Follow a name of a module to its class, through imports and assignments; raises Missing or Unclear.

        Args:
            module: where the name is used.
            name: the name.
            seen: (module, name) pairs already followed, to find circles.
        """
        if (module, name) in seen:
            raise Missing(f"{module} imports {name} from itself")
        source, seen = self.module(module), (*seen, (module, name))
        failures: list[Missing | Unclear] = []
        for node in source.bindings.get(name, ()):
            try:
                return self._follow(source, name, node, seen)
            except (Missing, Unclear) as error:
                failures.append(error)
        for star in source.stars:
            try:
                return self.look_up(star, name, seen)
            except Unclear as error:
                failures.append(error)
            except Missing:
                pass
        unclear = next((error for error in failures if isinstance(error, Unclear)), None)
        if unclear or (source.dynamic and not failures):
            raise unclear or Unclear(f"what {name} is in {source.path} is known only when it runs")
        raise failures[0] if failures else Missing(f"{source.path} has no class {name}")

    def _follow(self, source: Module, name: str, node: ast.stmt, seen: tuple[tuple[str, str], ...]) -> Class:
        if isinstance(node, ast.ClassDef):
            return Class(source, node)
        if isinstance(node, ast.ImportFrom):
            original = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
            return self.look_up(source.target(node), original, seen)
        value = getattr(node, "value", None)
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(value, ast.expr):
            return self.evaluate(source, value, seen)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Import)):
            raise Missing(f"{source.path}, line {node.lineno}: {name} is no class")
        raise Unclear(f"{source.path}, line {node.lineno}: what {name} is, is known only when it runs")

    def evaluate(self, source: Module, value: ast.expr, seen: tuple[tuple[str, str], ...] = ()) -> Class:
        """Follow an expression to its class: a name, a dotted name, or one with type arguments.

        Args:
            source: the module of the expression.
            value: the expression.
            seen: (module, name) pairs already followed, to find circles.
        """
        if isinstance(value, ast.Name):
            return self.look_up(source.name, value.id, seen)
        if isinstance(value, ast.Subscript):
            return self.evaluate(source, value.value, seen)
        if isinstance(value, ast.Attribute):
            return self.look_up(self._module_of(source, value.value), value.attr, seen)
        raise Unclear(f"{source.path}, line {value.lineno}: what {ast.unparse(value)[:60]} is, is known only when it runs")

    def _module_of(self, source: Module, value: ast.expr) -> str:
        if isinstance(value, ast.Attribute):
            return f"{self._module_of(source, value.value)}.{value.attr}"
        for node in source.bindings.get(value.id, ()) if isinstance(value, ast.Name) else ():
            for alias in node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else ():
                if isinstance(node, ast.ImportFrom) and (alias.asname or alias.name) == ast.unparse(value):
                    return f"{source.target(node)}.{alias.name}"
                if isinstance(node, ast.Import) and (alias.asname or alias.name.split(".")[0]) == ast.unparse(value):
                    return alias.name if alias.asname else alias.name.split(".")[0]
        raise Unclear(f"{source.path}, line {value.lineno}: what {ast.unparse(value)[:60]} is, is known only when it runs")

    def ancestors(self, cls: Class, last: tuple[str, str], seen: tuple[ast.ClassDef, ...] = ()) -> Iterator[Class | Unclear]:
        """Yield a class and its bases, nearest first; an Unclear replaces a base that cannot be followed.

        Args:
            cls: the class.
            last: (module, name) of the class beyond which nothing is yielded.
            seen: classes already passed, to find circles.
        """
        if cls.node in seen:
            return
        yield cls
        for base in cls.node.bases if cls.names != last else ():
            if isinstance(base, ast.Name) and hasattr(builtins, base.id) and base.id not in cls.module.bindings:
                continue
            try:
                parent = self.evaluate(cls.module, base)
            except Unclear as error:
                yield error
            except Missing as error:  # whether its import can succeed is asked elsewhere
                yield Unclear(str(error))
            else:
                yield from self.ancestors(parent, last, (*seen, cls.node))

    def constant(self, module: str, name: str) -> tuple[str, ...]:
        """Read a constant that a module defines as a tuple of texts."""
        for node in self.module(module).bindings[name]:
            if isinstance(node, ast.Assign):
                return tuple(ast.literal_eval(node.value))
        raise Missing(f"{module} has no constant {name}")

    def has(self, module: str, name: str) -> bool:
        """Tell whether a module can hold a name: False only where it certainly does not."""
        try:
            source = self.module(module)
        except Unclear:
            return True
        if name in source.bindings or source.dynamic or name.startswith("__"):
            return True
        if source.path.name == "__init__.py" and self.exists(f"{module}.{name}") is not False:
            return True
        return any(self.has(star, name) for star in source.stars if star != module)


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that a module's own code runs, also inside try, if, with and loops, but not inside functions."""
    for node in body:
        yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        for part in ("body", "orelse", "finalbody"):
            yield from statements(getattr(node, part, []))
        for handler in getattr(node, "handlers", []):
            yield from statements(handler.body)


def _bound(node: ast.stmt) -> list[str]:
    """Names that a statement binds."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.Import):
        return [alias.asname or alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    walked = (inner for target in targets if target is not None for inner in ast.walk(target))
    return [inner.id for inner in walked if isinstance(inner, ast.Name)]


def exists(module: str) -> bool | None:
    """Tell whether a module exists; None where only running its package would tell."""
    try:
        find(module)
    except Missing:
        return False
    except Sourceless:
        return True
    except Unclear:
        return None
    return True


def find(module: str) -> Path:
    """Locate a module's source; only the finders run, never a package's `__init__`. Raises Missing or Unclear."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise Missing(f"the package {top!r} is not installed")
    if not rest:
        if spec.origin is None or not spec.origin.endswith(".py"):
            raise Sourceless(f"the module {top!r} has no Python source")
        return Path(spec.origin)
    folders = [Path(folder, *rest) for folder in spec.submodule_search_locations or ()]
    for base in folders:
        for path in (base.with_name(f"{base.name}.py"), base / "__init__.py"):
            if path.is_file():
                return path
        if base.is_dir() or any(base.parent.glob(f"{base.name}.*.so")):
            raise Sourceless(f"the module {module!r} has no Python source")
    parent = module.rpartition(".")[0]
    if spec.submodule_search_locations is None or _may_hold_more(parent):
        raise Unclear(f"whether there is a module {module!r} is known only when {parent!r} runs")
    raise Missing(f"the module {module!r} is not in the package {parent!r}")


def _may_hold_more(module: str) -> bool:
    """Tell whether a package, or one that it is in, could hold modules that have no file."""
    try:
        more = _MORE_MODULES.search(find(module).read_bytes()) is not None
    except (Unclear, OSError):
        return True
    except Missing:
        return False
    return more or ("." in module and _may_hold_more(module.rpartition(".")[0]))


def _parse(path: Path) -> tuple[ast.Module, bytes]:
    try:
        raw = path.read_bytes()
        return ast.parse(raw, str(path)), raw
    except (OSError, SyntaxError, ValueError) as error:
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise Missing(f"{path}{where}: {type(error).__name__}: {reason}") from error
