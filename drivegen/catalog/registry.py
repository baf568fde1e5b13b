"""Plugin kinds by name, from the entry points of installed packages; nothing is imported until a kind is used."""

from __future__ import annotations

import functools
import importlib
import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import TYPE_CHECKING, Any, TypeVar

from drivegen.support.errors import InputError, nearest

if TYPE_CHECKING:
    from drivegen.plugin import Plugin

T = TypeVar("T")

GROUP = "drivegen.plugins"

OWN = "drivegen"
"""The distribution whose kinds no other can take over."""

_ORIGIN = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?) ([0-9][A-Za-z0-9.+!-]*)")
"""A distribution's name and version, and nothing that a shell would take for more."""


@dataclass(frozen=True)
class Entry:
    """An available kind: where its class is (``module:Class``), which distribution provides it, why it cannot be used."""

    kind: str
    target: str
    origin: str
    problem: str = ""


_local: dict[str, type[Plugin]] = {}


def register(kind: str) -> Callable[[type[Plugin]], type[Plugin]]:
    """Class decorator that offers a plugin class of this process under a kind; raises InputError when the name is taken."""
    if not isinstance(kind, str):
        raise InputError(f'register is given {getattr(kind, "__name__", kind)!r} and no name; write @register("my_kind")')
    if not kind.isidentifier():
        raise InputError(f"plugin kind {kind!r} must be an identifier (letters, digits, underscores)")

    def add(cls: type[Plugin]) -> type[Plugin]:
        from drivegen.plugin import Plugin

        if not (isinstance(cls, type) and issubclass(cls, Plugin)):
            said = f"the class {cls.__name__}" if isinstance(cls, type) else f"a {type(cls).__name__}"
            raise InputError(f"plugin kind {kind!r} is given to {said}; it decorates a class of drivegen.plugin.Plugin")
        if kind in _installed() or (kind in _local and _local[kind].__qualname__ != cls.__qualname__):
            raise InputError(f"plugin kind {kind!r} is registered already; choose another name for {cls.__qualname__}")
        _local[kind] = cls
        return cls

    return add


def claims(group: str = GROUP) -> dict[str, list[Entry]]:
    """Read the entry points of installed packages: every class that is offered under a name of a group, once each."""
    return {kind: list(entries) for kind, entries in _claims(group, _installations()).items()}


@functools.lru_cache(maxsize=32)
def _claims(group: str, installations: Hashable) -> dict[str, tuple[Entry, ...]]:
    """Read them where the installations are others than before: it takes ten milliseconds, and happens all the time."""
    found: dict[str, dict[str, Entry]] = defaultdict(dict)
    origins: dict[int, str] = {}
    for point in entry_points(group=group):
        dist = point.dist
        if dist is not None and id(dist) not in origins:
            about = dist.metadata
            origins[id(dist)] = f"{about['Name']} {about['Version']}"
        found[point.name].setdefault(point.value, Entry(point.name, point.value, origins.get(id(dist), "unknown")))
    return {kind: tuple(entries.values()) for kind, entries in sorted(found.items())}


def _installations() -> Hashable:
    """Return what differs once a package has come or gone: the folders that imports search, and when each was changed."""
    folders: list[tuple[object, ...]] = []
    for path in sys.path:
        try:
            found = os.stat(path or os.curdir)
        except OSError:
            folders.append((path,))
        else:
            folders.append((path, found.st_dev, found.st_ino, found.st_mtime_ns))
    return tuple(folders), tuple(map(id, sys.meta_path))


