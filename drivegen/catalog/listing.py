"""What is installed (plugins, samplers, objectives, tuners, exporters), read from the source: none of it is imported or run."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass

from drivegen.catalog import formats, objectives, registry, samplers, tuners
from drivegen.catalog.python_source import Class, Missing, Module, Reader, Unclear


@dataclass(frozen=True)
class Listed:
    """One plugin kind, sampler, objective, tuner or exporter.

    summary is its docstring's first paragraph, parameters are as they are written; problem says why it cannot be used,
    unchecked what could not be found out without importing it.
    """

    kind: str
    summary: str = ""
    hooks: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    origin: str = ""
    target: str = ""
    problem: str = ""
    unchecked: str = ""


_PLUGIN = ("drivegen.plugin.contract", "Plugin")
_SAMPLER = ("drivegen.plugin.sampler", "Sampler")
_OBJECTIVE = ("drivegen.objectives.contract", "Objective")
_TUNER = ("drivegen.plugin.tuner", "Tuner")
_EXPORTER = ("drivegen.export.contract", "Exporter")
_HOOKS = ("drivegen.plugin.hooks", "HOOKS")


def listed() -> tuple[Listed, ...]:
    """Describe all plugins that are on offer, importing nothing."""
    return _all(registry.offers(), _PLUGIN)


def listed_samplers() -> tuple[Listed, ...]:
    """Describe all samplers that are on offer, importing nothing; parameters are their options."""
    return _all(samplers.offers(), _SAMPLER)


def listed_objectives() -> tuple[Listed, ...]:
    """Describe all objectives that are on offer, importing nothing; parameters are their options."""
    return _all(objectives.offers(), _OBJECTIVE)


def listed_tuners() -> tuple[Listed, ...]:
    """Describe all tuners that are on offer, importing nothing; parameters are their options."""
    return _all(tuners.offers(), _TUNER)


def listed_exporters() -> tuple[Listed, ...]:
    """Describe all formats that are on offer, importing nothing; parameters are their options."""
    return _all(formats.offers(), _EXPORTER)


def _all(entries: Iterable[registry.Entry], base: tuple[str, str]) -> tuple[Listed, ...]:
    imports = _Imports(Reader())  # shared: what they import is nearly the same
    return tuple(_read(entry, base, imports) for entry in entries)


def _read(entry: registry.Entry, base: tuple[str, str], imports: _Imports) -> Listed:
    module, _, name = entry.target.partition(":")
    reader = imports.reader
    try:
        if entry.problem:
            raise Missing(entry.problem)
        imports.check(module)
        cls = reader.look_up(module, name)
        family = list(reader.ancestors(cls, base))
        classes = [each for each in family if isinstance(each, Class)]
        doubt = next((str(each) for each in family if isinstance(each, Unclear)), "")
        if base in (each.names for each in classes):
            doubt = ""
        elif not doubt:
            raise Missing(f"{entry.target} is not a {'.'.join(base)}")
    except Missing as error:
        return Listed(entry.kind, origin=entry.origin, target=entry.target, problem=str(error))
    except Unclear as error:
        return Listed(entry.kind, origin=entry.origin, target=entry.target, unchecked=str(error))
    own = [each.node for each in classes if each.names != base]
    defined = {f.name: f for node in reversed(own) for f in node.body if isinstance(f, ast.FunctionDef)}
    hooks = tuple(hook for hook in reader.constant(*_HOOKS) if hook in defined)
    summary = " ".join((ast.get_docstring(cls.node) or "").strip().split("\n\n")[0].split())
    return Listed(entry.kind, summary, hooks, _parameters(defined.get("__init__")), entry.origin, entry.target, unchecked=doubt)


class _Imports:
    """Finds what cannot succeed when a module is imported; each module is looked at once."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._passed: dict[tuple[str, str], list[str]] = {}

    def check(self, entry: str) -> None:
        """Check a module and those of its package that come along; raises Missing where one cannot be imported.

        Only statements at the top of a module are checked: inside try and if there may be an alternative.
        """
        own = entry.split(".")[0]
        waiting, seen = _with_parents(entry), set[str]()
        while waiting:
            name = waiting.pop(0)
            if name not in seen:
                seen.add(name)
                waiting += self._of_its_package(name, own, entry)

    def _of_its_package(self, name: str, own: str, entry: str) -> list[str]:
        if (name, own) in self._passed:
            return self._passed[name, own]
        try:
            source = self.reader.module(name)
        except Unclear:
            return []
        found: list[str] = []
        for node in source.tree.body:
            where = f"line {node.lineno}" if name == entry else f"{source.path}, line {node.lineno}"
            if isinstance(node, ast.Raise):
                raise Missing(f"{where} raises on import: {ast.unparse(node)[:120]}")
            for module in self._modules(source, node, where, own):
                if module.split(".")[0] == own:
                    found += _with_parents(module)
        self._passed[name, own] = list(dict.fromkeys(found))
        return self._passed[name, own]

    def _modules(self, source: Module, node: ast.stmt, where: str, own: str) -> list[str]:
        """Return the modules that a statement imports; raises Missing where it cannot."""
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [source.target(node)]
        else:
            return []
        exists = self.reader.exists
        for module in modules:
            if exists(module.split(".")[0]) is False:
                raise Missing(f"{where} imports {module.split('.')[0]!r}, which is not installed")
            if exists(module) is False:
                raise Missing(f"{where} imports {module!r}, which is not there")
        # What other packages hold is known when they run; ours and the plugin's own are plain enough to be read.
        if isinstance(node, ast.ImportFrom) and modules[0].split(".")[0] in (own, __name__.split(".")[0]):
            for alias in node.names:
                if alias.name != "*" and not self.reader.has(modules[0], alias.name):
                    raise Missing(f"{where} imports {alias.name!r} from {modules[0]!r}, which has none")
                if exists(f"{modules[0]}.{alias.name}"):
                    modules.append(f"{modules[0]}.{alias.name}")
        return modules


def _with_parents(module: str) -> list[str]:
    """Name the packages that a module is in, from the top, and the module itself: what an import of it runs."""
    parts = module.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts) + 1)]


def _parameters(init: ast.FunctionDef | None) -> tuple[str, ...]:
    if init is None:
        return ()
    positional = [*init.args.posonlyargs, *init.args.args][1:]
    required: list[ast.expr | None] = [None] * (len(positional) - len(init.args.defaults))
    pairs = list(zip(positional, [*required, *init.args.defaults], strict=True))
    pairs += list(zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True))
    return tuple(arg.arg if default is None else f"{arg.arg}={ast.unparse(default)}" for arg, default in pairs)
