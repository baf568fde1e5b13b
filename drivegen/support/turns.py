"""One thread at a time computes with a network: who comes second waits, and nothing is put in or taken out in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, RLock
from typing import Any
from weakref import WeakKeyDictionary

from drivegen.support.errors import InputError


class _Turn:
    """Whose turn it is at one network, and how many computations of that thread are inside each other."""

    def __init__(self) -> None:
        self.lock, self.depth = RLock(), 0


_TURNS: WeakKeyDictionary[Any, _Turn] = WeakKeyDictionary()
"""By network and not in it, so that copies and pickles of a network have turns of their own."""
_FIND = Lock()


def _turn(network: Any) -> _Turn:
    with _FIND:
        return _TURNS.setdefault(network, _Turn())


@contextmanager
def computing(network: Any) -> Iterator[None]:
    """Hold a network for a computation; other threads wait, and the same thread may compute with it again, in a callback."""
    turn = _turn(network)
    with turn.lock:
        turn.depth += 1
        try:
            yield
        finally:
            turn.depth -= 1


@contextmanager
def changing(network: Any, what: str) -> Iterator[None]:
    """Hold a network to change it; waits for other threads, and raises InputError inside a computation of the same one.

    Args:
        network: whose layers change.
        what: what is done, for the error.
    """
    turn = _turn(network)
    with turn.lock:
        if turn.depth:
            raise InputError(f"cannot {what} while a generation runs, such as in its callback; do it before or after")
        yield
