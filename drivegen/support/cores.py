"""How many processor cores this process may compute on: those that it is bound to, or fewer where a container has a quota."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def bound() -> int:
    """Return the number of cores that this process is bound to."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores() -> int:
    """Return the number of cores that this process may use: one or more, and a begun one counts."""
    return max(1, min([bound(), *(math.ceil(share) for share in _quotas())]))


def limit_threads() -> None:
    """Let libraries begin no more threads than there are cores, where a quota leaves fewer than they would count.

    They count cores, and know nothing of a container's quota; threads beyond it wait for each other. `OMP_NUM_THREADS` is read
    when torch is imported, and goes first where it is set.
    """
    if "OMP_NUM_THREADS" not in os.environ and cores() < bound():
        os.environ["OMP_NUM_THREADS"] = str(cores())


def _quotas() -> Iterator[float]:
    """Yield the quotas, in cores, of this process's control group and of those that it is in (versions 2 and 1)."""
    group = next((line[3:] for line in _read(_OWN).splitlines() if line.startswith("0::")), "/").strip("/")
    own = _GROUPS / group
    places = [own, *(parent for parent in own.parents if parent.is_relative_to(_GROUPS)), _GROUPS]
    found = [_read(place / "cpu.max").split() for place in dict.fromkeys(places)]
    found.append([_read(_GROUPS / "cpu" / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")])
    for pair in found:
        if len(pair) == 2 and all(number.isdecimal() and int(number) for number in pair):  # "max" and -1 are none
            yield int(pair[0]) / int(pair[1])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
