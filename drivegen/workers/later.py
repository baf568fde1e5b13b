"""The part of a job that needs its worker's networks no longer, so that the next job may begin beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Later:
    """What work returns in place of a result: `finish()` does the rest of the job, in another thread maybe, and returns it."""

    finish: Callable[[], Any]


def finished(result: Any) -> Any:
    """Return a job's result, after the rest of the job where that was left for later."""
    return result.finish() if isinstance(result, Later) else result
