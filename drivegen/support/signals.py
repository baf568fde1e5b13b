"""SIGTERM and Ctrl-C where something must be cleaned up before the process ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
"""Exit statuses of a process that Ctrl-C or SIGTERM ended: 130 and 143."""

STATUS: dict[int, int] = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}
"""Exit status by signal."""


@contextmanager
def raised_by_sigterm() -> Iterator[None]:
    """Turn SIGTERM into an exception that exits with status 143; an existing handler stays."""

    def stop(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one must not cut short what the first one still lets happen
        raise SystemExit(TERMINATED)

    if not _in_main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def noted_sigterm() -> Iterator[Callable[[], bool]]:
    """Note SIGTERM instead of ending: give a function that tells whether it came, to be asked between two pieces of work."""
    received: list[int] = []
    if not _in_main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield lambda: False
        return
    signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def ignoring_signals() -> Iterator[None]:
    """Ignore SIGTERM and Ctrl-C during a short clean-up."""
    if not _in_main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_main_thread() -> bool:
    """Only there can a handler be set."""
    return threading.current_thread() is threading.main_thread()
