"""Typed access to a foreign configuration: a wrong value raises an error that names file, key and value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from drivegen.support.errors import InputError, nearest


@dataclass(frozen=True, eq=False)
class Settings:
    """An object of a JSON file: `where` names the file, `path` the keys that lead to an object inside of it."""

    values: Mapping[str, Any]
    where: str
    path: str = ""

    @classmethod
    def of(cls, values: Any, where: str) -> Settings:
        """Take a whole file's content; raises InputError unless it is an object."""
        if not isinstance(values, dict):
            raise InputError(f"{where} must hold an object, not {type(values).__name__}")
        return cls(values, where)

    def refused(self, key: str, must: str) -> InputError:
        """Make the error for the value of a key."""
        return InputError(f"{self.where}: {self.path}{key} is {self.values.get(key)!r} and must be {must}")

    def inside(self, key: str) -> Settings:
        """Return the object under a key, an empty one where it is null or missing."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.refused(key, "an object")
        return Settings(value or {}, self.where, f"{self.path}{key}.")

    def choice(self, key: str, known: Iterable[Any], default: Any = None) -> Any:
        """Return a value that must be one of the known ones; null is a value like others.

        Args:
            key: of the value.
            known: the values that are supported.
            default: used where the key is missing.
        """
        listed, value = list(known), self.values.get(key, default)
        if value not in listed:
            names = ", ".join("null" if k is None else str(k) for k in listed)
            raise self.refused(key, f"one that is read here: {names}{nearest(str(value), map(str, listed))}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.refused(key, "true or false")
        return value

    def count(self, key: str, default: int) -> int:
        """Return a whole number above 0."""
        value = self.values.get(key, default)
        if not _counts(value):
            raise self.refused(key, "a whole number above 0")
        return int(value)

    def counts(self, key: str, length: int, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Return a list of whole numbers above 0.

        Args:
            key: of the list.
            length: its length.
            default: used where it is null or missing; None refuses that.
        """
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, (list, tuple)) or len(value) != length or not all(map(_counts, value)):
            raise self.refused(key, f"a list of {length} whole numbers above 0")
        return tuple(value)


def _counts(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
