"""Work beside the caller's: one piece at a time, in a thread of its own, while the caller goes on with the next."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from typing import Any


class Background:
    """Does pieces of work in the order in which they are given; there is never more than one that is not done.

    What a piece raises is raised by the next `do` or `wait`. As a context manager it waits for the last piece, also where an
    exception, Ctrl-C among them, ends the block: nothing is left half-done, and that exception is the one that goes on.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "background")
        self._last: Future[Any] | None = None

    def __enter__(self) -> Background:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        try:
            with nullcontext() if kind is None else suppress(Exception):
                self.wait()
        finally:
            self._thread.shutdown()

    def do(self, work: Callable[[], Any]) -> Any:
        """Begin a piece when the one before is done, and return that one's result; None where there was none."""
        before = self.wait()
        self._last = self._thread.submit(work)
        return before

    def wait(self) -> Any:
        """Wait for the piece in work, and return its result; None where there is none."""
        last, self._last = self._last, None
        return None if last is None else last.result()
