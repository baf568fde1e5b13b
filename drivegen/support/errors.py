"""The error that a user's input raises, and those of work that cannot continue."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from drivegen.support.text import printable


class InputError(ValueError):
    """Bad input: the message says what, where, which value and what to do; the command line exits with status 2.

    Messages quote values from files, so control characters are escaped here, for every message.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)))


class CannotWrite(InputError):
    """A file or folder that cannot be written, as the disk is full or may not be written to: other files would fare alike."""


class CannotGoOn(RuntimeError):
    """Work that cannot continue for a reason outside its input; the message is one sentence, and the exit status 1."""

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)))


class Diverged(CannotGoOn):
    """The loss or the gradient is NaN or infinite: the message names step and samples; the command line exits with status 1."""


def at_least(least: float, **values: float | Sequence[float] | None) -> None:
    """Raise InputError for the first named value below a bound; a sequence is checked item by item, and None passes."""
    for name, value in values.items():
        each = value if isinstance(value, Sequence) else () if value is None else (value,)
        if not all(number >= least for number in each):
            raise InputError(f"{name} = {value} is out of range; allowed: >= {least:g}")


def nearest(name: object, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest known name; an empty string where none is close, or name is no text."""
    close = difflib.get_close_matches(name, list(known), n=1) if isinstance(name, str) else []
    return f" (did you mean '{close[0]}'?)" if close else ""


def reason(error: Exception) -> str:
    """Describe an error of another library on one line: its class and the first line of its message."""
    said = str(error).strip()
    return f"{type(error).__name__}: {said.splitlines()[0][:200] if said else 'no reason given'}"
