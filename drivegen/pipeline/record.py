"""How an option's value is recorded: JSON values as they are, others by a description that identifies them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any


def plain(value: Any) -> Any:
    """Return JSON values: mappings as objects, sequences as lists, paths as texts."""
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, PurePath) else value


def same(value: Any) -> Any:
    """Return a value as it is."""
    return value


def names(value: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the names of a mapping."""
    return tuple(value or ())


def mask(value: Any) -> str:
    """Name the cameras or boxes of a mask."""
    if value is None or isinstance(value, str):
        return value or ""
    return ", ".join(str(getattr(one, "instance", "") or one) for one in value)


def present(value: Any) -> str:
    """Say whether a value was given that only Python can hold."""
    return "" if value is None else value if isinstance(value, str) else "given"


def described(value: Any) -> str:
    """Describe a value by its own text."""
    return "" if value is None else str(value)


def function(value: Any) -> str:
    """Name a function."""
    return "" if value is None else str(getattr(value, "__qualname__", type(value).__qualname__))
