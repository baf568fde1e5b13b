"""Plugin kinds by name, from the entry points of installed packages; nothing is imported until a kind is used."""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from drivegen.support.errors import InputError, nearest

if TYPE_CHECKING:
    from drivegen.plugin import Plugin

GROUP = "drivegen.plugins"


@dataclass(frozen=True)
class Entry:
    """A kind on offer: where its class is (``module:Class``), which distribution brought it, why it cannot be used."""

    kind: str
    target: str
    origin: str
    problem: str = ""


_local: dict[str, type[Plugin]] = {}


def register(kind: str) -> Callable[[type[Plugin]], type[Plugin]]:
    """Class decorator: offer a plugin class of this process under a kind; raises InputError when the name is taken."""

    def add(cls: type[Plugin]) -> type[Plugin]:
        if kind in _installed() or (kind in _local and _local[kind].__qualname__ != cls.__qualname__):
            raise InputError(f"plugin kind {kind!r} is registered already; choose another name for {cls.__qualname__}")
        _local[kind] = cls
        return cls

    return add


def _installed() -> dict[str, Entry]:
    found: dict[str, list[Entry]] = defaultdict(list)
    for point in entry_points(group=GROUP):
        origin = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
        found[point.name].append(Entry(point.name, point.value, origin))
    out = {}
    for kind, entries in sorted(found.items()):
        distinct = {entry.target: entry for entry in entries}
        first = next(iter(distinct.values()))
        if len(distinct) > 1:
            claims = "; ".join(f"{e.target} ({e.origin})" for e in distinct.values())
            first = Entry(kind, first.target, first.origin, f"the name is claimed more than once: {claims}; uninstall one")
        out[kind] = first
    return out


def kinds() -> dict[str, Entry]:
    """Return every kind on offer by name, importing none."""
    local = {k: Entry(k, f"{c.__module__}:{c.__qualname__}", "this process") for k, c in _local.items()}
    return dict(sorted((_installed() | local).items()))


def load(kind: str) -> type[Plugin]:
    """Import and return the class of a kind; raises InputError with the reason when that cannot be done."""
    if kind in _local:
        return _local[kind]
    offered = kinds()
    if kind not in offered:
        raise InputError(f"no plugin kind {kind!r} is installed; there are {', '.join(offered)}{nearest(kind, offered)}")
    entry = offered[kind]
    if entry.problem:
        raise InputError(f"plugin kind {kind!r} is disabled: {entry.problem}")
    module, _, name = entry.target.partition(":")
    from drivegen.plugin import Plugin

    try:
        cls: Any = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # a broken plugin must break only itself, however it is broken
        raise InputError(
            f"plugin kind {kind!r} ({entry.origin}) cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Plugin)):
        raise InputError(f"plugin kind {kind!r}: {entry.target} is not a drivegen.plugin.Plugin")
    return cls


def kind_of(plugin: Plugin) -> str:
    """Return the kind under which this plugin's class is registered."""
    cls = type(plugin)
    for kind, entry in kinds().items():
        if entry.target == f"{cls.__module__}:{cls.__qualname__}":
            return kind
    raise InputError(
        f"{cls.__module__}:{cls.__qualname__} is registered under no kind; use an entry point or registry.register"
    )
