"""Checks of values that a caller passes in Python: numpy's numbers count as numbers; a wrong type is refused by name."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from drivegen.support.errors import InputError

LONGEST_SIDE = 8192
"""Pixels of a picture that is generated; a typing error beyond it would keep the machine busy without an answer."""


def number(value: Any, what: str, least: float = -math.inf, most: float = math.inf, of: str = "") -> float:
    """Return a finite number, given as one of Python, numpy or a tensor without dimensions; raises InputError for anything
    else.

    Args:
        value: what the caller passed.
        what: its name in the error.
        least: smallest allowed value.
        most: greatest allowed value.
        of: the plugin that the value belongs to, for the error; "" for none.
    """
    found = _scalar(value)
    if _is(found, Real) and least <= found <= most and abs(found) < sys.float_info.max:
        return float(found)
    kind = "finite number" if isinstance(found, float) and not math.isfinite(found) else "number"
    raise InputError(f"{what} {value!r:.80}{f' of {of!r}' if of else ''} must be a {kind}{_bounds(least, most)}")


def whole(value: Any, what: str, least: float = -math.inf, most: float = math.inf) -> int:
    """Return a whole number, given as one of Python, numpy or a tensor without dimensions; raises InputError for anything else.

    Args:
        value: what the caller passed.
        what: its name in the error.
        least: smallest allowed value.
        most: greatest allowed value.
    """
    found = _scalar(value)
    if _is(found, Integral) and least <= found <= most:
        return int(found)
    raise InputError(f"{what} {value!r:.80} must be a whole number{_bounds(least, most)}")


def text(value: Any, what: str) -> str:
    """Return a text; raises InputError for anything else."""
    if not isinstance(value, str):
        raise InputError(f"{what} {value!r:.80} must be a text, not {type(value).__name__}")
    return str(value)


def yes_or_no(value: Any, what: str) -> bool:
    """Return True or False; raises InputError for anything else."""
    found = _scalar(value)
    if not isinstance(found, bool):
        raise InputError(f"{what} {value!r:.80} must be True or False")
    return found


def file_path(value: Any, what: str) -> Path:
    """Return a path of a text or path-like value, with ~ as the user's folder; raises InputError for anything else."""
    if not isinstance(value, (str, os.PathLike)) or not isinstance(found := os.fspath(value), str) or not found.strip():
        raise InputError(f"{what} {value!r:.80} must be a path, as text or pathlib.Path, not {_kind(value)}")
    if "\0" in found:
        raise InputError(f"{what} {value!r:.80} cannot be a path: it holds a zero byte")
    return Path(found).expanduser()


def sequence(value: Any, what: str, of: str) -> list[Any]:
    """Return the items of a list, a tuple or an array of one dimension; raises InputError for anything else, texts included.

    Args:
        value: what the caller passed.
        what: its name in the error.
        of: what the items should be, for the error.
    """
    if getattr(value, "ndim", None) == 1 and hasattr(value, "tolist"):
        return list(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray)):
        return list(value)
    raise InputError(f"{what} {value!r:.80} must be a list of {of}, not {type(value).__name__}")


def fractions(value: Any, what: str) -> tuple[float, float]:
    """Return (start, end), fractions of the steps; raises InputError unless 0 <= start < end <= 1.

    Args:
        value: what the caller passed.
        what: its name in the error.
    """
    ends = sequence(value, what, "two numbers, (start, end)")
    if len(ends) != 2:
        raise InputError(f"{what} {value!r:.80} must be two numbers, (start, end)")
    start, end = number(ends[0], f"start of {what}"), number(ends[1], f"end of {what}")
    if not 0 <= start < end <= 1:
        raise InputError(f"{what} {start:g} to {end:g} must be fractions of the steps with 0 <= start < end <= 1")
    return start, end


def by_name(value: Any, what: str, of: str) -> dict[str, Any]:
    """Return a mapping from names to values as a dict; raises InputError for anything else, and for a key that is no text.

    Args:
        value: what the caller passed.
        what: its name in the error.
        of: what the values should be, for the error.
    """
    if not isinstance(value, Mapping):
        raise InputError(f"{what} {value!r:.80} must give {of} by name, such as {{'name': …}}, not {type(value).__name__}")
    for name in value:
        text(name, f"{what}: the name")
    return dict(value)


def _is(value: Any, kind: type) -> bool:
    """Tell whether a value is of a kind of numbers; True and False are none here."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    return "an empty text" if isinstance(value, str) else type(value).__name__


def _scalar(value: Any) -> Any:
    """Take numpy's scalars, and arrays and tensors without dimensions, for Python's numbers."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return value.item()
    return value


def _bounds(least: float, most: float) -> str:
    if math.isinf(most):
        return "" if math.isinf(least) else f" of {least:g} or above"
    return f" from {int(least) if float(least).is_integer() else least} to {int(most) if float(most).is_integer() else most}"
