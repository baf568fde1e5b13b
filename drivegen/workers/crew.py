"""The loop over jobs: who is free gets the next one; what fails is tried again, and set aside after the third time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

TRIES = 3
"""So often a job is tried before it is set aside."""


@dataclass(frozen=True)
class Outcome:
    """What came of a job: its result, or why it failed.

    counts is False where the job was not at fault, as its worker was told to end. trace says where an error was raised.
    """

    result: Any = None
    error: str = ""
    trace: str = ""
    counts: bool = True


class Crew(AbstractContextManager["Crew"], ABC):
    """Workers in numbered places; each place has one job at a time.

    Jobs are JSON values. As a context manager it starts its workers, and ends them: an exception ends them in the middle of
    a job.
    """

    @abstractmethod
    def idle(self) -> Sequence[int]:
        """List the places whose worker has nothing to do."""

    def worker(self, place: int) -> int:
        """Return the number of the worker whose place it is: jobs of one group go to one worker."""
        return place

    @abstractmethod
    def give(self, place: int, job: Any) -> None:
        """Give a job to the worker of an idle place."""

    def beginning(self) -> Sequence[int]:
        """List the places whose worker is not ready yet: a job that was given to it is not in work."""
        return ()

    @abstractmethod
    def wait(self) -> Sequence[tuple[int, Outcome]]:
        """Wait about a second at most; return the places that are done, each with what came of its job.

        Raises InputError or CannotGoOn for what would end every other job too: a full disk, a model that does not load.
        """


def carry_out(
    crew: Crew, jobs: Sequence[Any], group: Callable[[Any], Hashable], stop: Callable[[], bool] = lambda: False
) -> Iterator[tuple[Any, Outcome]]:
    """Yield each job with what came of it, in the order in which they are done.

    A job that fails is tried again by whoever is free next, three times in all, and is then yielded with its error.

    Args:
        crew: who does them; started.
        jobs: what is to be done.
        group: jobs of one group have something in common that is read once, so a worker stays with its group.
        stop: whether no more jobs shall be begun; those in work are finished.
    """
    queue, failed = _Queue(jobs, group), Counter[int]()
    given: dict[int, int] = {}
    while True:
        for place in () if stop() else crew.idle():
            number = queue.take(crew.worker(place))
            if number is None:
                break
            given[place] = number
            crew.give(place, jobs[number])
        if stop():
            given = {place: number for place, number in given.items() if place not in crew.beginning()}
        if not given:
            return
        for place, outcome in crew.wait():
            if place not in given:
                continue
            number = given.pop(place)
            failed[number] += bool(outcome.error) and outcome.counts
            if outcome.error and failed[number] < TRIES:
                queue.put_back(number)
            else:
                yield jobs[number], outcome


class _Queue:
    """Numbers of the jobs that wait, by group."""

    def __init__(self, jobs: Sequence[Any], group: Callable[[Any], Hashable]) -> None:
        self._group = [group(job) for job in jobs]
        self._waiting: dict[Hashable, deque[int]] = {}
        for number, name in enumerate(self._group):
            self._waiting.setdefault(name, deque()).append(number)
        self._at: dict[int, Hashable] = {}

    def take(self, worker: int) -> int | None:
        """Take the next job of the group that a worker is at; else of one where nobody is, else of the one with most left."""
        name = self._at.get(worker)
        if name not in self._waiting:
            if not self._waiting:
                return None
            others = {at for other, at in self._at.items() if other != worker}
            alone = (name for name in self._waiting if name not in others)
            name = next(alone, None) or max(self._waiting, key=lambda name: len(self._waiting[name]))
        self._at[worker] = name
        number = self._waiting[name].popleft()
        if not self._waiting[name]:
            del self._waiting[name]
        return number

    def put_back(self, number: int) -> None:
        """Let a job wait again, behind the others of its group."""
        self._waiting.setdefault(self._group[number], deque()).append(number)
