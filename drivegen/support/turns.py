"""One thread at a time computes with a network: a second one waits, and no layer is added or removed meanwhile."""

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
    """Hold a network while its layers change; waits for other threads.

    Args:
        network: the network.
        what: what is done, for the error.

    Raises InputError inside a computation of the same thread.
    """
    turn = _turn(network)
    with turn.lock:
        _refuse(turn.depth, what)
        yield


def unchanged_inside(network: Any, what: str) -> None:
    """Raise InputError where a computation that holds a network runs inside another one, for which it must not be changed.

    Args:
        network: which the present thread holds.
        what: what would be done, for the error.
    """
    _refuse(_turn(network).depth - 1, what)


def _refuse(depth: int, what: str) -> None:
    if depth:
        raise InputError(f"cannot {what} while a generation runs, such as in its callback; do it before or after")
