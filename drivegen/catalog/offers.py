"""What installed packages offer under a group of entry points, by name; nothing is imported until one is used."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from drivegen.catalog.construct import construct_plugin
from drivegen.catalog.registry import Entry, claims, imported, settled
from drivegen.support.errors import InputError, nearest

T = TypeVar("T")


class Offers(Generic[T]):
    """A kind of parts that packages offer, such as samplers.

    Args:
        group: of entry points, each a name and its class: ``ddim = "drivegen.sampling.samplers:DDIM"``.
        what: what one is called, in errors: ``sampler``.
        base: the class that each must be derived from, ``module:Class``; imported when one is used.
        own: beginning of the modules of drivegen's own.
        where: what their options are called, in errors; {name} stands for the one's name.
    """

    def __init__(self, group: str, what: str, base: str, own: str, where: str) -> None:
        self.group, self.what, self.base, self.own, self.where = group, what, base, own, where
        self.local: dict[str, type[T]] = {}
        """The classes that were registered in this process, by name."""

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator: offer a class of this process under a name; raises InputError when the name is taken."""

        def add(cls: type[T]) -> type[T]:
            base = self._base()
            if not (isinstance(cls, type) and issubclass(cls, base)):
                raise InputError(f"{self.what} {name!r} is given to {cls!r}; it decorates a class of {_path(base)}")
            if name in claims(self.group) or (name in self.local and self.local[name].__qualname__ != cls.__qualname__):
                raise InputError(f"{self.what} {name!r} is registered already; choose another name for {cls.__qualname__}")
            self.local[name] = cls
            return cls

        return add

    def offers(self) -> tuple[Entry, ...]:
        """Return all that is on offer, importing none; one that lost its name to another package says so."""
        local = [Entry(name, f"{cls.__module__}:{cls.__qualname__}", "this process") for name, cls in self.local.items()]
        found = [entry for claimed in claims(self.group).values() for entry in settled(claimed)]
        return tuple(sorted([*found, *local], key=lambda entry: entry.kind))

    def load(self, name: str) -> type[T]:
        """Import and return the class of a name; raises InputError with the reason when that cannot be done."""
        if isinstance(name, str) and name in self.local:
            return self.local[name]
        claimed, what = claims(self.group), self.what
        if not isinstance(name, str) or name not in claimed:
            if not any(entry.target.startswith(self.own) for entries in claimed.values() for entry in entries):
                raise InputError(f"no {what}s are installed, not even drivegen's own: install drivegen anew (pip install -e .)")
            names = sorted({*claimed, *self.local})
            raise InputError(f"no {what} {name!r}; there are {', '.join(names)}{nearest(str(name), names)}")
        base = self._base()
        return imported(settled(claimed[name])[0], what, base, _path(base))

    def make(self, name: str, options: Mapping[str, Any] | None = None, where: str | None = None) -> T:
        """Make one with its options, each known and of its type; raises InputError otherwise.

        Args:
            name: its name here.
            options: by name, plain values; what is missing is its default.
            where: what the options are called, for the error; None is as this kind says.
        """
        return construct_plugin(self.load(name), options or {}, where or self.where.format(name=name))

    def _base(self) -> type[T]:
        found: type[T] = pkgutil.resolve_name(self.base)
        return found


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
