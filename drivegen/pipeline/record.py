"""What is written down of an option's value: JSON values as they are, and of the rest what says that it is the same."""

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
    """Name what something was given to."""
    return tuple(value or ())


def present(value: Any) -> str:
    """Say whether something was given that only Python holds."""
    return "" if value is None else value if isinstance(value, str) else "given"


def described(value: Any) -> str:
    """Let something describe itself."""
    return "" if value is None else str(value)


def function(value: Any) -> str:
    """Name a function."""
    return "" if value is None else str(getattr(value, "__qualname__", type(value).__qualname__))
