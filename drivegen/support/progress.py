"""Progress: every room reports how far its work is; where reports go is decided here.

On a terminal a progress bar is shown; elsewhere lines of JSON for work of hours, and for all work with
``DRIVEGEN_PROGRESS=json``. A Python caller receives or silences the reports with `report_to`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from drivegen.support.errors import InputError
from drivegen.support.text import printable

T = TypeVar("T")

VARIABLE = "DRIVEGEN_PROGRESS"
"""Environment variable that says where progress goes: auto (the default), json or none."""


@dataclass(frozen=True)
class Progress:
    """How far a task is: `done` of `total` (None = unknown) in `unit`; a note says more, such as the loss.

    per_s is how many were done in a second since the task began here; left_s how many seconds are left at that rate.
    """

    task: str
    done: int
    total: int | None = None
    unit: str = ""
    note: str = ""
    per_s: float | None = None
    left_s: float | None = None


Reporter = Callable[[Progress], None]

_reporter: ContextVar[Reporter | str | None] = ContextVar("reporter", default="auto")


@contextmanager
def report_to(reporter: Reporter | None) -> Iterator[None]:
    """Send the progress of everything in this block to a function; None silences it.

    The function is called in the thread that does the work, at a task's start and after each of its steps; an exception that it
    raises ends the work.
    """
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)


class Advance:
    """Reports the progress of one task."""

    def __init__(self, start: Progress, report: Reporter) -> None:
        self.state, self._report = start, report
        self._began, self._at = time.monotonic(), start.done
        report(start)

    def __call__(self, by: int = 1, *, to: int | None = None, note: str | None = None) -> None:
        """Say that the task is further.

        Args:
            by: steps done since the last call.
            to: steps done in all, in place of `by`.
            note: what to show beside it from now on; None leaves what is there.
        """
        done = self.state.done + by if to is None else to
        took, more = time.monotonic() - self._began, done - self._at
        rate = more / took if took > 0 and more > 0 else None
        left = None if rate is None or self.state.total is None else round(max(self.state.total - done, 0) / rate, 1)
        note = self.state.note if note is None else note
        self.state = replace(self.state, done=done, note=note, per_s=rate and float(f"{rate:.4g}"), left_s=left)
        self._report(self.state)


@contextmanager
def progress(task: str, total: int | None = None, unit: str = "", done: int = 0, lines: bool = False) -> Iterator[Advance]:
    """Report a task: ``with progress("rendering", 8, "frames") as advance: ...; advance()``.

    Args:
        task: what is done, as a word or two.
        total: number of steps; None where it is unknown.
        unit: what a step is, in the plural.
        done: steps done earlier, in a resumed run.
        lines: work of hours: without a terminal it is reported by lines of JSON, unless DRIVEGEN_PROGRESS says otherwise.
    """
    start = Progress(printable(task), done, total, unit)
    chosen = _reporter.get()
    if chosen is None or callable(chosen):
        yield Advance(start, chosen or _nobody)
        return
    where = _where(lines)
    if where == "bar":
        with _bars.shown(start) as report:
            yield Advance(start, report)
    else:
        yield Advance(start, _JsonLines() if where == "json" else _nobody)


def track(items: Iterable[T], task: str, total: int | None = None, unit: str = "", lines: bool = False) -> Iterator[T]:
    """Yield items, and report how many the caller has processed.

    Args:
        items: any iterable.
        task: what is done, as a word or two.
        total: number of items; None takes their length, where they have one.
        unit: what an item is, in the plural.
        lines: as of `progress`.
    """
    count = len(items) if total is None and isinstance(items, Sized) else total
    with progress(task, count, unit, lines=lines) as advance:
        for item in items:
            yield item
            advance()


def is_shown() -> bool:
    """Tell whether progress is reported anywhere; if so, log lines are not needed."""
    chosen = _reporter.get()
    return callable(chosen) or (chosen is not None and _where() != "none")


def _where(lines: bool = False) -> str:
    """Choose among bar, json and none."""
    asked = os.environ.get(VARIABLE) or "auto"
    if asked not in ("auto", "json", "none"):
        raise InputError(f"the environment variable {VARIABLE} is {asked!r}; it may be auto, json or none")
    if asked != "auto":
        return asked
    return "bar" if sys.stderr is not None and sys.stderr.isatty() else "json" if lines else "none"


def _nobody(state: Progress) -> None:
    """Drop a report."""


class _JsonLines:
    """Writes a line of JSON to standard error at a task's start and end, and at most one per second between."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, state: Progress) -> None:
        now = time.monotonic()
        if now >= self._next or state.done == state.total:
            print(json.dumps(asdict(state), ensure_ascii=True), file=sys.stderr, flush=True)
            self._next = now + 1


class _Bars:
    """The bars of this process: tasks within tasks share one display, since a terminal can hold one."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._display: Any = None
        self._tasks = 0

    @contextmanager
    def shown(self, start: Progress) -> Iterator[Reporter]:
        """Show a task while the block runs."""
        with self._lock:
            if self._display is None:
                self._display = _display()
                self._display.start()
            self._tasks += 1
            display = self._display
            task = display.add_task(start.task, total=start.total, completed=start.done, unit=start.unit, note="", rate="")

        def report(state: Progress) -> None:
            rate = "" if state.per_s is None else f"{state.per_s:.3g}/s"
            display.update(task, completed=state.done, note=printable(state.note), unit=state.unit, rate=rate)

        try:
            yield report
        finally:
            with self._lock:
                display.remove_task(task)
                self._tasks -= 1
                if not self._tasks:
                    display.stop()
                    self._display = None


_bars = _Bars()


def _display() -> Any:
    """Make rich's display; its parts take a file's words as words, not as markup."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}", markup=False), TextColumn("{task.fields[note]}", markup=False),
        TextColumn("{task.fields[rate]}", markup=False), TimeElapsedColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
