"""Errors between processes: what a worker says of one, and what it means for the other jobs."""

from __future__ import annotations

import traceback
from typing import Any

from drivegen.support.errors import CannotGoOn, CannotWrite, InputError


def described(error: Exception) -> dict[str, str]:
    """Describe an error as JSON values."""
    kind = "disk" if isinstance(error, CannotWrite) else "input" if isinstance(error, InputError) else "other"
    said = " ".join(str(error).split())
    message = said if kind != "other" else f"{type(error).__name__}: {said}" if said else type(error).__name__
    return {"kind": kind, "error": message, "trace": "" if kind != "other" else "".join(traceback.format_exception(error))}


def raise_for_all(told: dict[str, Any]) -> None:
    """Raise CannotWrite where a disk is full or read-only, which other jobs would meet too."""
    if told["kind"] == "disk":
        raise CannotWrite(told["error"])


def cannot_begin(told: dict[str, Any]) -> Exception:
    """Return the error of a worker that could not begin."""
    raise_for_all(told)
    if told["kind"] == "input":
        return InputError(told["error"])
    return CannotGoOn(f"a worker could not begin: {told['error']}\n{told['trace']}")