def settled(claimed: list[Entry], saved_with: str = "") -> list[Entry]:
    """Settle who may use a kind that several packages claim, the winner first; the others' entries say why they cannot.

    The package that a model was saved with wins, then drivegen's own; without either the kind cannot be used.
    """
    if len(claimed) == 1:
        return claimed
    said = "; ".join(f"{e.target} ({e.origin})" for e in claimed)
    packages = [_package(e.origin) for e in claimed]
    wanted = next((name for name in (_package(saved_with), OWN) if name in packages), None)
    winner = None if wanted is None else claimed[packages.index(wanted)]
    to_do = "uninstall one" if winner is None else f"{winner.origin} keeps it; ask the other's author for another name"
    rest = [replace(e, problem=f"the name is claimed more than once: {said}; {to_do}") for e in claimed if e is not winner]
    return rest if winner is None else [winner, *rest]


def _package(origin: str) -> str:
    """Return the distribution's name in ``name version``, spelt as package indices spell it."""
    return re.sub(r"[-_.]+", "-", origin.split(" ")[0]).lower()


def _installed() -> dict[str, Entry]:
    return {kind: settled(entries)[0] for kind, entries in claims().items()}


def kinds() -> dict[str, Entry]:
    """Return every available kind by name, importing none."""
    local = {k: Entry(k, f"{c.__module__}:{c.__qualname__}", "this process") for k, c in _local.items()}
    return dict(sorted((_installed() | local).items()))


def offers() -> tuple[Entry, ...]:
    """Return every entry, also those whose name belongs to another package."""
    lost = {kind: settled(entries)[1:] for kind, entries in claims().items()}
    return tuple(entry for kind, first in kinds().items() for entry in (first, *lost.get(kind, ())))


def load(kind: str, saved_with: str = "") -> type[Plugin]:
    """Import and return the class of a kind; raises InputError with the reason when that cannot be done.

    Args:
        kind: the name.
        saved_with: the package and version that a saved plugin names. It decides where several packages claim the kind, and is
            named in the error where none is installed; nothing else is imported because of it.
    """
    if kind in _local:
        return _local[kind]
    offered = kinds()
    if kind not in offered:
        others = f"there are {', '.join(offered)}{nearest(kind, offered)}"
        raise InputError(f"no plugin kind {kind!r} is installed; {_how_to_get(saved_with) or others}")
    entry = settled(claims()[kind], saved_with)[0]
    from drivegen.plugin import Plugin

    return imported(entry, "plugin kind", Plugin, "drivegen.plugin.Plugin")


def imported(entry: Entry, what: str, base: type[T], where: str) -> type[T]:
    """Import the class of an entry; raises InputError with the reason when that cannot be done.

    Args:
        entry: what is offered.
        what: what it is, for the error: "plugin kind".
        base: the class that it must be derived from.
        where: where that class is imported from.
    """
    if entry.problem:
        raise InputError(f"{what} {entry.kind!r} is disabled: {entry.problem}")
    module, _, name = entry.target.partition(":")
    try:
        cls: Any = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # what is broken must break only itself, however it is broken
        raise InputError(
            f"{what} {entry.kind!r} ({entry.origin}) cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise InputError(f"{what} {entry.kind!r}: {entry.target} is not a {where}")
    return cls


def _how_to_get(saved_with: str) -> str:
    """Say how to get the package that a saved plugin names, or nothing where it names none."""
    if saved_with == "this process":
        return "it was registered by the program that saved it: import the module that registers it first"
    match = _ORIGIN.fullmatch(saved_with)
    if match is None:
        return ""
    try:
        here = version(match[1])
    except PackageNotFoundError:
        return f"it was saved with {saved_with}: pip install {match[1]}"
    return f"it was saved with {saved_with}, and {match[1]} {here} does not offer it: pip install {match[1]}=={match[2]}"


def entry_of(plugin: Plugin) -> Entry:
    """Return the entry of this plugin's class; raises InputError where there is none."""
    cls = type(plugin)
    target = f"{cls.__module__}:{cls.__qualname__}"
    for entry in offers():
        if entry.target == target:
            return entry
    raise InputError(f"{target} is registered under no kind; use an entry point or registry.register")


def kind_of(plugin: Plugin) -> str:
    """Return the kind under which this plugin's class is registered."""
    return entry_of(plugin).kind
