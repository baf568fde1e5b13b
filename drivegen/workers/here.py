"""The plain case: jobs are done in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from drivegen.workers.crew import Crew, Outcome
from drivegen.workers.failure import described, raise_for_all


class Here(Crew):
    """One place, in this process: `work(job, beat)` is called while the crew is waited for."""

    def __init__(self, work: Callable[[Any, Callable[[], None]], Any]) -> None:
        self._work = work
        self._jobs: list[Any] = []

    def idle(self) -> Sequence[int]:
        """List the place, unless it has a job."""
        return () if self._jobs else (0,)

    def give(self, place: int, job: Any) -> None:
        """Keep the job until `wait`."""
        self._jobs.append(job)

    def wait(self) -> Sequence[tuple[int, Outcome]]:
        """Do the job."""
        job = self._jobs.pop()
        try:
            return [(0, Outcome(self._work(job, lambda: None)))]
        except Exception as error:  # of the job, whatever it is: the others go on
            told = described(error)
            raise_for_all(told)
            return [(0, Outcome(error=told["error"], trace=told["trace"]))]

    def __exit__(self, *error: object) -> None:
        self._jobs.clear()
