"""What the workers of the tests do: it is found by name in their processes."""

from __future__ import annotations

import errno
import os
import signal
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from drivegen.support.errors import InputError
from drivegen.support.files import write_atomically
from drivegen.workers import Later

SLEEP_S = 60.0
PREPARED: list[bool] = []


def prepare() -> None:
    PREPARED.append(True)


def begin(given: Mapping[str, Any]) -> Callable[[Any, Callable[[], None]], Any]:
    """Return what squares numbers; a job may ask for trouble, each time or the first."""
    if given.get("broken"):
        raise InputError("no such model")
    if given.get("dies"):
        os._exit(9)
    time.sleep(given.get("slow_s", 0))
    print("a library says something")
    return lambda job, beat: work(Path(given["folder"]), job, beat)


def work(folder: Path, job: Mapping[str, Any], beat: Callable[[], None]) -> Any:
    mark = folder / f"begun-{job['n']}"
    first = not mark.exists()
    mark.touch()
    if job.get("once") and not first:
        job = {"n": job["n"]}
    match job.get("trouble"):
        case "raise":
            raise KeyError("broken")
        case "refuse":
            raise InputError("bad frame")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "term":
            os.kill(os.getpid(), signal.SIGTERM)
        case "hang":
            time.sleep(SLEEP_S)
        case "beat":
            for _ in range(12):  # longer than the lease in all
                time.sleep(0.4)
                beat()
        case "warn":
            warnings.warn("half of it is cut off", UserWarning, stacklevel=1)
        case "full":
            raise_full()
    result = {"n": job["n"], "square": job["n"] ** 2, "process": os.getpid(), "prepared": bool(PREPARED)}
    return Later(lambda: result) if job.get("later") else result


def raise_full() -> None:
    def full(*given: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.fsync = full  # type: ignore[assignment]
    write_atomically(Path("/tmp") / f".drivegen-test-{os.getpid()}", b"x")
