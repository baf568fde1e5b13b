"""The plain case: jobs are done in this process, and what one leaves for later is done beside the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from drivegen.support.background import Background
from drivegen.workers.crew import Crew, Outcome
from drivegen.workers.failure import described, raise_for_all
from drivegen.workers.later import Later


class Here(Crew):
    """One worker, in this process: `work(job, beat)` is called while the crew is waited for.

    It has two places, so that a job can be begun while another, whose work returned `Later`, is finished in a thread.
    """

    def __init__(self, work: Callable[[Any, Callable[[], None]], Any]) -> None:
        self._work, self._background = work, Background()
        self._given: list[tuple[int, Any]] = []
        self._finishing: int | None = None

    def idle(self) -> Sequence[int]:
        """List a place, unless a job waits."""
        return () if self._given else (1 if self._finishing == 0 else 0,)

    def worker(self, place: int) -> int:
        """Both places are one worker's."""
        return 0

    def give(self, place: int, job: Any) -> None:
        """Keep the job until `wait`."""
        self._given.append((place, job))

    def wait(self) -> Sequence[tuple[int, Outcome]]:
        """Do the job, then see to the one before it being finished; without a job, that alone."""
        if not self._given:
            return self._finished()
        place, job = self._given.pop()
        outcome = _outcome(partial(self._work, job, lambda: None))
        done = self._finished()
        if not isinstance(outcome.result, Later):
            return [*done, (place, outcome)]
        self._finishing = place
        self._background.do(partial(_outcome, outcome.result.finish))
        return done

    def _finished(self) -> list[tuple[int, Outcome]]:
        place, self._finishing = self._finishing, None
        return [] if place is None else [(place, self._background.wait())]

    def __exit__(self, *error: object) -> None:
        self._given.clear()
        self._background.__exit__(*error)


def _outcome(work: Callable[[], Any]) -> Outcome:
    """Do a part of a job; raises CannotWrite for what would end every other job too."""
    try:
        return Outcome(work())
    except Exception as error:  # of the job, whatever it is: the others go on
        told = described(error)
        raise_for_all(told)
        return Outcome(error=told["error"], trace=told["trace"])
