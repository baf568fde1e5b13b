"""Samplers by name, from the entry points of installed packages; nothing is imported until one is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from drivegen.catalog.construct import construct_plugin
from drivegen.catalog.registry import Entry, claims, imported, settled
from drivegen.support.errors import InputError, nearest

if TYPE_CHECKING:
    from drivegen.plugin.sampler import Sampler

GROUP = "drivegen.samplers"
"""The group of entry points: ``ddim = "drivegen.sampling.samplers:DDIM"``, a name and its `Sampler`."""

_local: dict[str, type[Sampler]] = {}


def register(name: str) -> Callable[[type[Sampler]], type[Sampler]]:
    """Class decorator: offer a sampler of this process under a name; raises InputError when the name is taken."""

    def add(cls: type[Sampler]) -> type[Sampler]:
        if name in claims(GROUP) or (name in _local and _local[name].__qualname__ != cls.__qualname__):
            raise InputError(f"sampler {name!r} is registered already; choose another name for {cls.__qualname__}")
        _local[name] = cls
        return cls

    return add


def offers() -> tuple[Entry, ...]:
    """Return all that is on offer, importing none; one that lost its name to another package says so."""
    local = [Entry(name, f"{cls.__module__}:{cls.__qualname__}", "this process") for name, cls in _local.items()]
    found = [entry for claimed in claims(GROUP).values() for entry in settled(claimed)]
    return tuple(sorted([*found, *local], key=lambda entry: entry.kind))


def load(name: str) -> type[Sampler]:
    """Import and return the class of a sampler; raises InputError with the reason when that cannot be done."""
    from drivegen.plugin.sampler import Sampler

    if isinstance(name, str) and name in _local:
        return _local[name]
    claimed = claims(GROUP)
    if not isinstance(name, str) or name not in claimed:
        if not any(entry.target.startswith("drivegen.sampling.") for entries in claimed.values() for entry in entries):
            raise InputError("no samplers are installed, not even drivegen's own: install drivegen anew (pip install -e .)")
        names = sorted({*claimed, *_local})
        raise InputError(f"no sampler {name!r}; there are {', '.join(names)}{nearest(str(name), names)}")
    return imported(settled(claimed[name])[0], "sampler", Sampler, f"{Sampler.__module__}.Sampler")  # type: ignore


def make(name: str, options: Mapping[str, Any] | None = None, where: str = "sampler_options") -> Sampler:
    """Make a sampler with its options, each known and of its type; raises InputError otherwise.

    Args:
        name: its name here.
        options: by name, plain values; what is missing is the sampler's default.
        where: what the options are called, for the error.
    """
    return construct_plugin(load(name), options or {}, where)
